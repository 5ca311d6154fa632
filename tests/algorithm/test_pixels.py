import numpy as np
import torch

from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.fitting import batches as module
from gppdm_pipeline.algorithm.fitting.batches import (
    Pixels,
    balanced_indices,
    to_unit_range,
)


def test_range_and_order_of_axes():
    images = np.zeros((2, 3, 4, 1), np.uint8)
    images[1, 2, 3, 0] = 255
    tensor = to_unit_range(images, CPU)
    assert tensor.shape == (2, 1, 3, 4)
    assert tensor.dtype == torch.float32
    assert tensor[1, 0, 2, 3] == 1
    assert tensor.sum() == 1 - 23


def test_a_batch_is_made_when_it_is_drawn(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 3, 2), np.uint8)
    pixels, batch = Pixels(images, CPU), torch.tensor([6, 0, 0, 3])
    assert len(pixels) == 7
    assert torch.equal(pixels[batch], to_unit_range(images, CPU)[batch])
    images[0] = 255  # nothing was copied
    assert (pixels[batch][1] == 1).all()
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert torch.equal(Pixels(mapped, CPU)[batch], pixels[batch])


def test_another_device_has_bytes_of_its_own(monkeypatch):
    monkeypatch.setattr(module, "_COPIED", 3)
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 3, 2), np.uint8)
    images.flags.writeable = False
    pixels = Pixels(images, torch.device("meta"))
    assert pixels[torch.tensor([6, 0], device="meta")].shape == (2, 2, 4, 3)


def test_every_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    back = ((to_unit_range(levels, CPU) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back.permute(0, 2, 3, 1), levels)


def test_classes_are_drawn_equally_often():
    labels = torch.tensor([3] * 2 + [0] * 100 + [2] * 30)[torch.randperm(132)]  # no class 1
    generator = torch.Generator().manual_seed(0)
    index = balanced_indices(labels, steps=300, batch_size=100, generator=generator)
    assert index.shape == (300, 100)
    assert index.dtype == torch.int64
    drawn = labels[index].flatten().bincount(minlength=4)
    deviation = (30_000 * 1 / 3 * 2 / 3) ** 0.5
    assert drawn[1] == 0
    assert (drawn[[0, 2, 3]] - 10_000).abs().max() < 4 * deviation
    times = index.flatten().bincount(minlength=132)
    for label, count in ((3, 2), (0, 100), (2, 30)):
        of_class = times[labels == label].double()
        assert (of_class - 10_000 / count).abs().max() < 5 * (10_000 / count) ** 0.5
    assert (labels[index] == 0).double().mean(dim=1).std() > 0.03  # drawn in every batch anew
