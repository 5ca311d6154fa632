"""Kedro's session, with some things added.

A stopped command goes on when it is given again; of a stream that has become longer than that of
the run that is there, the new tasks are learnt; relative paths are of the project, wherever the
command runs; and what is refused is told without a traceback.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from typing import Any

import click
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline

from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointError
from gppdm_pipeline.algorithm.fitting.log import DivergedError
from gppdm_pipeline.algorithm.team import RankError
from gppdm_pipeline.configuration.layers import ConfigurationError, one_of
from gppdm_pipeline.faults import explained
from gppdm_pipeline.images.labelled import RoomError
from gppdm_pipeline.pipeline_registry import NAMES
from gppdm_pipeline.pretrained.folder import EncoderError
from gppdm_pipeline.run import budget, using
from gppdm_pipeline.run.away import StorageError
from gppdm_pipeline.run.command import FILTERS, Command, RefusedError
from gppdm_pipeline.run.growing import first_new_task, new_namespaces, read_record
from gppdm_pipeline.run.loader import ExperimentLoader
from gppdm_pipeline.run.mlflow_places import TrackingError
from gppdm_pipeline.run.storage import Storage
from gppdm_pipeline.streams.sources import SourceError

logger = logging.getLogger(__name__)

TOLD = (
    CheckpointError,
    ConfigurationError,
    DatasetError,
    DivergedError,
    EncoderError,
    RankError,
    RefusedError,
    RoomError,
    SourceError,
    StorageError,
    TrackingError,
    *using.FAULTS,
)
"""Errors whose message is the whole story."""

_KEDRO_TELLS = ("kedro.pipeline.node", "kedro.runner.sequential_runner")
"""Loggers that repeat an error, and name another command that would go on."""

BESIDE = {"audit", "compare", "inspect", *using.PIPELINES}
"""Pipelines that learn nothing, and so have nothing to go on with."""


class Session(KedroSession):
    """A session whose run skips what is there of an earlier run that it goes on with."""

    _loader: ExperimentLoader | None = None

    def run(self, *, only_missing_outputs: bool = False, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """As Kedro's, by keyword.

        A command is the same if it has the same settings and is of the same nodes. One that ended
        runs anew.
        """
        with chdir(self._project_path), _told():
            if {*"{}"} & {*str(self._project_path)}:
                raise RefusedError(
                    f"{self._project_path}: Kedro takes what is in braces for a pattern. Rename "
                    "the folder, and give the command again."
                )
            names = options.get("pipeline_names") or ()
            for name in names:
                one_of("pipeline", name, NAMES, "--pipeline")
            before = self._loader_before()
            if not {"compare", "inspect"} & {*names}:
                Storage.of(before).fetch()
            if not BESIDE & {*names}:
                options |= self._going_on(before["catalog"], only_missing_outputs, options)
            else:
                options["only_missing_outputs"] = only_missing_outputs
                self._settle_beside(before, names)
            choice = self._get_config_loader().experiment.space_choice
            if choice and not {*names} & BESIDE - {"inspect"}:
                logger.info("%s", choice)
            try:
                return super().run(**options)
            except (KeyboardInterrupt, SystemExit) as stop:  # Kedro tells its hooks of errors only
                self._hook_manager.hook.on_pipeline_error(
                    error=stop, run_params=options, pipeline=Pipeline([]), catalog=DataCatalog()
                )
                raise

    def _going_on(
        self, catalog: dict[str, Any], only_missing_outputs: bool, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Which nodes to run, of those asked for."""
        file = self._project_path / catalog["configuration"]["filepath"]
        record = read_record(file)
        loader = self._get_config_loader()
        whole = not any(options.get(name) for name in FILTERS)
        there = {} if whole and loader.experiment.overwrite else record
        experiment = loader.begun(there).numbered(there.get("classes", ()))
        loader.use(budget.settle(experiment, there, file.parents[1], keeps=True))
        scratch = self._project_path / catalog["scratch"]["filepath"]
        command = Command(scratch, loader.experiment, options)
        if whole:
            first = command.first_new_task() or first_new_task(record, loader.experiment)
            if first:
                loader.first_new_task = first
                if only_missing_outputs:  # those of earlier tasks, too: it was asked for
                    return {"only_missing_outputs": True}
                namespaces = new_namespaces(first, loader.experiment)
                return {"only_missing_outputs": True, "namespaces": namespaces}
        if not only_missing_outputs and command.goes_on():
            logger.info(
                "Going on with what was stopped. To make it anew, remove %s first.", scratch
            )
            only_missing_outputs = True
        return {"only_missing_outputs": only_missing_outputs}

    def _settle_beside(self, before: ExperimentLoader, names: Iterable[str]) -> None:
        """Space and budget are those of the run that is there; else measured, or left."""
        left = before.experiment.budget is None and before.experiment.space_choice is None
        if left or "compare" in names:  # which reads reports alone
            return
        file = self._project_path / before["catalog"]["configuration"]["filepath"]
        loader, record = self._get_config_loader(), read_record(file)
        given = loader.begun(record), record, file.parents[1]
        measures = "inspect" in names
        loader.use(budget.settle(*given, keeps=False) if measures else budget.settled(*given))

    def _get_config_loader(self) -> ExperimentLoader:
        """One for the session: it knows the run that is there."""
        if self._loader is None:
            self._loader = self._loader_before()
        return self._loader

    def _loader_before(self) -> ExperimentLoader:
        """To look at something before the run: made before the session's own one.

        What a catalog has been read with stays so, and Kedro's resolvers are those of the latest.
        """
        with chdir(self._project_path):
            loader = super()._get_config_loader()
        assert isinstance(loader, ExperimentLoader)
        return loader


def _is_news(_: logging.LogRecord) -> bool:
    """Whether Kedro does not log what will be told: it logs while it handles the error."""
    return not isinstance(sys.exception(), TOLD)


@contextmanager
def _told() -> Iterator[None]:
    """What is refused as Click's exception, whose message says it all; own faults as they are."""
    for name in _KEDRO_TELLS:
        logging.getLogger(name).addFilter(_is_news)
    try:
        yield
        return
    except click.ClickException:
        raise
    except Exception as error:
        failed = _behind_kedro(error)
    text = str(failed) if isinstance(failed, TOLD) else explained(failed)
    if text is None:
        raise failed
    raise click.ClickException(text) from failed


def _behind_kedro(error: Exception) -> Exception:
    """What happened in a data set, where Kedro has made an error of its own of it."""
    inner: BaseException = error
    while isinstance(inner, DatasetError) and isinstance(inner.__cause__, DatasetError):
        inner = inner.__cause__
    wrapped = isinstance(inner, DatasetError) and str(inner).startswith("Failed while ")
    cause = inner.__cause__ if wrapped else None
    return cause if isinstance(cause, Exception) else error
