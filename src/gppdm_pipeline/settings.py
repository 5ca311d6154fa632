"""Kedro's settings."""

import gppdm_pipeline.environment  # noqa: F401  isort: skip - before the libraries
from gppdm_pipeline.run.hooks import ExperimentHooks
from gppdm_pipeline.run.loader import ExperimentLoader
from gppdm_pipeline.run.session import Session

HOOKS = (ExperimentHooks(),)
SESSION_CLASS = Session

# kedro-telemetry comes with Kedro. Where they are installed, kedro-mlflow would open a second run,
# and kedro-viz complain at every run of some of the nodes; its commands need no hook.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry", "kedro_mlflow", "kedro-viz")

CONFIG_LOADER_CLASS = ExperimentLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {
        "benchmarks": ["benchmarks/*"],
        "spaces": ["spaces/*"],
        "mlflow": ["mlflow*"],
        "storage": ["storage*"],
    },
    "merge_strategy": {
        "parameters": "soft",
        "benchmarks": "soft",
        "spaces": "soft",
        "mlflow": "soft",
        "storage": "soft",
    },
}
