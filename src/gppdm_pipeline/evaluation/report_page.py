"""The report of a run, and of a comparison, as one page: a file that opens anywhere, offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gppdm_pipeline.configuration.layers import flatten
from gppdm_pipeline.evaluation.captions import CAPTIONS
from gppdm_pipeline.evaluation.comparison import Comparison, as_cells
from gppdm_pipeline.evaluation.leakage import leakage_tables
from gppdm_pipeline.evaluation.page import Table, page_of
from gppdm_pipeline.evaluation.reconstruction import drifted

_HARDLY_FREE = 0.1  # share of new inputs' energy outside a basis, below which it is told
_SURE = 0.9  # accuracy of an oracle, below which it is told about
_FEW = 30  # real images of a class, below which distances are told about


def run_page(
    report: Mapping[str, Any],
    class_names: Sequence[str],
    pictures: Mapping[str, str],
    made_with: Mapping[str, str],
) -> str:
    """The page of one run.

    Args:
        report: the content of metrics.json.
        class_names: the name of each label.
        pictures: by name, as data URIs; in the order of the page.
        made_with: versions and machine, by name.
    """
    configuration = report["configuration"]
    variant = configuration.get("variant")
    method = configuration["method"] + (f" ({variant})" if variant else "")
    total = len(report["accuracy_matrix"])
    settings = {**flatten(configuration)}
    if "replay_quality" in report:
        settings |= flatten({"evaluation": report["replay_quality"]["settings"]})
    return page_of(
        title=f"{configuration['benchmark']} · {method} · seed {configuration['seed']}",
        subtitle=f"{len(report['confusion_classes'])} classes in {total} tasks, one after the "
        "other; accuracy is on test images, among all classes seen, with no task label.",
        tiles=_tiles(report),
        warnings=warnings_of(report),
        tables=[
            _accuracy_table(report),
            _weightings(report),
            *_replay_tables(report, class_names),
            *(leakage_tables(report["privacy"]) if "privacy" in report else []),
        ],
        figures=_figures(pictures),
        listings=[
            ("Configuration", [(key, str(value)) for key, value in settings.items()]),
            ("Made with", [*made_with.items()]),
        ],
    )


def comparison_page(comparison: Comparison, pictures: Mapping[str, str]) -> str:
    """The page of a comparison.

    Args:
        comparison: at least one group.
        pictures: by name, as data URIs.
    """
    shared = comparison.groups[0].reports[0]["configuration"]
    head, rows = as_cells(comparison)
    tables = [Table("Results", head, rows, "Mean ± standard deviation over seeds.")]
    if comparison.refusals:
        refused = [
            [refusal.run, setting, str(its), str(theirs)]
            for refusal in comparison.refusals
            for setting, its, theirs in refusal.differences
        ]
        head = ["run", "differs in", "its value", "theirs"]
        tables.append(Table("Not comparable", head, refused))
    common = {key: shared[key] for key in ("stream", "classifier")}
    return page_of(
        title=f"{shared['benchmark']}: methods compared",
        subtitle="Runs of one stream and one classifier; one row for each method.",
        tiles=[],
        warnings=[],
        tables=tables,
        figures=_figures(pictures),
        listings=[
            ("In common", [(key, str(value)) for key, value in flatten(common).items()]),
        ],
    )


def _figures(pictures: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"source": source, "title": CAPTIONS[name][0], "caption": CAPTIONS[name][1]}
        for name, source in pictures.items()
    ]


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """What a reader should know before believing the numbers."""
    found = []
    quality = report.get("replay_quality")
    if quality and quality["oracle_test_accuracy"] < _SURE:
        found.append(
            f"The oracle is right on {_percent(quality['oracle_test_accuracy'])} % of real test "
            "images only: trust its judgement of replay no further."
        )
    if quality:
        fewest = min(measured["real_images"] for measured in quality["reference"].values())
        if fewest < _FEW:
            found.append(
                f"A class has {fewest} real test images: distances and precision of so few are "
                "rough, and larger than those of more."
            )
    for layer, free in report.get("basis_free", {}).items():
        if free < _HARDLY_FREE:
            found.append(
                f"{_percent(1 - free)} % of what {layer} is fed for the last task's classes lies "
                "in what it is fed for old ones, which projection keeps: it could learn little."
            )
    if report.get("space", {}).get("name") == "features":
        found.append(
            "Vectors of a frozen encoder were learnt: a vector has no picture, so that no replay "
            "is shown here, nor its quality measured."
        )
    for task in drifted(report.get("reconstruction", [])):
        first = next(each for each in report["reconstruction"] if each is not None)
        here = report["reconstruction"][task - 1]
        found.append(
            f"The autoencoder keeps less of the images of task {task} ({here:.1f} dB) than of "
            f"those of the first ({first:.1f} dB): another one, or larger images (space.side), "
            "may do better."
        )
    if not report["seconds"]:
        found.append("It was learnt elsewhere: seconds, memory and losses are not known here.")
    return found


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = sum(sum(stages.values()) for stages in report["seconds"].values())
    tiles = [
        ("average accuracy, %", _percent(report["average_accuracy"])),
        ("average incremental accuracy, %", _percent(report["average_incremental_accuracy"])),
        ("forgetting, %", _percent(report["forgetting"])),
        ("backward transfer, %", _percent(report["backward_transfer"])),
        ("calibration error, %", _percent(report["calibration_error_after_task"][-1])),
    ]
    if seconds:
        tiles.append(("of learning", f"{seconds:.0f} s"))
    tiles.append(("of state", f"{report['state_bytes'][-1] / 1e6:.1f} MB"))
    return [(name, value) for name, value in tiles if value]


def _accuracy_table(report: Mapping[str, Any]) -> Table:
    matrix, average = report["accuracy_matrix"], report["average_accuracy_after_task"]
    return Table(
        "Accuracy, %",
        ["after task", *(str(t) for t in range(1, len(matrix) + 1)), "all"],
        [
            [str(t), *map(_percent, row), _percent(mean)]
            for t, (row, mean) in enumerate(zip(matrix, average, strict=True), start=1)
        ],
        "Columns are the tasks whose test images were classified.",
    )


def _weightings(report: Mapping[str, Any]) -> Table:
    names = {"unmasked": "among all classes", "task_masked": "among the task's classes"}
    means = ("by_image", "by_class", "by_task")
    transfer = report["forward_transfer"]
    note = (
        "The same predictions, averaged over images, classes or tasks. Masked to the task of the "
        "image is the easier question that some published numbers answer. Learning accuracy "
        f"(just after each task): {_percent(report['learning_accuracy'])} %. Forward transfer: "
    )
    note += (
        "undefined, since a class has no output before it is learnt."
        if transfer is None
        else f"{_percent(transfer)} %."
    )
    return Table(
        "Weighted and masked, %",
        ["after the last task", *(mean.replace("_", " ") for mean in means)],
        [
            [name, *(_percent(report["accuracies"][key][mean]) for mean in means)]
            for key, name in names.items()
        ],
        note,
    )


def _replay_tables(report: Mapping[str, Any], class_names: Sequence[str]) -> list[Table]:
    """After the last task, class by class, for the first extractor."""
    quality = report.get("replay_quality")
    if not quality:
        return []
    extractor = quality["settings"]["extractors"][0]
    last, reference = quality["after_task"][-1], quality["reference"]
    rows = []
    for label in map(str, report["confusion_classes"]):
        if label in last:
            ours, real = last[label], reference[label]
            distance, floor = (each["frechet_distance"][extractor] for each in (ours, real))
            kernel = ours["kernel_distance"][extractor]
            shares = (ours[name][extractor] for name in ("precision", "recall", "coverage"))
            rows.append(
                [
                    class_names[int(label)],
                    f"{_number(distance)} ({_number(floor)})",
                    _number(kernel),
                    _percent(ours["oracle_agreement"]),
                    *map(_percent, shares),
                    _number(ours["density"][extractor]),
                ]
            )
    note = (
        f"{quality['settings']['images_per_class']} images a class, drawn after the last task, "
        f"beside real test images; features of {extractor}. In brackets: as many real training "
        "images, about as near as can be expected. Numbers of another extractor "
        "or another number of images cannot be set beside these."
    )
    head = ["class", f"Frechet distance ({extractor})", f"kernel distance ({extractor})"]
    head += ["oracle agrees, %", "precision, %", "recall, %", "coverage, %", "density"]
    return [Table("Replay", head, rows, note)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
