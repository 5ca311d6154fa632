"""Kedro's session, with two things added.

A stopped command goes on when it is given again; and of a stream that has become longer than that
of the run that is there, the new tasks are learnt.
"""

from __future__ import annotations

import logging
from typing import Any

from kedro.framework.session import KedroSession
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from gppdm_pipeline.run.command import FILTERS, Command
from gppdm_pipeline.run.growing import first_new_task, new_namespaces, read_record
from gppdm_pipeline.run.loader import ExperimentLoader

logger = logging.getLogger(__name__)

BESIDE = {"audit", "compare", "inspect"}
"""Pipelines that learn nothing, and so have nothing to go on with."""


class Session(KedroSession):
    """A session whose run skips what is there of an earlier run that it goes on with."""

    _loader: ExperimentLoader | None = None

    def run(self, *, only_missing_outputs: bool = False, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """As Kedro's, by keyword.

        A command is the same if it has the same settings and is of the same nodes. One that ended
        runs anew.
        """
        if not BESIDE & {*(options.get("pipeline_names") or ())}:
            options |= self._going_on(only_missing_outputs, options)
        else:
            options["only_missing_outputs"] = only_missing_outputs
        try:
            return super().run(**options)
        except (KeyboardInterrupt, SystemExit) as stop:  # Kedro tells its hooks of errors only
            self._hook_manager.hook.on_pipeline_error(
                error=stop, run_params=options, pipeline=Pipeline([]), catalog=DataCatalog()
            )
            raise

    def _going_on(self, only_missing_outputs: bool, options: dict[str, Any]) -> dict[str, Any]:
        """Which nodes to run, of those asked for."""
        catalog = super()._get_config_loader()["catalog"]
        record = read_record(self._project_path / catalog["configuration"]["filepath"])
        loader = self._get_config_loader()  # another: what a catalog has been read with stays so
        whole = not any(options.get(name) for name in FILTERS)
        if not (whole and loader.experiment.overwrite):
            loader.keep_numbering(record.get("classes", ()))
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

    def _get_config_loader(self) -> ExperimentLoader:
        """One for the session: it knows the run that is there."""
        if self._loader is None:
            loader = super()._get_config_loader()
            assert isinstance(loader, ExperimentLoader)
            self._loader = loader
        return self._loader
