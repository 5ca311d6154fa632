"""What a run has learnt, as the pipelines that use it are given it."""

from __future__ import annotations

from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from gppdm_pipeline.catalog.places import place_of
from gppdm_pipeline.serving.trained import TrainedRun


class TrainedDataset(AbstractDataset[NoReturn, TrainedRun]):
    """A run's folders; nothing is read before it is asked for."""

    def __init__(self, *, run: str, models: str, images: str, replay: str) -> None:
        self._trained = TrainedRun(run, *map(place_of, (models, images, replay)))

    def load(self) -> TrainedRun:
        """The run."""
        return self._trained

    def save(self, data: NoReturn) -> None:
        """Refuse: the pipeline `continual` makes it."""
        raise DatasetError("what was learnt is written by the pipeline continual")

    def _exists(self) -> bool:
        return any(self._trained.models.glob("task_*/state"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._trained.models)}
