"""What nodes are handed that no node makes: folders, where a stream begins, what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kedro.io import AbstractDataset, DatasetError

from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.oracle import OracleFolder
from gppdm_pipeline.catalog.places import place_of
from gppdm_pipeline.catalog.project import ProjectFiles
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.serving.trained import TrainedRun

Handed = TypeVar("Handed")


class _Handed(AbstractDataset[NoReturn, Handed]):
    def __init__(self, handed: Handed, **described: str) -> None:
        self._handed, self._described = handed, described

    def load(self) -> Handed:
        """It; a folder need not exist."""
        return self._handed

    def save(self, data: NoReturn) -> None:
        """Refuse."""
        raise DatasetError(f"{type(self).__name__} is handed to nodes, which save nothing in it")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return self._described


class ScratchDataset(_Handed[Scratch]):
    """What a stage needs to go on after it was stopped (see `gppdm_pipeline.catalog.scratch`)."""

    def __init__(self, *, filepath: str, every: float) -> None:
        super().__init__(Scratch(place_of(filepath), every), filepath=filepath)


class OraclesDataset(_Handed[OracleFolder]):
    """The cache of a benchmark's oracles (see `gppdm_pipeline.catalog.oracle`)."""

    def __init__(self, *, filepath: str) -> None:
        super().__init__(OracleFolder(place_of(filepath)), filepath=filepath)


class EmptyStateDataset(_Handed[LearnerState]):
    """The state after no task, so that the first task is a task like the others."""

    def __init__(self) -> None:
        super().__init__(LearnerState.empty())


class TrainedDataset(_Handed[TrainedRun]):
    """What a run has learnt; nothing is read before it is asked for."""

    def __init__(self, *, run: str, models: str, images: str, replay: str) -> None:
        trained = TrainedRun(run, *map(place_of, (models, images, replay)))
        super().__init__(trained, filepath=str(trained.models))

    def _exists(self) -> bool:
        return any(self._handed.models.glob("task_*/state"))


class ProjectDataset(_Handed[ProjectFiles]):
    """The project's files, to be looked through (see `gppdm_pipeline.catalog.project`)."""

    def __init__(self, *, filepath: str) -> None:
        super().__init__(ProjectFiles(Path(filepath)), filepath=filepath)
