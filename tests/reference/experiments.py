"""What a command would run."""

from __future__ import annotations

from gppdm_pipeline.grids import runs


def experiment_of(params):
    """Of one text of `--params`."""
    (experiment,) = runs.experiments_of([params])
    return experiment
