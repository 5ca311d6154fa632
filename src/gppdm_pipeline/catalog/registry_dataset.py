"""The registry of models as a data set. MLflow, which is slow, is imported when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from gppdm_pipeline.catalog.registry import ModelRegistry


class RegistryError(RuntimeError):
    """A model cannot be published or used; the message says which, and what to do."""


class RegistryDataset(AbstractDataset[NoReturn, "ModelRegistry"]):
    """The registry of the project's MLflow."""

    def __init__(
        self, *, tracking_uri: str, experiment: str, artifact_location: str | None
    ) -> None:
        self._tracking_uri = tracking_uri
        self._experiment = experiment
        self._artifact_location = artifact_location

    def load(self) -> ModelRegistry:
        """What publishes."""
        from gppdm_pipeline.catalog.registry import ModelRegistry  # noqa: PLC0415 (slow)

        return ModelRegistry(self._tracking_uri, self._experiment, self._artifact_location)

    def save(self, data: NoReturn) -> None:
        """Refuse: versions are written by what publishes them."""
        raise DatasetError("versions of models are written by the pipeline publish")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"tracking_uri": self._tracking_uri}
