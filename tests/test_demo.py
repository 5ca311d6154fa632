"""The page on which a learner is tried and taught."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image
from tests.reference.tiny import SHAPE, gppdm, images_of, learn
from tests.serving.test_predictor import keep

from gppdm_pipeline.algorithm.disk.states import save_state
from gppdm_pipeline.demo import Showcase, enlarged, main, strokes
from gppdm_pipeline.serving.trained import TrainedRun

NAMES = ("cat", "dog", "fox", "owl")


def run_in(folder):
    """A run of a task that has kept validation images, as the pipeline leaves one."""
    method, run = gppdm(), "digits/gppdm/seed_0"
    layers = ("06_models", "03_primary", "05_model_input")
    places = [folder / "data" / layer / run for layer in layers]
    values = method.model_dump(mode="json")
    record = {
        "method": values.pop("name"),
        "classifier": values.pop("classifier"),
        "gppdm": values,
        "seed": 0,
        "classes": list(NAMES),
        "stream": {"source": {}},
    }
    state = learn(method, [(2, 0)])[1]
    save_state(state, places[0] / "task_01/state", record)
    keep(images_of(0, 2), places[1], 1, "validation")
    return TrainedRun(run, *places)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("run"))


@pytest.fixture
def files(tmp_path):
    """A handful of images of a new class."""
    for number, pixels in enumerate(images_of(1, per_class=5).images):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.glob("*.png"))


def test_it_classifies_and_draws(trained):
    showcase = Showcase(trained, None, "cpu")
    image = images_of(0, per_class=1).images[0]
    predictor = trained.learned.predictor()
    expected = predictor.answers(image[None]).probabilities[0]
    assert showcase.classes == ["cat", "fox"]
    shares = showcase.classify(image)
    assert [shares[name] for name in predictor.names] == expected.tolist()
    drawn = showcase.draw("fox", 1)
    assert {(pixels.shape, str(pixels.dtype)) for pixels in drawn} == {(SHAPE, "uint8")}
    assert enlarged(drawn[0]).size == (96, 96)


def test_a_class_is_added_and_the_old_ones_are_watched(trained, files):
    showcase = Showcase(trained, None, "cpu")
    rows = showcase.teach(" bat ", files)
    assert [row[:2] for row in rows] == [["cat", 6], ["fox", 6], ["bat", 5]]
    assert [row[2] is None for row in rows] == [False, False, True]
    assert all(0 <= row[3] <= 100 for row in rows)
    assert showcase.classes == ["bat", "cat", "fox"]
    assert len(showcase.draw("bat", 0)) == 16
    assert trained.learned.state.classes == (0, 2)  # the run is as it was


def test_what_cannot_be_learnt_changes_nothing(trained, files, tmp_path):
    showcase = Showcase(trained, None, "cpu")
    (tmp_path / "bad.png").write_bytes(b"none")
    for name, given, message in (
        ("", files, "give the class a name"),
        ("bat", [], "at least one image file"),
        ("bat", [tmp_path / "bad.png"], "bad.png: no image"),
    ):
        with pytest.raises(ValueError, match=message):
            showcase.teach(name, given)
    assert showcase.classes == ["cat", "fox"]


def test_strokes_are_light_on_black():
    sheet = Image.new("RGBA", (8, 8))
    assert strokes(sheet) is strokes(None) is None
    sheet.putpixel((2, 3), (0, 0, 0, 255))
    drawn = strokes(sheet)
    assert (drawn[3, 2], drawn.sum()) == (255, 255)


def test_without_a_run_it_says_so(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, ["digits/gppdm/seed_9"])
    assert told.exit_code == 1
    assert "has no state: nothing has been learnt" in told.output


@pytest.mark.filterwarnings("ignore")  # gradio's own
def test_the_page_has_its_parts(trained):
    pytest.importorskip("gradio")
    from gppdm_pipeline.demo import page  # noqa: PLC0415

    parts = page(Showcase(trained, None, "cpu"), "a run").get_config_file()["components"]
    told = json.dumps(parts)
    for text in ("Or drop", "Class to draw", "Draw its replay", "Learn it", "right after, %"):
        assert text in told
