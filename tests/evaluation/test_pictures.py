"""Pictures of whole runs: sizes from one task to twenty and two classes to a hundred; the page."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from matplotlib import pyplot
from tests.evaluation.test_figures import labelled, prototypes, rendered, texts

from gppdm_pipeline.evaluation import diagnostics_figures, figures, heat_maps, strips
from gppdm_pipeline.evaluation.bounds import bounds_of
from gppdm_pipeline.evaluation.captions import CAPTIONS
from gppdm_pipeline.evaluation.drawn_figure import drawn_figure, interpolation_figure
from gppdm_pipeline.evaluation.embedding import embedding_picture
from gppdm_pipeline.evaluation.inspection_figures import stream_figure
from gppdm_pipeline.evaluation.leakage import nearest_pairs_picture
from gppdm_pipeline.evaluation.report_page import run_page, warnings_of

NAMES = tuple(f"class_{label}" for label in range(100))
SIZES = [(1, 2), (2, 2), (5, 2), (20, 5)]  # tasks, classes a task


def checked(picture):
    """The figure is whole, and its data can be read."""
    assert rendered(picture.figure).shape[1] <= 900
    assert list(csv.DictReader(io.StringIO(picture.csv())))
    return picture


def quality(classes, distance=1.0):
    measures = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
    return {
        str(label): {
            "images": 50,
            "real_images": 36,
            "oracle_agreement": 0.9,
            **{measure: {"oracle": distance} for measure in measures},
        }
        for label in classes
    }


def report_of(tasks, each):
    classes = list(range(tasks * each))
    seen = [classes[: each * t] for t in range(1, tasks + 1)]
    matrix = [[0.5 if i <= t else None for i in range(tasks)] for t in range(tasks)]
    weighted = {"by_image": 0.51, "by_class": 0.52, "by_task": 0.53}
    return {
        "accuracy_matrix": matrix,
        "average_accuracy": 0.5,
        "average_accuracy_after_task": [0.5] * tasks,
        "average_incremental_accuracy": 0.5,
        "forgetting": 0.25 if tasks > 1 else None,
        "backward_transfer": -0.25 if tasks > 1 else None,
        "learning_accuracy": 0.75,
        "forward_transfer": None,
        "calibration_error_after_task": [0.1] * tasks,
        "accuracies": {"unmasked": weighted, "task_masked": weighted},
        "per_class_accuracy_after_task": [{str(label): 0.5 for label in s} for s in seen],
        "confusion": np.eye(len(classes), dtype=int).tolist(),
        "confusion_classes": classes,
        "replay_quality": {
            "settings": {"extractors": ["oracle"], "images_per_class": 50, "nearest": 5},
            "oracle_test_accuracy": 0.95,
            "reference": quality(classes, 0.5),
            "after_task": [quality(s, float(t)) for t, s in enumerate(seen, 1)],
        },
        "state_bytes": [1_000_000] * tasks,
        "seconds": {f"task_{t:02d}": {"train_generator": 1.0} for t in range(1, tasks + 1)},
        "basis_free": {},
        "configuration": {"benchmark": "b", "method": "gppdm", "seed": 0, "variant": None},
    }


@pytest.mark.parametrize("size", SIZES)
def test_heat_maps(size):
    report = report_of(*size)
    memory = checked(heat_maps.memory_picture(report["per_class_accuracy_after_task"], NAMES))
    tasks, each = size
    assert len(memory.rows) == each * tasks * (tasks + 1) // 2
    checked(heat_maps.confusion_picture(report["confusion"], report["confusion_classes"], NAMES))


LONG = ["W" * 250, "bee " * 62 + "b", "egg_" * 62, "a-" * 124]


def test_names_of_250_letters_are_drawn_short_and_leave_room():
    """Without a warning, which would fail."""
    report, images = report_of(2, 2), labelled(range(4))
    pixels = np.zeros((2, 9, 8, 8, 1), np.uint8)
    points = np.random.default_rng(0).normal(size=(12, 8))
    starts = prototypes(range(4))
    drawn = [
        heat_maps.memory_picture(report["per_class_accuracy_after_task"], LONG).figure,
        heat_maps.confusion_picture(report["confusion"], range(4), LONG).figure,
        embedding_picture((points, [0, 1, 2, 3] * 3), (points, [0, 1, 2] * 4), "o", LONG, 0).figure,
        strips.drift_strip_picture([images] * 2, images, report, range(4), LONG).figure,
        nearest_pairs_picture({name: images for name in LONG}).figure,
        figures.replay_grid_figure(images, images, LONG),
        figures.prototypes_figure(starts, starts, LONG),
        drawn_figure(images, LONG),
        interpolation_figure({name: pixels for name in LONG}, LONG[0]),
        stream_figure([(1, name, images.images) for name in LONG]),
    ]
    for figure in drawn:
        rendered(figure)
        assert max(map(len, texts(figure))) < 100
        assert any("WWWWW" in text and text.endswith("…") for text in texts(figure))


def test_confusion_is_in_per_cent_of_the_class_and_leaves_zeros_out():
    picture = heat_maps.confusion_picture([[1, 3], [0, 5]], [4, 2], NAMES)
    assert [text.get_text() for text in picture.figure.axes[0].texts] == ["25", "75", "100"]
    assert [row["images"] for row in picture.rows] == [1, 3, 0, 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_the_drift_strip(size, shape):
    report, (tasks, each) = report_of(*size), size
    classes = report["confusion_classes"]
    replays = [labelled(classes[: each * t], shape) for t in range(1, tasks + 1)]
    real = labelled(classes, shape)
    picture = checked(strips.drift_strip_picture(replays, real, report, classes, NAMES))
    titles = [text for text in texts(picture.figure) if text.startswith("after task")]
    assert titles[0] == "after task 1"
    assert titles[-1] == f"after task {tasks}"
    assert len(titles) == min(tasks, 6)
    # The class's own distance after the task, and that of real training images.
    of_first = {row["after_task"]: row["value"] for row in picture.rows if _is_first(row)}
    assert of_first == {0: 0.5, **{t: float(t) for t in range(1, tasks + 1)}}
    assert f"{tasks:.2f}" in texts(picture.figure) or tasks >= 10
    checked(strips.replay_quality_picture(report, classes, NAMES))


def _is_first(row):
    return row["class"] == NAMES[0] and row["measure"] == "frechet_distance"


def test_what_was_not_measured_is_not_drawn():
    report = report_of(2, 2)
    for after in report["replay_quality"]["after_task"]:
        for measured in after.values():
            measured["precision"] = {"oracle": None}
    checked(strips.replay_quality_picture(report, [0, 1, 2, 3], NAMES))


def logs(tasks, steps=400):
    layers = ("down_blocks.1.attentions.0.attn2.to_k", "mid_block.attentions.0.attn2.to_out.0")
    metrics = {f"{m}/{layer}": 0.5 for m in ("basis_free", "key_drift") for layer in layers}
    curve = [[step, 1 / step] for step in range(1, steps + 1)]
    return {
        f"task_{t:02d}.train_generator": {"metrics": metrics, "curves": {"denoiser_loss": curve}}
        for t in range(1, tasks + 1)
    }


@pytest.mark.parametrize("tasks", [1, 5, 20])
def test_diagnostics(tasks):
    losses = checked(diagnostics_figures.losses_picture(logs(tasks)))
    assert len(losses.rows) == 200 * tasks
    assert losses.figure.axes[0].get_yscale() == "log"
    projection = checked(diagnostics_figures.projection_picture(logs(tasks)))
    assert {row["measure"] for row in projection.rows} == {"basis_free", "key_drift"}
    assert "key drift" in texts(projection.figure)
    checked(diagnostics_figures.seconds_picture(report_of(tasks, 2)["seconds"]))


def test_without_logs_there_is_a_word_instead():
    for picture in (
        diagnostics_figures.losses_picture({}),
        diagnostics_figures.projection_picture({}),
        diagnostics_figures.seconds_picture({}),
    ):
        assert "left a log here." in " ".join(texts(picture.figure))
        checked(picture)


def test_bounds_are_comparable_runs_of_joint_and_finetune():
    mine = {"configuration": {"benchmark": "b", "stream": 1, "classifier": 2, "method": "gppdm"}}

    def other(method, stream=1, value=0.5):
        configuration = {**mine["configuration"], "method": method, "stream": stream}
        return {"configuration": configuration, "average_accuracy_after_task": [1, value]}

    others = [other("joint"), other("joint", value=0.7), other("lwf"), other("finetune", stream=9)]
    bounds = bounds_of(mine, others)
    assert bounds == {"joint": [[1, 0.5], [1, 0.7]]}
    picture = checked(diagnostics_figures.bounds_picture("gppdm", [1, 0.25], bounds))
    assert "joint, the upper bound (2 seeds)" in texts(picture.figure)
    assert "finetune: no such run yet" in texts(picture.figure)
    assert [row["average_accuracy"] for row in picture.rows] == [1, 0.25, 1, pytest.approx(0.6)]


def test_the_embedding_keeps_apart_what_is_apart():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(20, 8)), 30 + rng.normal(size=(20, 8))])
    labels = [0] * 20 + [1] * 20
    picture = embedding_picture((points + 0.1, labels), (points, labels), "oracle", NAMES, 0)
    checked(picture)
    places = np.array([[float(row["x"]), float(row["y"])] for row in picture.rows])
    first = np.array([row["class"] == NAMES[0] for row in picture.rows])
    gap = np.linalg.norm(places[first].mean(0) - places[~first].mean(0))
    assert gap > 2 * np.linalg.norm(places[first].std(0))
    with pytest.raises(ValueError, match="too few for a t-SNE"):
        embedding_picture((points[:2], [0, 0]), (points[:2], [0, 0]), "oracle", NAMES, 0)


def test_a_picture_is_the_same_to_the_byte_and_leaves_pyplot_alone():
    report = report_of(3, 2)
    pictures = [
        heat_maps.confusion_picture(report["confusion"], report["confusion_classes"], NAMES)
        for _ in range(2)
    ]
    for kind in ("png", "svg"):
        assert pictures[0].rendered(kind) == pictures[1].rendered(kind)
    assert b"<dc:date>" not in pictures[0].rendered("svg")
    assert pyplot.get_fignums() == []


def test_the_page_shows_what_it_is_given():
    report = report_of(5, 2)
    report["configuration"]["note"] = "<script>alert(1)</script>"
    uri = "data:image/png;base64,AAAA"
    page = run_page(report, NAMES, dict.fromkeys(CAPTIONS, uri), {"torch": "2"})
    assert page.count(f'src="{uri}"') == len(CAPTIONS)
    assert "<script" not in page
    for text in ("b · gppdm · seed 0", "Frechet distance (oracle)", "5 (0.5)", "undefined", "53.0"):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_page_of_a_method_without_replay_of_one_task():
    report = report_of(1, 2)
    del report["replay_quality"]
    page = run_page(report, NAMES, {}, {})
    assert "forgetting, %" not in page
    assert "Frechet" not in page


def test_warnings():
    report = report_of(2, 2)
    assert warnings_of(report) == []
    report["basis_free"] = {"mid": 0.05, "up": 0.5}
    report["replay_quality"]["oracle_test_accuracy"] = 0.5
    report["replay_quality"]["reference"]["0"]["real_images"] = 3
    report["seconds"] = {}
    found = " ".join(warnings_of(report))
    for text in ("95.0 % of what mid", "right on 50.0 %", "3 real test images", "learnt elsewhere"):
        assert text in found
    assert "what up" not in found
