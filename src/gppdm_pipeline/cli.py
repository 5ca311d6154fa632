"""The project's commands. Kedro imports this module before any command runs.

`run` is Kedro's, with this project's reading of `--params`, and without tracebacks.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.environment import ignore_known_warnings
from gppdm_pipeline.faults import PlainCommand

ignore_known_warnings()


def _parsed(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Of the command line; a file named by --config holds a mapping."""
    try:
        return value if isinstance(value, dict) else parse(value)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error


def _options() -> list[click.Parameter]:
    options = [copy(option) for option in kedro_run.params]
    (params,) = (option for option in options if option.name == "params")
    params.callback = _parsed
    return options


run = PlainCommand("run", params=_options(), callback=kedro_run.callback, help=kedro_run.help)
cli = click.Group("gppdm-pipeline", commands=[run])

__all__ = ["cli", "run"]
