"""What a command would run."""

from __future__ import annotations

from gppdm_pipeline import sweep


def experiment_of(params):
    """Of one text of `--params`."""
    (experiment,) = sweep.experiments_of([params])
    return experiment
