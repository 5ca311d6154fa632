"""The published model. MLflow keeps this file and runs it when the model is loaded: no pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from gppdm_pipeline.serving.predictor import Calibration
from gppdm_pipeline.serving.requests import RequestError, answered
from gppdm_pipeline.serving.trained import Learned

SERVED = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""What MLflow's server sets; there, nobody may name files."""


class PublishedClassifier(PythonModel):
    """The classifier of a state with its calibration."""

    _skip_type_hint_validation = True  # MLflow's takes lists, but neither arrays nor tables

    def load_context(self, context: Any) -> None:
        """Read the state; every file of it is held against its checksum."""
        artifacts = {name: Path(path) for name, path in context.artifacts.items()}
        record = json.loads(artifacts["calibration"].read_text())
        learned = Learned.read(artifacts["state"])
        self._predictor = learned.predictor(Calibration.of(record))

    def predict(
        self, context: Any, model_input: list[Any], params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classes with probabilities, one row for each image.

        Args:
            context: not used again.
            model_input: as `answered` takes it; or a DataFrame with one column, `path` (of image
                files) or `image`.
            params: none.

        Raises:
            MlflowException: of the kind that a server answers with status 400.
        """
        images: Any = model_input
        paths = False
        if isinstance(images, pd.DataFrame):
            name = next((name for name in ("path", "image") if name in images), None)
            paths = name == "path" and os.environ.get(SERVED) != "true"
            images = images[name].tolist() if name else None
        try:
            return pd.DataFrame(answered(self._predictor, images, paths))
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(PublishedClassifier())
