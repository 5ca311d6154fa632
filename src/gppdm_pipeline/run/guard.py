"""What is checked on disk before anything runs."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from gppdm_pipeline.algorithm.classifier import timm_net
from gppdm_pipeline.algorithm.context import CPU, resolve_device
from gppdm_pipeline.algorithm.disk.writing import naming
from gppdm_pipeline.catalog.datasets import JsonDataset, OnDisk, StateDataset
from gppdm_pipeline.catalog.retention import ReleasableImages
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.configuration.layers import ConfigurationError, flatten
from gppdm_pipeline.configuration.params import written
from gppdm_pipeline.evaluation.extractors import build_extractors
from gppdm_pipeline.pipelines.compare.pipeline import FROM_FOLDER, FROM_MLFLOW
from gppdm_pipeline.pipelines.continual.assessment import NAMESPACE
from gppdm_pipeline.pretrained.folder import EncoderError
from gppdm_pipeline.run.command import FILTERS, RefusedError
from gppdm_pipeline.run.same_images import changed_images
from gppdm_pipeline.spaces.space import PLACES
from gppdm_pipeline.streams.scenario import read_task


def is_whole(run_params: Mapping[str, Any]) -> bool:
    """Whether every node will run."""
    return not any(run_params[key] for key in (*FILTERS, "only_missing_outputs"))


def check_outputs(
    experiment: Experiment, pipeline: Pipeline, catalog: DataCatalog, whole: bool
) -> None:
    """Keep runs with different settings out of each other's folders.

    The settings of a run are kept beside its states. Outputs made with other settings, or of other
    images, are removed by a whole run that was told to overwrite them, and replaced one by one by a
    run of some nodes that was; otherwise the run is refused.

    Raises:
        RefusedError: listing the settings that differ, or the images.
    """
    record = catalog["configuration"]
    assert isinstance(record, JsonDataset)
    if whole and experiment.overwrite:
        for folder in _folders(experiment.run, pipeline, catalog):
            with naming(folder):
                shutil.rmtree(folder)
    if record.exists():
        faults = differences(record.load(), experiment.record())
    else:
        folders = _folders(experiment.run, pipeline, catalog)
        faults = [f"{folder} has no {record.path.name}" for folder in folders]
    what = "with other settings"
    if not faults and not experiment.overwrite and _reads_source(pipeline):
        faults, what = [*changed_images(experiment, catalog)], "of other images"
    if faults and not experiment.overwrite:
        repair = (
            "Keep both: --params=variant=<name of this run>. Or remove those first: "
            "--params=overwrite=true."
            if whole
            else "A run of some of the nodes goes on from those outputs: give it their settings, "
            "or run the whole pipeline with --params=variant=<name of this run>. (If all that is "
            "new are tasks behind the others, the whole pipeline learns these alone.)"
        )
        raise RefusedError(
            f"There are outputs of {experiment.run} already, made {what}:\n"
            + "\n".join(f"  {fault}" for fault in faults)
            + f"\n{repair}"
        )


def check_inputs(
    experiment: Experiment, pipeline: Pipeline, catalog: DataCatalog, run_params: Mapping[str, Any]
) -> None:
    """Every file that the run will read is there, whole, and of these settings.

    Raises:
        RefusedError: naming the file that is missing, and the command that makes it; the images
            that were released; or the state of other settings, and what differs.
        DatasetError: naming the file that is damaged.
    """
    free, only_missing = pipeline.inputs(), run_params["only_missing_outputs"]
    read = {name for node in pipeline.nodes for name in node.inputs}
    for name, dataset in _on_disk(sorted(read), catalog):
        there = dataset.exists()
        if name in free and not there:
            maker = next(node.name for node in pipelines["continual"].nodes if name in node.outputs)
            raise RefusedError(
                f"{dataset.path} is missing, and this run starts behind {maker}, which makes it. "
                f"Run what is missing: {command(run_params, '--only-missing-outputs')}\n"
                f"or start there: {command(run_params, f'--from-nodes={maker}')}"
            )
        if isinstance(dataset, ReleasableImages) and dataset.released:
            if _is_waited_for(name, pipeline, catalog) if only_missing else name in free:
                raise RefusedError(dataset.gone)
        elif there and (name in free or only_missing):
            dataset.verify()
            if isinstance(dataset, StateDataset):
                _check_state(dataset, experiment)


def check_states(pipeline: Pipeline, catalog: DataCatalog, run_params: Mapping[str, Any]) -> None:
    """The states that are to be looked into are there.

    Raises:
        RefusedError: naming the one that is missing, and the command that makes it.
    """
    for _, dataset in _on_disk(sorted(pipeline.inputs()), catalog):
        if isinstance(dataset, StateDataset) and not dataset.exists():
            raise RefusedError(
                f"{dataset.path} is missing: an audit is of a run that has learnt all its tasks. "
                f"Learn them first: {command(run_params)}"
            )


def _is_waited_for(name: str, pipeline: Pipeline, catalog: DataCatalog) -> bool:
    """Whether what a node makes of it is missing."""
    made = [output for node in pipeline.nodes if name in node.inputs for output in node.outputs]
    return any(not dataset.exists() for _, dataset in _on_disk(made, catalog))


def _check_state(dataset: StateDataset, experiment: Experiment) -> None:
    """A state is of these settings; its tasks may have come from a stream that has others later."""
    manifest = dataset.manifest()
    there = manifest["configuration"]
    if not there:
        raise RefusedError(
            f"{dataset.path} does not say what it was made with: make it again by running its task."
        )
    faults = differences(besides_stream(there), besides_stream(experiment.record()))
    names, known = experiment.stream.class_names, there.get("classes", ())
    learnt = [[_name(label, known) for label in sorted(task)] for task in manifest["tasks"]]
    tasks = experiment.stream.classes_by_task(experiment.seed)[: len(learnt)]
    now = [[_name(label, names) for label in sorted(task)] for task in tasks]
    if learnt != now:
        faults.append(f"tasks: {learnt} there, {now} now")
    elif manifest["tasks"] != [sorted(task) for task in tasks]:
        faults.append(f"numbers of the classes: {list(known)} there, {list(names)} now")
    if faults:
        raise RefusedError(
            f"{dataset.path} was made with other settings:\n"
            + "\n".join(f"  {fault}" for fault in faults)
            + "\nGive the run the state's settings, or make the state again by running its task."
        )


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def besides_stream(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record that do not concern which images come when."""
    return {key: record[key] for key in record if key not in ("stream", *_OUTCOMES)}


_PLACES = {f"space.{key}" for key in PLACES}
_OUTCOMES = ("classes", "number_of_tasks")
"""What a record has besides settings; classes that have come behind change nothing."""


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two records differ in; what is None is as good as not there."""
    known = there.get("classes", ())
    if [*now.get("classes", ())][: len(known)] == [*known]:
        there, now = ({k: r[k] for k in r if k != "classes"} for r in (there, now))
    flat, other = flatten(there), flatten(now)
    if flat.get("space.sha256") == other.get("space.sha256") is not None:  # wherever it lies
        flat, other = ({k: r[k] for k in r if k not in _PLACES} for r in (flat, other))
    return [
        f"{key}: {flat.get(key, 'unset')} there, {other.get(key, 'unset')} now"
        for key in sorted({*flat, *other})
        if flat.get(key) != other.get(key) and not _grown(key, flat.get(key), other.get(key))
    ]


def _grown(key: str, there: Any, now: Any) -> bool:
    """Whether names of classes, by which a method makes their labels, have got more."""
    return (
        key.endswith(".condition.class_names")
        and bool(there and now)
        and [*now][: len(there)] == [*there]
    )


def check_reports(benchmark: str, catalog: DataCatalog) -> None:
    """There is something to compare.

    Raises:
        RefusedError: if there is no finished run.
        DatasetError: if a report is damaged, or MLflow refuses.
    """
    if not any(catalog.load(name) for name in (FROM_FOLDER, FROM_MLFLOW)):
        raise RefusedError(
            f"There is no finished run of benchmark {benchmark}, neither in data/08_reporting nor "
            f"in MLflow. Make some: make sweep ARGS='--benchmark={benchmark} "
            "--methods=finetune,joint --seeds=0,1,2'"
        )


def check_stream(experiment: Experiment, pipeline: Pipeline) -> None:
    """What the run will read from its source is there and whole, and the method can learn it.

    Raises:
        SourceError: naming the file that is missing or damaged.
        RefusedError: naming the setting that does not fit the images.
    """
    if _reads_source(pipeline):
        check_images(experiment)


def check_images(experiment: Experiment) -> None:
    """The first task's images are there and whole, and the method can learn them.

    Raises:
        SourceError, RefusedError: as `check_stream`.
    """
    images = read_task(experiment.stream, experiment.seed, 1).train
    try:
        classes = len(experiment.stream.class_names)
        shape = experiment.space.shape_of(images.image_shape)
        experiment.learner.check(shape, classes)
        classifier = experiment.learner.classifier
        sees = images.image_shape if classifier.sees == "images" else shape
        timm_net.check(classifier.network, sees)
        if experiment.space.encodes:
            experiment.learner.check_encoded()
    except ValueError as error:
        raise RefusedError(f"{experiment.method} cannot learn these images: {error}") from error


def device_of(experiment: Experiment) -> torch.device:
    """Where it computes.

    Raises:
        ConfigurationError: if that is not there.
    """
    try:
        return resolve_device(experiment.device)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _reads_source(pipeline: Pipeline) -> bool:
    return any(node.name.endswith((".split", "look")) for node in pipeline.nodes)


def check_evaluation(experiment: Experiment, pipeline: Pipeline) -> None:
    """What will be measured can be; feature extractors are there and work.

    Raises:
        RefusedError: naming the setting, the package or the file, and the repair.
    """
    if experiment.evaluation.privacy and experiment.space.encodes:
        raise RefusedError(
            f"evaluation.privacy = true, space.name = {experiment.space.name}: what a state tells "
            "of its images is measured in pixels alone. Set evaluation.privacy=false, or learn "
            "pixels."
        )
    if not any(node.namespace == NAMESPACE for node in pipeline.nodes):
        return
    try:
        for extract in build_extractors(experiment.evaluation, CPU).values():
            extract(np.zeros((1, 8, 8, 1), np.uint8))
    except EncoderError as error:
        raise RefusedError(str(error)) from error


def command(run_params: Mapping[str, Any], *options: str) -> str:
    """The same run with other options."""
    params = written(run_params["runtime_params"] or {})
    words = [
        "kedro run --pipeline=continual",
        *options,
        *([f"--params={shlex.quote(params)}"] if params else []),
    ]
    return " ".join(words)


def _on_disk(names: list[str], catalog: DataCatalog) -> Iterator[tuple[str, OnDisk[Any, Any]]]:
    for name in names:
        dataset = catalog[name]
        if isinstance(dataset, OnDisk):
            yield name, dataset


def _folders(run: str, pipeline: Pipeline, catalog: DataCatalog) -> list[Path]:
    """The run's folders that exist, one in each layer of data/."""
    files = [str(dataset.path) for _, dataset in _on_disk(sorted(pipeline.datasets()), catalog)]
    folders = {Path(file.split(f"/{run}/")[0]) / run for file in files}
    return sorted(folder for folder in folders if folder.exists())
