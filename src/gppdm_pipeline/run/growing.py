"""A stream that has become longer: the new tasks are learnt from the state that is there.

Whether that may be is judged by what came out of the stream, rather than by how it was written: the
classes of each earlier task, and the hashes of its images.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog

from gppdm_pipeline.catalog.datasets import JsonDataset, OnDisk, StateDataset
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.pipelines.continual.assessment import NAMESPACE as ASSESSMENT
from gppdm_pipeline.pipelines.continual.pipeline import task_name
from gppdm_pipeline.provenance import code_digest
from gppdm_pipeline.run.command import RefusedError
from gppdm_pipeline.run.guard import besides_stream, differences
from gppdm_pipeline.run.same_images import of_state
from gppdm_pipeline.streams.scenario import StreamConfig
from gppdm_pipeline.streams.sources import SourceError, moved

logger = logging.getLogger(__name__)

REPAIR = (
    "Put back what changed; or keep both runs: --params=variant=<name of this run>; or learn all "
    "tasks anew: --params=overwrite=true."
)


def read_record(file: Path) -> dict[str, Any]:
    """What a run's outputs were made with; nothing if there is no record, or a damaged one."""
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):  # the checks before a run tell what is wrong
        return {}
    return record


def first_new_task(record: Mapping[str, Any], experiment: Experiment) -> int | None:
    """The first task that a run of this record does not have, if the experiment's stream is longer.

    Args:
        record: of the run that is there; may be empty.
        experiment: what is asked for.
    """
    there = record.get("number_of_tasks", experiment.number_of_tasks)
    if experiment.overwrite or there >= experiment.number_of_tasks:
        return None
    return int(there) + 1


def new_namespaces(first: int, experiment: Experiment) -> list[str]:
    """Where the nodes are that run: settings, new tasks, what replay is like, and the report."""
    tasks = [task_name(number) for number in range(first, experiment.number_of_tasks + 1)]
    assessed = experiment.learner.has_generator and experiment.evaluation.replay
    assessed = assessed and experiment.space.shows
    return ["settings", *tasks, *([ASSESSMENT] if assessed else []), "report"]


def check_growth(experiment: Experiment, first: int, catalog: DataCatalog) -> None:
    """Everything before the first new task is as it was when it was learnt.

    Args:
        experiment: of the longer stream.
        first: the number of the first new task.
        catalog: of the run.

    Raises:
        RefusedError: naming what is missing, or what changed: settings, classes, images.
        DatasetError: naming a file that is damaged.
        SourceError: if the source cannot be read.
    """
    state, evaluation = _last_of(first - 1, catalog)
    manifest = state.manifest()
    faults = _changed_settings(experiment, catalog) or _changed_classes(experiment, manifest)
    faults = faults or [*of_state(experiment, manifest, evaluation, catalog)]
    faults += _divided_anew(experiment, catalog) if faults else []
    if faults:
        raise RefusedError(
            f"{experiment.run} has learnt {first - 1} tasks, and cannot go on to "
            f"{experiment.number_of_tasks}, because something earlier is not as it was:\n"
            + "\n".join(f"  {fault}" for fault in faults)
            + f"\n{REPAIR}"
        )
    made = read_record(state.path / "provenance.json")
    if made.get("code") != code_digest():
        logger.warning(
            "The tasks that are there were learnt by other code (commit %s); the new ones are "
            "learnt by this one.",
            made.get("git_commit", "unknown"),
        )
    total = experiment.number_of_tasks
    there = _tasks(1, first - 1).capitalize() + (" is" if first == 2 else " are")
    logger.info("%s there; training %s.", there, _tasks(first, total))


def set_report_aside(first: int, outputs: set[str], catalog: DataCatalog) -> None:
    """Move the report of the shorter stream to a folder of its own, `before_task_<tt>`.

    The quality of replay goes with it: the oracle that judges it may know more classes now.

    Args:
        first: the number of the first new task.
        outputs: the names of all that the run makes.
        catalog: of the run.
    """
    root = _on_disk("report.metrics", catalog).path.parent
    for name in outputs:
        dataset = catalog[name] if _is_of_report(name) else None
        if not (isinstance(dataset, OnDisk) and dataset.path.exists()):
            continue
        if not dataset.path.is_relative_to(root):  # images drawn to be measured
            dataset.path.unlink()
            continue
        place = root / f"before_{task_name(first)}" / dataset.path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        dataset.path.replace(place)


def _is_of_report(name: str) -> bool:
    return name.startswith(("report.", f"{ASSESSMENT}.")) or name.endswith(
        (".replay_quality", ".assess_replay_log")
    )


def _last_of(task: int, catalog: DataCatalog) -> tuple[StateDataset, Mapping[str, Any]]:
    """State and evaluation of the last task there."""
    state, evaluation = (catalog[f"{task_name(task)}.{name}"] for name in ("state", "evaluation"))
    assert isinstance(state, StateDataset) and isinstance(evaluation, JsonDataset)
    for dataset in (state, evaluation):
        if not dataset.exists():
            raise RefusedError(
                f"{dataset.path} is missing: task {task} has not been learnt to its end. First "
                f"give the command of the stream of {task} tasks again, then that of the longer."
            )
    return state, evaluation.load()


def _changed_settings(experiment: Experiment, catalog: DataCatalog) -> list[str]:
    return differences(*map(besides_stream, (catalog.load("configuration"), experiment.record())))


def _changed_classes(experiment: Experiment, manifest: Mapping[str, Any]) -> list[str]:
    """Of the earlier tasks, by name; and what their labels mean."""
    names, known = experiment.stream.class_names, manifest["configuration"]["classes"]
    now = experiment.stream.names_by_task(experiment.seed)
    faults = []
    for number, labels in enumerate(manifest["tasks"], start=1):
        there = sorted(known[label] for label in labels)
        if there != sorted(now[number - 1]):
            faults.append(
                f"task {number}: classes {', '.join(there)} there, "
                f"{', '.join(sorted(now[number - 1]))} now"
            )
    learnt = {label for labels in manifest["tasks"] for label in labels}
    if not faults and any(known[label] != names[label] for label in learnt):
        faults = [f"numbers of the classes: {', '.join(known)} there, {', '.join(names)} now"]
    if faults and experiment.stream.repetition is not None:
        faults.append(
            "repetition.experiences is over how many tasks new classes are spread: leave it as it "
            "was, and add tasks with repetition.further=<how many>"
        )
    if faults and experiment.stream.class_order == "random":
        faults.append(
            "class_order is random, which draws the order of all classes anew when there are "
            "more: name them in the order that they came in, and the new ones behind"
        )
    return faults


def _divided_anew(experiment: Experiment, catalog: DataCatalog) -> list[str]:
    """Why images may have changed: a class has to share them with more tasks than were planned."""
    if experiment.stream.returning_images != "divide":
        return []
    try:
        before = StreamConfig.model_validate(
            moved(catalog.load("configuration")["stream"], experiment.stream.source)
        )
    except (ValueError, SourceError):  # its source is not as it was: there is more to say of that
        return []
    there, now = (_occurrences(stream, experiment.seed) for stream in (before, experiment.stream))
    more = [name for name, times in there.items() if now[name] > times]
    if not more:
        return []
    return [
        "returning_images is divide, which deals a class's images out among all tasks that it is "
        f"in, and {', '.join(more)} would come more often than was planned. Let only new classes "
        "come, or make another run, of a stream that can grow: list all tasks from the start and "
        "learn the first of them (stream.up_to_task=<number>), or let a number of images be drawn "
        "for each task (stream.returning_images=<number>)"
    ]


def _occurrences(stream: StreamConfig, seed: int) -> Counter[str]:
    """How many tasks each class is planned for."""
    return Counter(stream.class_names[k] for task in stream.planned_by_task(seed) for k in task)


def _on_disk(name: str, catalog: DataCatalog) -> OnDisk[Any, Any]:
    dataset = catalog[name]
    assert isinstance(dataset, OnDisk)
    return dataset


def _tasks(first: int, last: int) -> str:
    return f"task {first}" if first == last else f"tasks {first}-{last}"
