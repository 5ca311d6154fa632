"""`retention: release`: real images go, nothing that is still needed does, and no bit changes."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kedro.runner import SequentialRunner
from matplotlib import image as pictures
from safetensors.numpy import load as load_tensors
from tests.pipelines.test_releasing import RELEASE, stop_at_release
from tests.pipelines.test_stop_and_go_on import result, stop_at_offer
from tests.reference.runs import TINY, contents, outputs, refused, run
from tests.reference.tiny import Stopped, images_of

from gppdm_pipeline.catalog.project import ProjectFiles
from gppdm_pipeline.catalog.retention import Retention
from gppdm_pipeline.evaluation.captions import CAPTIONS
from gppdm_pipeline.pipelines.audit.nodes import search
from gppdm_pipeline.run.session import Session

pytestmark = [pytest.mark.usefixtures("project"), pytest.mark.pictures]

COLOUR = (254, 1, 203)  # half of every marked image
MARKED = 20
AUDIT = "data/08_reporting/digits/gppdm/seed_0/audit.html"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Noise in colour of four classes; of each, five training and five test images are marked."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, of_each in (("train", 12), ("test", 8)):
        images = rng.integers(0, 256, (4 * of_each, 8, 8, 3), np.uint8)
        labels = np.repeat(np.arange(4), of_each)
        for label in range(4):
            images[np.flatnonzero(labels == label)[:5], :, :4] = COLOUR
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    assert len(marked(arrays, "train")) == MARKED
    file = tmp_path_factory.mktemp("theirs") / "images.npz"
    np.savez(file, **arrays)
    return file, arrays


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    """In the project, as by default."""
    monkeypatch.delenv("GPPDM_CACHE", raising=False)


def stream_of(file):
    reader = {"reader": "npz", "file": str(file), "class_names": ["a", "b", "c", "d"]}
    return {"source": reader, "classes_per_task": 2}


def marked(arrays, split):
    images = arrays[f"{split}_images"]
    return images[(images[:, :, :4] == COLOUR).all((1, 2, 3))]


def unpacked(name, content):
    """A file and all that is packed in it: as (name, bytes)."""
    yield name, content
    if name.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from unpacked(f"{name}/{member}", archive.read(member))
    for uri in re.findall(rb"data:image/([a-z+]+);base64,\s*([A-Za-z0-9+/=\s]+)", content):
        kind = {b"png": "png", b"svg+xml": "svg"}[uri[0]]
        yield from unpacked(f"{name}/.{kind}", base64.b64decode(uri[1]))


def arrays_of(name, content):
    if name.endswith(".npy"):
        yield np.load(io.BytesIO(content))
    if name.endswith(".safetensors"):
        for tensor in load_tensors(content).values():
            yield tensor
            if tensor.ndim == 3:  # an image in [-1, 1]
                yield np.moveaxis((tensor[np.newaxis] + 1) * 127.5, 1, -1)


def holding(folder, images):
    """Which files below `folder` have one of `images` in them: its bytes, a near copy, or a
    picture of it."""
    found = set()
    for file, content in contents(folder).items():
        for name, part in unpacked(file, content):
            if any(image.tobytes() in part for image in images):
                found.add(file)
            for array in arrays_of(name, part):
                if array.shape[1:] == images.shape[1:] and len(array):
                    far = np.abs(array[:, None].astype(float) - images).mean((2, 3, 4))
                    if far.min() < 16:
                        found.add(file)
            if name.endswith(".png"):
                pixels = np.rint(255 * pictures.imread(io.BytesIO(part))[..., :3])
                if (pixels == COLOUR).all(-1).sum() >= 9:
                    found.add(file)
    return found


def audit(params):
    with Session.create(project_path=Path.cwd(), runtime_params={**TINY, **params}) as session:
        session.run(pipeline_names=["audit"], runner=SequentialRunner())
    folder = outputs("08_reporting", f"digits/{params['method']}/seed_0")
    return json.loads((folder / "audit.json").read_text()), (folder / "audit.html").read_text()


def names(files):
    return {Path(file).name for file in files}


def test_a_page_with_real_images_is_found_whatever_its_name(tmp_path):
    title = CAPTIONS["drift"][0]
    (tmp_path / "ab12").write_text(f'<html><img alt="{title}"></html>')
    (tmp_path / "cd34").write_text("<html></html>")
    stream = SimpleNamespace(read=lambda _: images_of(0), class_names=["a"])
    assert search(stream, ProjectFiles(tmp_path))["files"] == {"ab12": {"pictures": True}}


def check_records(reports):
    """What is written down of what went."""
    entries = {Path(e["what"]).name: e for e in Retention(reports / "retention.json").entries}
    assert {"train.npz", "validation.npz"} < entries.keys()
    entry = entries["train.npz"]
    assert entry["images"] == sum(entry["by_label"].values()) == 22
    assert len(entry["sha256"]) == 64
    assert entry["bytes"] > 1000
    privacy = json.loads((reports / "task_01" / "privacy.json").read_text())
    assert set(privacy["membership"]) == {"confidence", "generator", "prototypes"}
    assert set(privacy["memorisation"]["oracle"]) == {"0", "1"}


def test_the_audit_of_a_run_that_keeps_its_images():
    given = {"method": "exemplar", "exemplar": {"images": 2}}
    run(given)
    told, page = audit(given)
    assert {"confidence", "kept"} <= told["membership"]["attacks"].keys()
    assert len(told["membership"]["classes"]) == 10
    assert told["state"]["real_images"] == 20
    assert {"train.npz", "test.npz"} <= names(told["files_with_real_images"])
    assert "kept" in page


@pytest.mark.slow
def test_no_file_has_a_training_image_and_no_bit_differs(source, project):
    file, arrays = source
    replay = {"images_per_class": 6, "sampler_steps": 2}
    given = {
        **{"method": "gppdm", "stream": stream_of(file), "checkpoint_seconds": 0},
        **{"gppdm": {**TINY["gppdm"], "replay": replay}, "evaluation": {"privacy": True}},
    }
    run(given)
    images = marked(arrays, "train")
    kept = holding(project, images)
    primary = "data/03_primary/digits/gppdm/seed_0"
    assert {f"{primary}/task_01/train.npz", f"{primary}/task_02/train.npz"} <= kept
    assert any(name.startswith("data/02_intermediate/npz-train") for name in kept)
    assert {"replay.png", "drift.png", "report.html"} <= names(kept)  # marked test images
    told, page = audit(given)
    every = np.concatenate([arrays["train_images"], arrays["test_images"]])
    told_of = told["files_with_real_images"]
    as_they_are = {name for name in told_of if Path(name).stem != "nearest_pairs"}  # enlarged
    assert len(told_of) > len(as_they_are)
    assert as_they_are == holding(project, every) - {AUDIT}
    assert told["files"][f"{primary}/task_01/train.npz"]["training"] == 22
    assert told["membership"]["all"].keys() >= {"auc", "auc_low", "auc_high", "tpr_at_1_percent"}
    assert set(told["membership"]["classes"]) == {"a", "b", "c", "d"}
    assert told["memorisation"]["pixels"]["classes"]["d"]["train"] == 11
    assert told["state"]["prototypes"]["a"]["start"] > 0
    assert "The nearest pairs" in page
    expected = result("digits/gppdm/seed_0")
    shutil.rmtree(project / "mlruns")  # theirs to delete

    run({**given, **RELEASE}, only_missing_outputs=True)
    assert not holding(project, images)
    figures = names(project.rglob("figures/*.png"))
    assert {"drift_alone.png", "replay_alone.png"} < figures - {"nearest_pairs.png"} == figures
    shutil.rmtree(project / "data")

    run({**given, **RELEASE})
    assert not holding(project, images)
    released = result("digits/gppdm/seed_0")
    same = {key for key in expected if key[0] in ("05_model_input", "06_models")}
    same |= {key for key in expected if key[1].endswith(("evaluation.json", "quality.json"))}
    assert len(same) > 20
    assert {key: released[key] for key in same} == {key: expected[key] for key in same}
    check_records(outputs("08_reporting", "digits/gppdm/seed_0"))
    again, page = audit(given)
    assert names(again["files_with_real_images"]) == {"images.npy", "test.npz"}
    assert not any(each["training"] for each in again["files"].values())
    assert again["membership"] == told["membership"]
    assert again["memorisation"] == told["memorisation"]
    assert "The nearest pairs" not in page
    assert not list((project / "data/02_intermediate").glob("npz-train*"))

    run({**given, **RELEASE, "retention_of_test": "release"}, only_missing_outputs=True)
    assert not holding(project, np.concatenate([images, marked(arrays, "test")]))
    with refused("test.npz was released", "needs its images", "overwrite=true"):
        run({**given, **RELEASE}, namespaces=["task_02"])
    assert not holding(project, images)
    assert file.exists()


def left_of(variant):
    """Real images of training and validation that are on disk."""
    layers = ("03_primary", "05_model_input")
    folders = [outputs(layer, f"digits/joint-{variant}/seed_0") for layer in layers]
    return {name for each in folders for name in contents(each) if not name.endswith("test.npz")}


def result_of(variant):
    found = result(f"digits/joint-{variant}/seed_0")
    layers = ("06_models", "08_reporting")
    apart = ("privacy.json", "retention.json")
    return {k: v for k, v in found.items() if k[0] in layers and not k[1].endswith(apart)}


@pytest.fixture(scope="module")
def of_joint():
    return {}


@pytest.mark.parametrize(
    ("moment", "number"), [pytest.param("unlink", 1, marks=pytest.mark.slow), ("offer", 25)]
)
def test_killed_at_any_moment_it_loses_nothing_it_needs(moment, number, monkeypatch, of_joint):
    stream = {
        "source": {"train_per_class": 10, "test_per_class": 5},
        "classes_per_task": [4, 3, 3],
    }
    given = {"method": "joint", "stream": stream, "checkpoint_seconds": 0}
    if not of_joint:
        run({**given, "variant": "kept"})
        of_joint.update(result_of("kept"))
        assert {"task_01/train.npz", "task_03/replay.npz"} <= left_of("kept")
    given |= {**RELEASE, "variant": "gone"}
    with monkeypatch.context() as patch:
        stop = stop_at_offer if moment == "offer" else stop_at_release
        stop(patch, *((number,) if moment == "offer" else (moment, number)))
        with pytest.raises(Stopped):
            run(given)
    if moment == "offer":  # within the third task, whose replay has what came before
        assert {"task_03/replay.npz", "task_03/train.npz"} <= left_of("gone")
        assert "task_01/validation.npz" not in left_of("gone")
    run(given)
    assert left_of("gone") == set()
    assert result_of("gone") == of_joint
