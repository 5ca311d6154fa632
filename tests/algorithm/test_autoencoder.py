"""An autoencoder of one's own learns to keep images, the same for the same seed, and goes on."""

import pytest
import torch
from tests.reference.tiny import Stopped, images_of, stopping

from gppdm_pipeline.algorithm.autoencoder import OwnAutoencoder, fit_autoencoder
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder

IMAGES = images_of(0, 1).images
SETTINGS = OwnAutoencoder(8, 1, 4, 40, 8, 5e-3)


def test_it_learns_and_a_stop_changes_nothing(tmp_path):
    network, log = fit_autoencoder(IMAGES, SETTINGS, Context(0, 1))
    curve = [value for _, value in log.curves["reconstruction_loss"]]
    assert curve[-1] < 0.5 * curve[0]
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 127.5 - 1
    latents = network.encode(x).latents
    assert latents.shape == (12, 4, 4, 4)
    assert network.decode(latents).sample.sub(x).square().mean() < x.var()
    folder = CheckpointFolder(tmp_path, "key", every=0)
    place, stopped = stopping(folder, after=7)
    with pytest.raises(Stopped):
        fit_autoencoder(IMAGES, SETTINGS, Context(0, 1, checkpoints=place))
    assert stopped
    again, _ = fit_autoencoder(IMAGES, SETTINGS, Context(0, 1, checkpoints=folder))
    other, _ = fit_autoencoder(IMAGES, SETTINGS, Context(1, 1))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(*(n.state_dict()["encoder.layers.0.weight"] for n in (network, other)))
