"""Predict, draw and publish, with one real run as small as it can be."""

from __future__ import annotations

import base64
import csv
import errno
import json
import os
import shutil
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from kedro.runner import SequentialRunner
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from PIL import Image
from starlette.testclient import TestClient
from tests.reference.runs import TINY, refused, run

from gppdm_pipeline import serve
from gppdm_pipeline.algorithm.disk.states import StateError
from gppdm_pipeline.catalog.registry import ModelRegistry
from gppdm_pipeline.catalog.registry_dataset import RegistryError
from gppdm_pipeline.estimator import ContinualClassifier
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.serving.predictor import Calibration
from gppdm_pipeline.serving.requests import answered
from gppdm_pipeline.serving.trained import Learned
from gppdm_pipeline.streams.readers.digits import SklearnDigits

ROOT = Path(__file__).parents[2]
OUTPUT = Path("data/07_model_output/digits/gppdm/seed_0")
STATE = Path("data/06_models/digits/gppdm/seed_0/task_02/state")
URI = "sqlite:///mlflow.db"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, empty_database, configured):
    """A project with a run in it."""
    folder = tmp_path_factory.mktemp("learnt")
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GPPDM_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        run({"method": "gppdm"})
    return folder


@pytest.fixture(autouse=True)
def project(learnt, monkeypatch):
    monkeypatch.chdir(learnt)
    return learnt


def use(pipeline, **params):
    given = {**TINY, "method": "gppdm", pipeline: params}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=[pipeline], runner=SequentialRunner())


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Digits as PNG files of another size and of colours, one of them damaged."""
    tmp_path = tmp_path_factory.mktemp("shots")
    images = SklearnDigits().read("test").images[:6]
    for number, pixels in enumerate(images):
        picture = Image.fromarray(pixels[..., 0]).resize((16, 16), Image.Resampling.NEAREST)
        picture.convert("RGB" if number % 2 else "L").save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"none")
    return tmp_path


@pytest.fixture(scope="module")
def predicted(learnt, shots):
    """What the pipeline has said."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.chdir(learnt)
        use("predict", images=str(shots), least_sure=2)
    return said.getvalue()


def test_predictions(shots, predicted):
    with (OUTPUT / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{n}.png" for n in range(6)]
    assert list(rows[0])[:6] == [
        "file", "label", "probability", "known", "label_2", "probability_2",
    ]  # fmt: skip
    assert (rows[3]["label"], rows[3]["problem"]) == ("", "no image")
    table = pq.read_table(OUTPUT / "predictions.parquet").to_pylist()
    for row, typed in zip(rows, table, strict=True):
        assert row == {key: "" if typed[key] is None else str(typed[key]) for key in row}
    calibration = Calibration.of(json.loads((OUTPUT / "calibration.json").read_text()))
    expected = answered(
        Learned.read(STATE).predictor(calibration),
        [str(shots / f"{n}.png") for n in (0, 1, 2, 4, 5)],
        paths=True,
    )
    assert [row["probability"] for row in table if row["label"]] == expected["probability"]
    page = (OUTPUT / "predictions.html").read_text()
    assert "The 2 least sure images" in page and "<td>3.png</td><td>no image</td>" in page
    summary = json.loads((OUTPUT / "predictions.json").read_text())
    sure = sorted(row["probability"] for row in table if row["label"])
    assert [row["probability"] for row in summary["least_sure"]] == sure[:2]
    assert sum(summary["labels"].values()) == 5
    assert "6 images classified by digits/gppdm/seed_0, task_02" in predicted
    assert not list(OUTPUT.glob(".*"))


def test_nothing_is_predicted_without_images_or_a_state(shots):
    with refused("predict.images is not set"):
        use("predict")
    with refused("nowhere: found no such file or folder"):
        use("predict", images=str(shots / "nowhere"))
    with refused("predict.image = 1 (--params): unknown key; did you mean predict.images?"):
        use("predict", image=1)
    with refused("seed_7 has no state: nothing has been learnt"):
        given = {**TINY, "method": "gppdm", "seed": 7, "predict": {"images": str(shots)}}
        with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
            session.run(pipeline_names=["predict"], runner=SequentialRunner())


def test_drawing(shots):
    use("draw", classes="3-8", images=2)
    drawn = OUTPUT / "drawn"
    with (drawn / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["3", "3", "8", "8"]
    first = [np.asarray(Image.open(drawn / row["file"])) for row in rows]
    assert {(image.shape, str(image.dtype)) for image in first} == {((8, 8), "uint8")}
    estimator = ContinualClassifier.load(STATE)
    again = estimator.sample("3", 2)
    assert again.shape == (2, 8, 8, 1)
    use("draw", classes="3-8", images=2)
    assert all(
        np.array_equal(image, np.asarray(Image.open(drawn / row["file"])))
        for image, row in zip(first, rows, strict=True)
    )
    assert not (OUTPUT / "drawn_interpolation.png").exists()
    like = {"like": str(shots / "0.png"), "signal": 0.99}
    use("draw", classes="5", images=3, towards="8", **like)
    assert len(list(drawn.glob("*.png"))) == 3
    like = np.asarray(Image.open(next(drawn.glob("*.png"))), float)
    given = np.asarray(Image.open(shots / "0.png").resize((8, 8), Image.Resampling.BOX), float)
    assert np.corrcoef(like.ravel(), given.ravel())[0, 1] > 0.5  # little noise was added
    assert (OUTPUT / "drawn_grid.png").exists()
    with (OUTPUT / "drawn_interpolation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["class"], row["towards"]) for row in rows} == {("5", "8")}
    assert [float(row["share"]) for row in rows] == [i / 8 for i in range(9)]
    with refused("draw.classes = 3-x: unknown 'x'", "Learnt are '0'"):
        use("draw", classes="3-x")
    with refused("draw.towards = '8': it is the only class that is drawn"):
        use("draw", classes="8", towards="8")
    with refused("draw.towards = 'x': unknown 'x'. Learnt are '0'"):
        use("draw", towards="x")
    with refused("draw.like", "no image"):
        use("draw", like=str(shots / "3.png"))


@pytest.fixture(scope="module")
def published(learnt):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(learnt)
        use("publish", folder=str(learnt / "folder"))
    return ModelRegistry(f"sqlite:///{learnt}/mlflow.db", "digits")


@pytest.mark.usefixtures("predicted")
def test_all_that_answer_agree_to_the_bit(published, shots, learnt, tmp_path):
    """Pipeline, pyfunc, service and estimator."""
    table = pq.read_table(OUTPUT / "predictions.parquet").to_pandas()
    table = table[table["problem"].isna()].reset_index(drop=True)
    expected = table.drop(columns=["file", "problem"])
    files = [str(shots / name) for name in table["file"]]
    predictor = Learned.read(STATE).predictor()
    pixels = np.stack([predictor.pixels(Path(file)) for file in files])

    mlflow.set_tracking_uri(f"sqlite:///{learnt}/mlflow.db")
    try:
        model = mlflow.pyfunc.load_model("models:/digits-gppdm@champion")
    finally:
        mlflow.set_tracking_uri(None)
    same = partial(
        pd.testing.assert_frame_equal, right=expected, check_exact=True, check_dtype=False
    )
    same(model.predict(pd.DataFrame({"path": files})))
    same(model.predict(pixels))
    same(model.predict([base64.b64encode(Path(file).read_bytes()).decode() for file in files]))
    assert model.metadata.signature.inputs is not None
    place = published.download("digits-gppdm", 1, tmp_path / "model")
    assert not [*place.rglob("*.pkl"), *place.rglob("*.pickle")]

    estimator = ContinualClassifier.load(STATE, OUTPUT / "calibration.json")
    assert estimator.predict_proba(pixels).max(1).tolist() == expected["probability"].tolist()
    assert estimator.predict(pixels).tolist() == expected["label"].tolist()

    served, version = serve.load(published, "digits-gppdm", "champion", "cpu")
    with TestClient(serve.application(served, {"version": version})) as client:
        answer = client.post("/invocations", json={"inputs": pixels.tolist()})
    same(pd.DataFrame(answer.json()["predictions"]))


def test_the_published_folder_draws_as_the_pipeline_does(published, learnt, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    folder = str(learnt / "folder")
    pipeline = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True, low_cpu_mem_usage=False
    )
    use("draw", classes="3-8", images=2)
    drawn = [np.asarray(Image.open(file)) for file in sorted((OUTPUT / "drawn").glob("*.png"))]
    again = pipeline(classes=["3", "8"], num_images_per_class=2).images
    assert np.array_equal(np.stack(drawn), np.stack([*map(np.asarray, again)]))
    (learnt / "folder/thesis.tex").touch()
    with refused("publish.folder = ", "it holds thesis.tex, which a publication would replace"):
        use("publish", folder=folder)


def test_versions_follow_each_other_and_can_be_taken_back(published, recwarn):
    use("publish")
    assert not [warning for warning in recwarn if "mlflow" in warning.filename]
    record = json.loads((OUTPUT / "published.json").read_text())
    assert record["version"] == record["champion"] == 2  # as good as the first
    assert record["validation_accuracy"] == record["champion_accuracy"]
    use("publish", version=1)
    assert published.version_of("digits-gppdm", "champion") == 1
    run_id = published._client.get_model_version("digits-gppdm", "2").run_id
    assert published._client.get_model_version("digits-gppdm", "2").description == (
        "digits/gppdm/seed_0 after task_02."
    )
    run = published._client.get_run(run_id)  # MLflow links a run with the versions that name it
    assert (run.info.run_name, run.data.tags["method"]) == ("gppdm seed 0", "gppdm")
    assert "average_accuracy" in run.data.metrics
    with refused("publish.version = 9: digits-gppdm has no such version; there are 1, 2."):
        use("publish", version=9)


def test_a_moved_project_publishes_and_serves_where_it_stands(
    published, learnt, tmp_path, monkeypatch
):
    def files(folder):
        return {str(file.relative_to(folder)) for file in (folder / "mlruns").rglob("*")}

    before, copied, moved = files(learnt), tmp_path / "copied", tmp_path / "moved"
    shutil.copytree(learnt, copied)
    monkeypatch.chdir(copied)
    _artifact_repos_cache.clear()  # as in a process of its own
    use("publish")
    assert files(learnt) == before < files(copied)
    copied.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.setattr(serve.uvicorn, "run", lambda *_, **__: None)
    done = CliRunner().invoke(serve.main, ["digits-gppdm"])
    assert "models:/digits-gppdm/" in done.output, done.output
    assert not copied.exists()


def test_where_mlflow_has_no_experiment_files_go_where_they_are_meant_to(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db", "digits", "file:///meant")
    made = registry._run_of({"method": "gppdm", "variant": None, "seed": 0})
    assert made.info.artifact_uri.startswith("file:///meant/")


def test_what_the_system_refuses_a_service_is_told(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")

    monkeypatch.setattr(serve, "load", full)
    done = CliRunner().invoke(serve.main, ["digits-gppdm"])
    assert done.output.startswith("Error: /tmp/x: No space left on device. Free space on that disk")


def test_a_publication_that_is_stopped_changes_nothing_that_is_served(published, monkeypatch):
    before = published.version_of("digits-gppdm", "champion")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", stop)
    with pytest.raises(KeyboardInterrupt):
        use("publish")
    assert published.version_of("digits-gppdm", "champion") == before
    served, version = serve.load(published, "digits-gppdm", "champion", "cpu")
    assert (version, served.image_shape) == (before, (8, 8, 1))


def test_a_model_whose_files_were_changed_is_refused_by_name(published, learnt):
    number = str(published.version_of("digits-gppdm", "champion"))
    source = published._client.get_model_version("digits-gppdm", number).source
    file = next(Path(source.removeprefix("file://")).rglob("classifier.safetensors"))
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(RegistryError, match=f"digits-gppdm/{number}: the files in"):
            serve.load(published, "digits-gppdm", "champion", "cpu")
        with pytest.raises(StateError, match=r"classifier\.safetensors is damaged"):
            mlflow.pyfunc.load_model(source)
    finally:
        file.write_bytes(content)


@pytest.mark.slow  # writing takes ten seconds
@pytest.mark.usefixtures("predicted")
def test_onnx_agrees_with_the_pipeline(shots, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    use("publish", folder=str(tmp_path / "folder"))
    table = pq.read_table(OUTPUT / "predictions.parquet").to_pandas()
    table = table[table["problem"].isna()]
    predictor = Learned.read(STATE).predictor()
    pixels = np.stack([predictor.pixels(shots / name) for name in table["file"]])
    file = str(tmp_path / "folder/classifier.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (shares,) = session.run(None, {"images": pixels})
    names = json.loads((tmp_path / "folder/classes.json").read_text())
    assert [names[k] for k in shares.argmax(1)] == table["label"].tolist()
    assert np.allclose(shares.max(1), table["probability"], rtol=0, atol=1e-4)
    assert "classifier.onnx" in (tmp_path / "folder/README.md").read_text()
