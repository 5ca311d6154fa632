"""From records to the report: numbers, pictures, a page."""

from __future__ import annotations

from typing import Any, cast

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.oracle import TrainedOracle
from gppdm_pipeline.evaluation import diagnostics_figures, figure_data, figures, heat_maps, strips
from gppdm_pipeline.evaluation.bounds import bounds_of
from gppdm_pipeline.evaluation.embedding import embedding_picture
from gppdm_pipeline.evaluation.extractors import build_extractors
from gppdm_pipeline.evaluation.leakage import leakage_of, nearest_pairs_picture
from gppdm_pipeline.evaluation.metrics import TaskEvaluation
from gppdm_pipeline.evaluation.metrics import summarise as summarise_accuracies
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig, Quality
from gppdm_pipeline.evaluation.report_page import run_page
from gppdm_pipeline.evaluation.summary import details, replay_report
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.ranks import launched
from gppdm_pipeline.pipelines.continual.nodes import Record, Task
from gppdm_pipeline.pipelines.continual.privacy import pairs_of
from gppdm_pipeline.pipelines.continual.showing import pictures_of, prototypes_of, real_pictures
from gppdm_pipeline.provenance import environment
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.scenario import StreamConfig

Reports = list[dict[str, Any]]
_SHOWN = 8  # images a class in a picture, at most
_CAME_OUT = ("evaluation", "replay_quality", "reconstruction", "privacy", "reference")
_DRIFTING = 4  # classes whose replay is shown after each task


def summarise(
    configuration: Record, stream: StreamConfig, **records: Record
) -> tuple[Record, Record]:
    """Everything that is reported of a run: what came out, and the same with what it cost.

    Args:
        configuration: every setting that was used.
        stream: names the classes.
        records: by `<task>.<stage>` what each stage cost, by `<task>.evaluation` and
            `<task>.replay_quality`, `<task>.reconstruction` and `<task>.privacy` what came out; in
            the order of the tasks. By `assessment.<stage>` what comes once.
    """
    came, logs = _sorted(records)
    evaluations, coded = came["evaluation"], came["reconstruction"]
    of_tasks = cast(list[TaskEvaluation], evaluations)
    summary, names = summarise_accuracies(of_tasks), stream.class_names
    results: Record = {
        **summary,
        "per_class_accuracy": {names[int(k)]: a for k, a in summary["per_class_accuracy"].items()},
        "classes_by_task": [[names[k] for k in task] for task in of_tasks[-1]["tasks"]],
        **details(evaluations),
        "state_bytes": [record["state_bytes"] for record in evaluations],
        "configuration": configuration,
    }
    if "space" in configuration:
        encoder = {"sha256": coded[-1]["sha256"]} if coded else {}
        results["space"] = {**configuration["space"], **encoder}
    if coded:
        results["reconstruction"] = [record["decibels"] for record in coded]
    if qualities := cast(list[Quality], came["replay_quality"]):
        results["replay_quality"] = replay_report(came["reference"][0], qualities)
    leakage = {"privacy": leakage_of(came["privacy"], names)} if came["privacy"] else {}
    return results, {**results, **leakage, "ranks": launched().size, **_costs(logs)}


def _sorted(records: dict[str, Record]) -> tuple[dict[str, list[Record]], dict[str, Record]]:
    """What came out, by its kind, in the order of the tasks; and what each stage cost.

    Of what was learnt elsewhere, no cost is known.
    """
    came: dict[str, list[Record]] = {kind: [] for kind in _CAME_OUT}
    logs: dict[str, Record] = {}
    for name, record in records.items():
        kind = name.split(".")[1]
        if kind in came:
            came[kind].append(record)
        elif record:
            logs[name] = record
    return came, logs


def _costs(logs: dict[str, Record]) -> Record:
    """Seconds of learning by task and stage, of evaluation by stage; memory; what bases leave.

    Of private trainings, epsilon and delta by task.
    """
    free: dict[str, float] = {}
    private: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    cpu: dict[str, dict[str, float]] = {}
    evaluation: dict[str, float] = {}
    for name, log in logs.items():
        task, stage = name.split(".")
        free |= {
            key.removeprefix("basis_free/"): value
            for key, value in log["metrics"].items()
            if key.startswith("basis_free/")
        }
        if "epsilon" in log["metrics"]:
            private[task] = {name: log["metrics"][name] for name in ("epsilon", "delta")}
        if task == "assessment" or stage == "assess_replay":
            evaluation[stage] = evaluation.get(stage, 0.0) + log["seconds"]
        else:
            seconds.setdefault(task, {})[stage] = log["seconds"]
            cpu.setdefault(task, {})[stage] = log["cpu_seconds"]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "evaluation_seconds": evaluation,
        "basis_free": free,
        **({"private": private} if private else {}),
        "peak_memory_bytes": max((log["peak_memory_bytes"] for log in logs.values()), default=None),
    }


def draw_accuracy_matrix(report: Record) -> Picture:
    """Accuracy by task after each task."""
    matrix = report["accuracy_matrix"]
    return Picture(heat_maps.accuracy_matrix_figure(matrix), figure_data.matrix_rows(matrix))


def draw_accuracy_over_tasks(report: Record) -> Picture:
    """Accuracy of each task, and on average, as tasks are learnt."""
    matrix, average = report["accuracy_matrix"], report["average_accuracy_after_task"]
    figure = figures.accuracy_over_tasks_figure(matrix, average)
    return Picture(figure, figure_data.matrix_rows(matrix, average))


def draw_memory(stream: StreamConfig, report: Record) -> Picture:
    """Accuracy by class after each task."""
    names = stream.class_names
    return heat_maps.memory_picture(report["per_class_accuracy_after_task"], names)


def draw_nearest_pairs(
    stream: StreamConfig, replay: LabelledImages, *trains: LabelledImages
) -> Picture:
    """What is drawn after the last task, beside the nearest training images."""
    pairs = pairs_of(replay, LabelledImages.concatenate(trains))
    return nearest_pairs_picture({stream.class_names[k]: images for k, images in pairs.items()})


def draw_confusion(stream: StreamConfig, report: Record) -> Picture:
    """Which class is taken for which, after the last task."""
    counts, classes = report["confusion"], report["confusion_classes"]
    return heat_maps.confusion_picture(counts, classes, stream.class_names)


def draw_replay(
    space: SpaceConfig,
    device: str,
    stream: StreamConfig,
    replay: LabelledImages,
    *tests: LabelledImages,
) -> Picture:
    """The last task's replay beside real test images of the same classes, if any may be shown."""
    real, names = real_pictures(space, stream, tests), stream.class_names
    replay = pictures_of(space, stream, device, replay, _SHOWN)
    figure = figures.replay_grid_figure(replay, real, names)
    none = LabelledImages.empty(replay.image_shape)
    return Picture(figure, figure_data.brightness_rows(replay, real or none, names))


def draw_prototypes(
    space: SpaceConfig, device: str, stream: StreamConfig, state: LearnerState
) -> Picture:
    """Every prototype as it started and as it was frozen."""
    starts, ends = prototypes_of(space, device, state)
    names = stream.class_names
    figure = figures.prototypes_figure(starts, ends, names)
    return Picture(figure, figure_data.prototype_rows(starts, ends, names))


def draw_drift(
    space: SpaceConfig,
    device: str,
    stream: StreamConfig,
    report: Record,
    last: Task,
    *images: LabelledImages,
) -> Picture:
    """The first classes' replay after each task beside the real thing.

    Args:
        space: in which images are learnt.
        device: where they are decoded, if they are encoded.
        stream: names the classes.
        report: with the quality of replay.
        last: the last task.
        images: what is replayed after each task, then the test images of each, if they may be
            shown.
    """
    real = real_pictures(space, stream, images[last.total :])
    classes = report["confusion_classes"]
    shown = [replay.of_classes(classes[:_DRIFTING]) for replay in images[: last.total]]
    replays = [pictures_of(space, stream, device, replay, _SHOWN) for replay in shown]
    return strips.drift_strip_picture(replays, real, report, classes, stream.class_names)


def draw_replay_quality(stream: StreamConfig, report: Record) -> Picture:
    """Measures of replay over the tasks."""
    names = stream.class_names
    return strips.replay_quality_picture(report, report["confusion_classes"], names)


def draw_embedding(
    *,
    evaluation: EvaluationConfig,
    space: SpaceConfig,
    seed: int,
    device: str,
    stream: StreamConfig,
    oracle: TrainedOracle,
    replay: LabelledImages,
    **tests: LabelledImages,
) -> Picture:
    """What is replayed after the last task and the tasks' test images, as a t-SNE."""
    name = evaluation.extractors[0]
    extract = build_extractors(evaluation, resolve_device(device)).get(name, oracle)
    per_class, real = evaluation.images_per_class, real_pictures(space, stream, [*tests.values()])
    assert real is not None
    sets = (pictures_of(space, stream, device, replay, per_class), real)
    few = [images.first_of_each(per_class) for images in sets]
    replayed, tested = ((extract(part.images), part.labels.tolist()) for part in few)
    return embedding_picture(replayed, tested, name, stream.class_names, seed)


def draw_seconds(report: Record) -> Picture:
    """Where the seconds went."""
    return diagnostics_figures.seconds_picture(report["seconds"])


def draw_losses(**logs: Record) -> Picture:
    """Every loss over the steps of each task."""
    return diagnostics_figures.losses_picture(logs)


def draw_projection(**logs: Record) -> Picture:
    """What is left free in the projected layers, and what drifted."""
    return diagnostics_figures.projection_picture(logs)


def draw_bounds(report: Record, finished: Reports) -> Picture:
    """Average accuracy between lower and upper bound, where there are such runs."""
    method = report["configuration"]["method"]
    average = report["average_accuracy_after_task"]
    return diagnostics_figures.bounds_picture(method, average, bounds_of(report, finished))


def write_page(stream: StreamConfig, report: Record, **pictures: str) -> str:
    """The report as one page.

    Args:
        stream: names the classes.
        report: the run's.
        pictures: by name, as data URIs.
    """
    return run_page(report, stream.class_names, pictures, environment())
