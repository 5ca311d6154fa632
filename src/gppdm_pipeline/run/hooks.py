"""What happens around a run: checks before it, MLflow along it, a summary after it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from gppdm_pipeline.algorithm.disk.writing import replace_file
from gppdm_pipeline.catalog.datasets import OnDisk
from gppdm_pipeline.catalog.registry_dataset import RegistryDataset
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.evaluation.replay_quality import numbers_of
from gppdm_pipeline.pipelines.audit.pipeline import RESULTS as AUDIT
from gppdm_pipeline.pipelines.compare.pipeline import FROM_MLFLOW
from gppdm_pipeline.pipelines.compare.pipeline import RESULTS as COMPARISON
from gppdm_pipeline.pipelines.continual.pipeline import task_name
from gppdm_pipeline.pipelines.inspect.page import as_markdown
from gppdm_pipeline.pipelines.inspect.pipeline import RESULTS as INSPECTION
from gppdm_pipeline.pipelines.publish.pipeline import REGISTRY
from gppdm_pipeline.pipelines.publish.pipeline import RESULT as PUBLISHED
from gppdm_pipeline.run import growing, guard, releasing, using
from gppdm_pipeline.run.away import StorageError
from gppdm_pipeline.run.command import Command, Lock, RefusedError
from gppdm_pipeline.run.loader import ExperimentLoader
from gppdm_pipeline.run.mlflow_places import (
    artifact_location,
    database_uri,
    follow_move_or_tell,
)
from gppdm_pipeline.run.reports import MlflowReports
from gppdm_pipeline.run.so_far import number_of, so_far
from gppdm_pipeline.run.storage import Storage
from gppdm_pipeline.run.summary import print_summary
from gppdm_pipeline.stopping import stop_at_signals
from gppdm_pipeline.streams.sources import fingerprint

if TYPE_CHECKING:
    from gppdm_pipeline.run.tracking import Tracker

logger = logging.getLogger(__name__)


class ExperimentHooks:
    """One experiment per session, or a comparison of finished ones."""

    _command: Command
    _experiment: Experiment
    _first_new_task: int | None
    _mlflow: dict[str, str]
    _project: Path
    _releasing: releasing.Releasing
    _scratch: Scratch
    _storage: Storage
    _tracker: Tracker

    def __init__(self) -> None:
        self._lock = Lock()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the experiment of the session."""
        self._project = context.project_path
        loader = context.config_loader
        assert isinstance(loader, ExperimentLoader)
        self._experiment = loader.experiment
        self._first_new_task = loader.first_new_task
        self._mlflow = loader["mlflow"]
        self._storage = Storage.of(loader)

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Say where MLflow's runs are: in conf, that is in mlflow.yml and not in the catalog."""
        catalog[FROM_MLFLOW] = MlflowReports(
            settings=self._mlflow, project=self._project, experiment=self._experiment.benchmark
        )
        uri = database_uri(self._mlflow, self._project)
        location = artifact_location(self._mlflow, self._project)
        catalog[REGISTRY] = RegistryDataset(
            tracking_uri=uri,
            experiment=self._experiment.benchmark,
            artifact_location=location,
        )

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Refuse a run that could not end well, then open it in MLflow."""
        whole = guard.is_whole(run_params)
        if self._checked(run_params, pipeline, catalog):
            return
        from gppdm_pipeline.run.tracking import Tracker  # noqa: PLC0415 (MLflow: slow)

        self._scratch = catalog.load("scratch")
        first = self._first_new_task
        asked = {} if first else run_params  # the nodes of new tasks are chosen by the session
        self._command = Command(self._scratch.folder, self._experiment, asked)
        with (
            self._lock.acquired(self._scratch.folder / "lock", self._experiment.run),
            releasing.released_if_refused(self._experiment, releasing.retention_of(catalog)),
        ):
            releasing.check_retention(self._experiment)
            guard.check_evaluation(self._experiment, pipeline)
            self._check(pipeline)
            releasing.check_means(self._experiment, pipeline)
            if first:
                growing.check_growth(self._experiment, first, catalog)
            else:
                guard.check_outputs(self._experiment, pipeline, catalog, whole)
            guard.check_inputs(self._experiment, pipeline, catalog, run_params)
            record = None if whole else self._scratch.mlflow_run
            self._tracker = Tracker.start(self._mlflow, self._project, self._experiment, record)
            if first and self._command.first_new_task() is None:
                growing.set_report_aside(first, pipeline.all_outputs(), catalog)
                self._log_earlier_tasks(first, catalog)
            continual = pipelines["continual"]
            self._releasing = releasing.Releasing(self._experiment, continual, catalog)
            self._releasing.begin(pipeline, run_params["only_missing_outputs"])
            # In this order: whatever happens between the two, the same command goes on.
            self._command.begin(first)
            catalog.save("configuration", self._experiment.record())
            replace_file(self._scratch.mlflow_run, self._tracker.run_id.encode())
            self._storage.send()
        stop_at_signals()

    def _checked(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> bool:
        """Check what does not train; whether that is so."""
        space = self._experiment.space
        if space.encodes and _makes(AUDIT, pipeline):
            raise RefusedError(
                f"space.name = {space.name}: audit works on what is learnt in pixels alone. Learn "
                "pixels (space.name=pixels) to use it; the report of the pipeline continual tells "
                "what came out of the rest."
            )
        if space.trains and _makes(INSPECTION, pipeline):
            raise RefusedError(
                "space.autoencoder = own: inspect cannot try what is learnt before the autoencoder "
                "is trained. Inspect the stream in pixels (space.name=pixels)."
            )
        if _makes(COMPARISON, pipeline):
            guard.check_reports(self._experiment.benchmark, catalog)
        elif _makes(INSPECTION, pipeline):
            with releasing.released_if_refused(self._experiment, None):
                self._check(pipeline)
        elif using.uses(pipeline):
            using.check(self._experiment, pipeline, catalog)
            if _makes({PUBLISHED}, pipeline):
                follow_move_or_tell(self._mlflow, self._project)
        elif _makes(AUDIT, pipeline):
            guard.check_outputs(self._experiment, pipeline, catalog, whole=False)
            guard.check_states(pipeline, catalog, run_params)
        else:
            return False
        return True

    def _check(self, pipeline: Pipeline) -> None:
        guard.device_of(self._experiment)
        guard.check_stream(self._experiment, pipeline)

    @hook_impl
    def after_node_run(self, node: Node, catalog: DataCatalog, outputs: dict[str, Any]) -> None:
        """Send what a stage left behind to MLflow."""
        for name, value in outputs.items():
            namespace, _, dataset = name.partition(".")
            if not namespace.startswith("task_"):
                continue
            if dataset == "train":
                self._tracker.log_images(
                    f"{self._experiment.benchmark} {namespace}",
                    fingerprint(value),
                    len(value),
                    self._experiment.stream.source.model_dump(mode="json"),
                )
            elif dataset.endswith("_log"):
                self._tracker.log_stage(number_of(namespace), dataset.removesuffix("_log"), value)
            elif dataset == "evaluation":
                self._tracker.log_metrics(number_of(namespace), so_far(namespace, value, catalog))
            elif dataset == "replay_quality":
                self._tracker.log_metrics(number_of(namespace), numbers_of(value))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """When a stage's last output is written, its checkpoints go, and images that can."""
        if not self._lock.held:  # a comparison holds none
            return
        self._releasing.saved(dataset_name)
        if dataset_name == node.outputs[-1]:
            self._scratch.forget(node.name)
            self._releasing.release()
            self._storage.try_to_send()

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Keep the report in MLflow, and show it."""
        if self._told(pipeline, catalog):
            return
        self._releasing.end()
        made = sorted(name for name in pipeline.all_outputs() if name.startswith("report."))
        paths = {name: _path(catalog, name) for name in made}
        self._tracker.log_files(paths.values())
        self._tracker.finish("FINISHED")
        try:
            self._storage.send()  # if that fails, the same command goes on with it
            self._command.end()
            if "report.metrics" in made:
                self._scratch.mlflow_run.unlink(missing_ok=True)
            self._storage.try_to_send()
        finally:
            self._lock.release()
        if "report.metrics" in made:
            reports = paths["report.metrics"].parent
            print_summary(
                catalog.load("report.metrics"),
                {
                    "states": _path(catalog, "configuration").parent,
                    "report": _path(catalog, "report.page"),
                    "metrics.json and figures": reports,
                    "MLflow": "make ui" + (" (this run is incomplete there)" * self._tracker.lost),
                },
            )

    def _told(self, pipeline: Pipeline, catalog: DataCatalog) -> bool:
        """Show what came of a pipeline that does not train; whether it is one."""
        if _makes(COMPARISON, pipeline):
            self._keep_comparison(catalog)
        elif _makes(INSPECTION, pipeline):
            releasing.release_prepared(self._experiment)
            click.echo(as_markdown(catalog.load("inspection.json")))
            click.echo(f"Page and picture: {_path(catalog, 'inspection.markdown').parent}")
        elif using.uses(pipeline):
            using.tell(catalog, pipeline)
        elif _makes(AUDIT, pipeline):
            releasing.release_prepared(self._experiment, releasing.retention_of(catalog))
            click.echo(f"Audit: {_path(catalog, 'audit.page')}")
        else:
            return False
        return True

    @hook_impl
    def on_pipeline_error(self, error: BaseException) -> None:
        """Tell MLflow."""
        if not self._lock.held:
            return  # the run had not begun, or had ended, or learns nothing
        failed = isinstance(error, Exception)
        self._tracker.finish("FAILED" if failed else "KILLED")
        with suppress(StorageError):  # which is told already, or less than the error
            self._storage.try_to_send()
        self._lock.release()
        if not failed:
            logger.warning("Stopped. The same command goes on from here.")

    def _log_earlier_tasks(self, first: int, catalog: DataCatalog) -> None:
        """So that the curves of a run that goes on from other tasks begin where these do."""
        for number in range(1, first):
            task = task_name(number)
            evaluation = catalog.load(f"{task}.evaluation")
            self._tracker.log_metrics(number, so_far(task, evaluation, catalog))

    def _keep_comparison(self, catalog: DataCatalog) -> None:
        from gppdm_pipeline.run.tracking import log_comparison  # noqa: PLC0415 (MLflow: slow)

        files = [path for path in (_path(catalog, name) for name in COMPARISON) if path.exists()]
        log_comparison(self._mlflow, self._project, self._experiment.benchmark, files)
        click.echo(f"{catalog.load('comparison.markdown')}\nTable and figures: {files[0].parent}")


def _makes(results: Iterable[str], pipeline: Pipeline) -> bool:
    return not pipeline.all_outputs().isdisjoint(results)


def _path(catalog: DataCatalog, name: str) -> Path:
    dataset = catalog[name]
    assert isinstance(dataset, OnDisk)
    return dataset.path
