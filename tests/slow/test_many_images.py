"""Many images through `predict`: what it costs beside the network's own loop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from measuring import compared, interleaved, timed
from PIL import Image

from gppdm_pipeline.algorithm.classifier.network import SmallConvNet
from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.catalog.predictions import PredictionsDataset
from gppdm_pipeline.serving.classify import Rows
from gppdm_pipeline.serving.predictor import BATCH, Predictor
from gppdm_pipeline.streams.conversion import Conversion
from gppdm_pipeline.streams.unlabelled import unlabelled

CLASSES = 10
BARE, NPZ, FILES = "bare network", "predict from .npz", "predict from PNG files"


def predictor_of(shape, width):
    """A classifier that was never trained: it costs what a trained one does."""
    network = SmallConvNet(shape, width, CLASSES)
    config = {"image_shape": list(shape), "width": width, "classes": CLASSES}
    state = LearnerState(
        tasks=(tuple(range(CLASSES)),),
        image_shape=shape,
        classifier=Weights(config, network.state_dict()),
    )
    return Predictor(state, [f"class {k}" for k in range(CLASSES)], Conversion())


@torch.no_grad()
def bare(predictor, images):
    """The network's loop."""
    for start in range(0, len(images), BATCH):
        predictor.network(to_unit_range(images[start : start + BATCH], CPU))


def predicted(predictor, images, folder):
    """Rows on disk."""
    file = folder / "predictions.csv"
    PredictionsDataset(filepath=str(file)).save(Rows(predictor, unlabelled(images)))


def throughput(predictor, block, turns, folder):
    """By variant, as `measuring.compared`; a speed of 0.9 is 90 % of the bare network's."""
    shape = (block, *predictor.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(folder / "block.npz", images=images)
    files = folder / "files"
    files.mkdir(exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(files / f"{number:06}.png")

    def of(source):
        return lambda: timed(lambda: predicted(predictor, source, folder), CPU)

    variants = {
        BARE: lambda: timed(lambda: bare(predictor, images), CPU),
        NPZ: of(folder / "block.npz"),
        FILES: of(files),
    }
    return compared(interleaved(variants, turns), BARE, CPU)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_network_takes_nine_tenths_of_the_time(tmp_path):
    """By CPU seconds, which others do not lengthen; files are decoded beside the network."""
    found = throughput(predictor_of((64, 64, 3), 32), 512, 3, tmp_path)
    print(json.dumps(found, indent=2))
    assert found[BARE]["speed"] == 1
    assert found[NPZ]["speed"] >= 0.9
    assert max(found[FILES]["speed"], found[FILES]["speed_by_the_clock"]) >= 0.9
