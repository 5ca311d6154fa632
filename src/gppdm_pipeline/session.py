"""Kedro's session, with one thing added: a stopped command goes on when it is given again."""

from __future__ import annotations

import logging
from typing import Any

from kedro.framework.session import KedroSession
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from gppdm_pipeline.loader import ExperimentLoader
from gppdm_pipeline.pipelines.scratch import Command

logger = logging.getLogger(__name__)


class Session(KedroSession):
    """A session whose run skips what an earlier, stopped run of the same command has made."""

    def run(self, *, only_missing_outputs: bool = False, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """As Kedro's, by keyword.

        A command is the same if it has the same settings and is of the same nodes. One that ended
        runs anew.
        """
        loader = self._get_config_loader()
        assert isinstance(loader, ExperimentLoader)
        scratch = self._project_path / loader["catalog"]["scratch"]["filepath"]
        command = Command(scratch, loader.experiment, options)
        compares = "compare" in (options.get("pipeline_names") or ())
        if not only_missing_outputs and not compares and command.goes_on():
            logger.info(
                "Going on with what was stopped. To make it anew, remove %s first.", scratch
            )
            only_missing_outputs = True
        try:
            return super().run(only_missing_outputs=only_missing_outputs, **options)
        except (KeyboardInterrupt, SystemExit) as stop:  # Kedro tells its hooks of errors only
            self._hook_manager.hook.on_pipeline_error(
                error=stop, run_params=options, pipeline=Pipeline([]), catalog=DataCatalog()
            )
            raise
