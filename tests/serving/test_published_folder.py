"""The folder that others read."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from tests.reference.tiny import CLASSIFIER, gppdm, images_of, learn

import gppdm_pipeline
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.states import save_state
from gppdm_pipeline.methods import Method
from gppdm_pipeline.serving import onnx_file
from gppdm_pipeline.serving.published_folder import (
    FolderError,
    check_folder,
    generator_pipeline,
    write_folder,
)
from gppdm_pipeline.serving.trained import Learned

NAMES = ("cat", "dog", "bag")
CALIBRATION = {
    "temperature": 2.0,
    "threshold": None,
    "fitted_on": "validation",
    "calibration_error_after": 0.01,
    "unseen_auroc": None,
}
TOLD = {"run": "digits/gppdm/seed_3", "state": "task_02", "validation_accuracy": 0.5}
VARIANTS = {
    "four bits": {"memory": "adapters", "adapters": {"rank": "full", "bits": 4}},
    "adapters": {"memory": "adapters", "replay": {"images_per_class": 34, "batch_size": 33}},
    "guided": {
        "denoiser": {"label_dropout": 0.5},
        "replay": {"guidance": 1.5, "sampler_steps": 3},
        "prototypes": {"route": "tokens", "token_side": 4},
    },
    "guided in an interval": {
        "denoiser": {"label_dropout": 0.5, "prediction": "epsilon", "patch": 2},
        "replay": {"guidance": 1.5, "guidance_interval": [0.5, 5.0], "batch_size": 33},
        "condition": {"null_keeps_prototype": True},
    },
    "the sampler of presets": {"replay": {"sampler_steps": 9, "sigma_max": 40.0}},
    "from Gaussians, an adapter a task": {
        "memory": "adapters",
        "replay": {"gaussians": 0.2, "images_per_class": 34, "batch_size": 33},
    },
    "from Gaussians": {"replay": {"gaussians": 0.2, "batch_size": 33}},
    "turned tokens, with and without a label": {
        "denoiser": {"label_dropout": 0.5},
        "replay": {"guidance": 1.5, "sampler_steps": 3},
        "prototypes": {"route": "tokens", "tokens": "turned"},
        "condition": {"null_keeps_prototype": True},
    },
    "no prototypes": {"prototypes": {"route": "none"}},
}


def learned_by(method, folder):
    state = learn(method, [(2, 0), (1,)])[2]
    values = method.model_dump(mode="json")
    record = {
        "method": values.pop("name"),
        "classifier": values.pop("classifier"),
        method.name: values,
        "seed": 3,
        "classes": list(NAMES),
        "stream": {"source": {}},
    }
    save_state(state, folder, record)
    return Learned.read(folder)


@contextmanager
def two_threads():
    """A batch is drawn in two parts. Learning with them would wait for busy processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return learned_by(gppdm(), tmp_path_factory.mktemp("plain") / "state")


@pytest.fixture(autouse=True)
def modules(tmp_path_factory, monkeypatch):
    """Without ONNX, which takes seconds; and where diffusers copies code to before it runs it."""
    monkeypatch.setattr(onnx_file, "PACKAGES", ("no_such_package",))
    tmp_path = tmp_path_factory.mktemp("modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.path", [*sys.path])


def read(folder):
    pipeline = DiffusionPipeline.from_pretrained(
        folder,
        custom_pipeline=str(folder),
        trust_remote_code=True,
        low_cpu_mem_usage=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", VARIANTS)
def test_it_draws_the_same_bits(name, tmp_path):
    learned = learned_by(gppdm(**VARIANTS[name]), tmp_path / "state")
    folder = tmp_path / "folder"
    made = write_folder(folder, learned, CALIBRATION, images_of(0).images, TOLD)
    assert made == {"folder": str(folder), "diffusers": True, "onnx_difference": None}
    pipeline = read(folder)
    assert type(pipeline) is not gppdm_pipeline.GppdmPipeline  # the folder's own code
    for seed in (3, 4):
        given = {} if seed == 3 else {"seed": seed}  # the run's
        asked = {"classes": ["dog", "bag"], "num_images_per_class": 16}
        with two_threads():
            expected = learned.learner.draw(learned.state, [1, 2], 16, Context(seed, 3))
            drawn = pipeline(**asked, **given).images
        assert np.array_equal([*map(np.asarray, drawn)], expected.images[..., 0])
        assert expected.images.std() > 10  # there is something to differ in


def test_images_and_what_cannot_be_drawn(plain):
    pipeline = generator_pipeline(plain)
    assert isinstance(pipeline, gppdm_pipeline.GppdmPipeline)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline().images
    assert [(image.size, image.mode) for image in images] == [((8, 8), "L")] * 3
    assert all(isinstance(image, Image.Image) for image in images)
    assert pipeline.classes == ["cat", "bag", "dog"]
    with pytest.raises(
        ValueError,
        match=r"classes \['fox'\] are unknown; give 1 image at least, of classes among \['cat'",
    ):
        pipeline(classes=["fox"])
    with pytest.raises(ValueError, match="0 images are asked for; give 1 image"):
        pipeline(num_images_per_class=0)


@pytest.mark.slow
def test_the_pipelines_code_needs_nothing_of_the_project(tmp_path):
    """Nor accelerate, of which it says no word."""
    learned = learned_by(gppdm(memory="adapters"), tmp_path / "state")
    folder = tmp_path / "folder"
    write_folder(folder, learned, CALIBRATION, images_of(0).images, TOLD)
    script = f"""
import sys
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(
    {str(folder)!r},
    custom_pipeline={str(folder)!r},
    trust_remote_code=True,
    low_cpu_mem_usage=False,
)
pipeline.set_progress_bar_config(disable=True)
pipeline(classes=["dog"]).images[0].save({str(tmp_path / "dog.png")!r})
assert not any(name.startswith("gppdm") for name in sys.modules)
"""
    environment = {"HF_HOME": str(tmp_path / "hub"), "PATH": "", "OMP_NUM_THREADS": "1"}
    command, options = [sys.executable, "-c", script], {"capture_output": True, "text": True}
    told = subprocess.run(command, check=True, cwd=tmp_path, env=environment, **options)
    assert "accelerate" not in told.stdout + told.stderr
    expected = learned.learner.draw(learned.state, [1], 1, Context(3, 3)).images[0, ..., 0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "dog.png")), expected)


def test_the_card_says_what_is_there(plain, tmp_path):
    write_folder(tmp_path / "folder", plain, CALIBRATION, images_of(0).images, TOLD)
    card = ModelCard.load(tmp_path / "folder/README.md")
    assert card.data.license == "unknown"
    assert card.data.eval_results[0].metric_value == 0.5
    for text in (
        "Licence: fill in",
        "| 1 | cat, bag |",
        "| accuracy on validation images | 50.0 %",
    ):
        assert text in card.content
    assert "classifier.onnx" not in card.content
    assert json.loads((tmp_path / "folder/model_index.json").read_text())["settings"]["seed"] == 3


def test_nothing_else_is_replaced(plain, tmp_path):
    method, folder = plain.learner, tmp_path / "folder"
    for _ in range(2):  # an earlier publication is
        check_folder(folder, method)
        write_folder(folder, plain, CALIBRATION, images_of(0).images, TOLD)
    (folder / "thesis.tex").touch()
    with pytest.raises(FolderError, match=r"it holds thesis\.tex, which a publication"):
        check_folder(folder, method)
    with pytest.raises(FolderError, match="it is a file"):
        check_folder(folder / "thesis.tex", method)
    finetune = Method.model_validate({"name": "finetune", "classifier": CLASSIFIER})
    with pytest.raises(FolderError, match="finetune has no generator that diffusers could draw"):
        check_folder(tmp_path / "other", finetune)


def test_what_is_stopped_leaves_the_earlier_folder(plain, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    write_folder(folder, plain, CALIBRATION, images_of(0).images, TOLD)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gppdm_pipeline.serving.published_folder.model_card", stop)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, plain, CALIBRATION, images_of(0).images, TOLD)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
