"""Which runs are averaged, with what result, and which are refused."""

import copy
import csv
import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from gppdm_pipeline.evaluation import comparison_figures
from gppdm_pipeline.evaluation.comparison import as_csv, as_markdown, compare, table


def report(method="gppdm", seed=0, accuracy=0.5, variant=None, tasks=3, **changes):
    """A run's metrics.json; `changes` are settings, by dotted key."""
    configuration = {
        "benchmark": "digits",
        "method": method,
        "seed": seed,
        "variant": variant,
        "device": "cpu",
        "stream": {"source": {"reader": "sklearn_digits"}, "classes_per_task": 2},
        "classifier": {"steps": 300, "width": 32},
        method: {"denoiser": {"steps": 400}},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = configuration
        for parent in parents:
            place = place[parent]
        place[last] = value
    return {
        "configuration": configuration,
        "average_accuracy": accuracy,
        "average_accuracy_after_task": np.linspace(1, accuracy, tasks).tolist(),
        "average_incremental_accuracy": (1 + accuracy) / 2,
        "forgetting": 1 - accuracy if tasks > 1 else None,
        "task_masked_accuracy": 0.9,
        "per_class_accuracy": {str(k): accuracy for k in (3, 1, 2)},
        "seconds": {"task_01": {"evaluate": 1.0, "train_classifier": 9.0 + seed}},
        "state_bytes": [10, 2_000_000],
    }


def test_mean_and_spread_over_seeds_best_first():
    compared = compare(
        [
            report("joint", 0, 0.9),
            *(report(seed=seed, accuracy=value) for seed, value in ((2, 0.5), (0, 0.6), (1, 0.7))),
        ]
    )
    joint, gppdm = table(compared)
    assert (joint["method"], joint["seeds"]) == ("joint", 1)
    assert (joint["average_accuracy"], joint["average_accuracy_spread"]) == (90, None)
    assert (gppdm["method"], gppdm["seeds"]) == ("gppdm", 3)
    assert gppdm["average_accuracy"] == pytest.approx(60)
    assert gppdm["average_accuracy_spread"] == pytest.approx(np.std([50, 60, 70], ddof=1))
    assert gppdm["seconds"] == pytest.approx(11)
    assert gppdm["state_bytes"] == pytest.approx(2)
    assert compared.groups[1].seeds == [0, 1, 2]
    assert compared.refusals == ()


def test_the_tables_say_the_same():
    compared = compare([report(seed=0, accuracy=0.25), report(seed=1, accuracy=0.75)])
    (row,) = csv.DictReader(io.StringIO(as_csv(compared)))
    assert float(row["average_accuracy"]) == 50
    text = as_markdown(compared)
    assert "| gppdm | 2 (0, 1) | 50.0 ± 35.4 | 75.0 ± 17.7 | 50.0 ± 35.4 |" in text
    assert "Not comparable" not in text


@pytest.mark.parametrize(
    ("key", "value", "setting", "theirs"),
    [
        ("classifier__steps", 600, "classifier.steps", 300),
        ("stream__classes_per_task", 5, "stream.classes_per_task", 2),
        ("stream__source", {"reader": "idx"}, "stream.source.reader", "sklearn_digits"),
    ],
)
def test_other_data_streams_and_budgets_are_refused_with_the_reason(key, value, setting, theirs):
    other = report("joint", 7, 0.9, **{key: value})
    compared = compare([other, report(seed=0), report(seed=1)])
    assert [group.name for group in compared.groups] == ["gppdm"]
    (refusal,) = compared.refusals
    assert refusal.run == "joint seed 7"
    ((name, its, other_value),) = refusal.differences
    assert (name, other_value) == (setting, theirs)
    assert f"| joint seed 7 | `{setting}` | {its} | {theirs} |" in as_markdown(compared)


def test_runs_of_one_method_with_other_settings_are_not_averaged():
    compared = compare([report(accuracy=0.4), report(seed=1, gppdm__denoiser={"steps": 800})])
    assert [group.name for group in compared.groups] == [
        "gppdm (denoiser.steps=800)",
        "gppdm (denoiser.steps=400)",
    ]
    assert [group.seeds for group in compared.groups] == [[1], [0]]


def test_variants_have_rows_of_their_own():
    compared = compare([report(), report(variant="long", gppdm__denoiser={"steps": 800})])
    assert {group.name for group in compared.groups} == {"gppdm", "gppdm-long"}


def test_the_same_run_from_two_places_counts_once():
    """The first counts; a device is no difference."""
    there = copy.deepcopy(report(accuracy=0.9))
    there["configuration"]["device"] = "cuda"
    (group,) = compare([report(accuracy=0.4), there]).groups
    assert group.values("average_accuracy") == [0.4]


@pytest.mark.parametrize("tasks", [1, 3])
def test_figures_show_every_method(tasks):
    runs = [
        report(name, seed, 0.3 + 0.1 * seed + 0.05 * i, tasks=tasks)
        for i, name in enumerate(("gppdm", "joint", "ewc"))
        for seed in (0, 1)
    ]
    compared = compare(runs)
    drawn = [
        function(compared)
        for function in (
            comparison_figures.accuracy_by_method_figure,
            comparison_figures.forgetting_against_cost_figure,
            comparison_figures.accuracy_by_class_figure,
        )
    ]
    for figure in drawn:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    lines, _, heat = (figure.axes[0] for figure in drawn)
    assert [line.get_label() for line in lines.lines] == ["ewc", "joint", "gppdm"]
    np.testing.assert_allclose(lines.lines[0].get_ydata()[-1], 45 if tasks > 1 else 100)
    assert [label.get_text() for label in heat.get_xticklabels()] == ["3", "1", "2"]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["ewc", "joint", "gppdm"]


def test_classes_are_named_in_the_figure():
    named = report()
    names = ["T-shirt_top", "ankle boot", "a name that is far too long for an axis"]
    named["per_class_accuracy"] = dict.fromkeys(names, 0.5)
    figure = comparison_figures.accuracy_by_class_figure(compare([named]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = figure.get_tightbbox(canvas.get_renderer())
    assert drawn.y0 >= 0
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["T-shirt top", "ankle boot", "a name that is far…"]
