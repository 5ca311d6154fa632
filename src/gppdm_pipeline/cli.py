"""Kedro's own commands. Kedro imports this module before any command runs."""

from kedro.framework.cli.project import project_group as cli
from kedro.framework.cli.project import run

from gppdm_pipeline.environment import ignore_known_warnings

ignore_known_warnings()

__all__ = ["cli", "run"]
