"""The learner as a scikit-learn classifier: every call of `partial_fit` is a task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.utils.multiclass import (  # type: ignore[import-untyped]
    check_classification_targets,
)
from sklearn.utils.validation import (  # type: ignore[import-untyped]
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from gppdm_pipeline.algorithm.context import Context, resolve_device
from gppdm_pipeline.algorithm.disk.states import StateError, save_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method, learn_task
from gppdm_pipeline.serving.predictor import Answers, Calibration, Predictor
from gppdm_pipeline.serving.trained import Learned
from gppdm_pipeline.streams.conversion import Conversion


class ContinualClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A class-incremental classifier of images that keeps a generator instead of them.

    X is uint8 [n, h, w], [n, h, w, 1 or 3], or [n, pixels] with `image_shape`. Numbers of other
    kinds become bytes: the least and the greatest of the first call are 0 and 255.

    Args:
        method: a name in `gppdm_pipeline.methods.METHODS`.
        settings: of the method, nested, as in conf; what is not set has the code's default.
        image_shape: (height, width, channels) of an image whose pixels are a row of X; None: rows
            are square grey images where their length is a square, and one pixel high elsewhere.
        random_state: seed of everything random, at least 0.
        device: "auto", "cpu", "cuda" or "mps".

    Attributes:
        classes_: every class seen, ascending; the order of the columns of `predict_proba`.
        state_: the learner's state; see `gppdm_pipeline.algorithm.state`.
        n_features_in_: the second dimension of X.
    """

    state_: LearnerState
    classes_: NDArray[Any]
    range_: tuple[float, float]
    n_features_in_: int
    _arrived: list[Any]
    _earlier: list[LabelledImages]
    _calibration: Calibration

    def __init__(
        self,
        method: str = "gppdm",
        settings: Mapping[str, Any] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.method = method
        self.settings = settings
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803
        """Forget everything, and learn one task."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self.__dict__.pop("_earlier", None)
        return self.partial_fit(X, y)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: object = None) -> Self:  # noqa: N803
        """Learn one task more, of classes that are new or come back.

        Args:
            X: images, see the class.
            y: the class of each, of any kind that can be sorted.
            classes: taken for the sake of scikit-learn, and not needed: a class is known when an
                image of it has come.

        Raises:
            ValueError: if X or y is not as above, or the method cannot learn such images.
        """
        first = not hasattr(self, "state_")
        images, y = self._validated(X, y, reset=first)
        arrived = [] if first else list(self._arrived)
        arrived += [label for label in np.unique(y).tolist() if label not in arrived]
        number = {label: k for k, label in enumerate(arrived)}
        labels = np.array([number[label] for label in y.tolist()], np.int64)
        train = LabelledImages(images, labels)
        learner, state = self._learner(arrived), LearnerState.empty() if first else self.state_
        learner.check(train.image_shape, len(arrived))
        none = LabelledImages.empty(train.image_shape)
        context = Context(self.random_state, len(state.tasks) + 1, resolve_device(self.device))
        earlier = self._earlier if learner.reads_earlier_images and not first else []
        self.state_ = learn_task(learner, state, train, none, context, earlier)
        if learner.reads_earlier_images:
            self._earlier = [*earlier, train]
        self._arrived = arrived
        self.classes_ = np.unique(np.asarray([*([] if first else self.classes_), *y]))
        self._calibration = Calibration()
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The most probable class of each image, [n]."""
        best = self._answers(X).order[:, 0]
        labels: NDArray[Any] = self.classes_[self._columns()[best]]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Float64 [n, k], one column for each of `classes_`."""
        found = self._answers(X).probabilities
        sorted_by_class = np.empty_like(found)
        sorted_by_class[:, self._columns()] = found
        return sorted_by_class

    def sample(self, label: object, n: int = 1, random_state: int | None = None) -> NDArray[Any]:
        """Images of a class from the generator, uint8 [n, h, w, c].

        Args:
            label: one of `classes_`.
            n: at least 1.
            random_state: of the noise; None: the estimator's.

        Raises:
            ValueError: if the class is unknown, or the method has no generator.
        """
        check_is_fitted(self)
        if label not in self._arrived:
            raise ValueError(f"class {label!r} is unknown; known are {self.classes_.tolist()}")
        seed = self.random_state if random_state is None else random_state
        context = Context(seed, len(self.state_.tasks) + 1, resolve_device(self.device))
        learner = self._learner(self._arrived)
        return learner.draw(self.state_, [self._arrived.index(label)], n, context).images

    def save(self, folder: str | Path) -> None:
        """Write the state and what it takes to go on: a folder of safetensors and JSON.

        Raises:
            ValueError: if classes are neither strings nor numbers, or images of earlier tasks would
                have to be kept (joint training).
        """
        check_is_fitted(self)
        if hasattr(self, "_earlier"):
            raise ValueError(
                f"{self.method} needs the images of earlier tasks, which are not saved"
            )
        learner = self._learner(self._arrived).model_dump(mode="json")
        record: dict[str, Any] = {
            "method": learner.pop("name"),
            "classifier": learner.pop("classifier"),
            self.method: learner,
            "seed": self.random_state,
            "classes": [str(label) for label in self._arrived],
            "stream": {"source": {}},
            "estimator": {
                "params": {
                    **self.get_params(deep=False),
                    "settings": self.settings and dict(self.settings),
                },
                "labels": self._arrived,
                "range": self.range_,
                "n_features_in": self.n_features_in_,
            },
        }
        try:
            record = json.loads(json.dumps(record))
        except TypeError as error:
            raise ValueError(
                f"classes {self._arrived} and settings must be plain: {error}"
            ) from error
        save_state(self.state_, Path(folder), record)

    @classmethod
    def load(cls, folder: str | Path, calibration: str | Path | None = None) -> Self:
        """An estimator as it was saved, or one of a state that the pipeline has made.

        Args:
            folder: of the state.
            calibration: a calibration.json that the pipelines predict and publish write; None:
                probabilities are as they are learnt.

        Raises:
            StateError: if the folder is missing or damaged, or something else than pixels was
                learnt in it.
        """
        learned = Learned.read(Path(folder))
        if learned.space.encodes:
            raise StateError(
                f"{folder} has learnt {learned.space.name}, and the estimator learns pixels: "
                "classify with the pipeline predict, or publish it."
            )
        own = learned.configuration.get("estimator")
        state = learned.state
        if own:
            params = dict(own["params"])
            shape = params["image_shape"]
            estimator = cls(**{**params, "image_shape": None if shape is None else tuple(shape)})
            estimator._arrived, estimator.range_ = own["labels"], tuple(own["range"])
            estimator.n_features_in_ = own["n_features_in"]
        else:
            values = learned.learner.model_dump(mode="json")
            name, shape = values.pop("name"), state.image_shape
            estimator = cls(name, values, shape, learned.configuration["seed"])
            estimator._arrived = list(learned.class_names)
            estimator.range_ = (0.0, 255.0)
            estimator.n_features_in_ = state.image_shape[0] if state.image_shape else 0
        estimator.state_ = state
        known = [estimator._arrived[label] for label in state.classes]
        estimator.classes_ = np.unique(np.asarray(known))
        record = json.loads(Path(calibration).read_text()) if calibration else {}
        estimator._calibration = Calibration.of(record) if record else Calibration()
        return estimator

    def _learner(self, classes: list[Any]) -> Method:
        learner = Method.model_validate({**(self.settings or {}), "name": self.method})
        return learner.with_class_names([*map(str, classes)])

    def _columns(self) -> NDArray[np.int64]:
        """Of each output of the classifier, its place in `classes_`."""
        known = [self._arrived[label] for label in self.state_.classes]
        return np.searchsorted(self.classes_, np.asarray(known, self.classes_.dtype))

    def _answers(self, X: ArrayLike) -> Answers:  # noqa: N803
        check_is_fitted(self)
        images, _ = self._validated(X, None, reset=False)
        device = resolve_device(self.device)
        names = [str(label) for label in self._arrived]
        predictor = Predictor(self.state_, names, Conversion(), self._calibration, device)
        if images.shape[1:] != self.state_.image_shape:
            raise ValueError(
                f"images are {images.shape[1:]}, those learnt {self.state_.image_shape}"
            )
        return predictor.answers(images)

    def _validated(
        self,
        given: ArrayLike,
        y: ArrayLike | None,
        reset: bool,
    ) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Images as uint8 [n, h, w, c], and their classes, if there are any."""
        if reset or y is not None:
            given, y = validate_data(self, given, y, reset=reset, allow_nd=True)
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
        else:
            given = validate_data(self, given, reset=False, allow_nd=True)
        values = np.asarray(given)
        if reset:
            least, most = (0, 255) if values.dtype == np.uint8 else (values.min(), values.max())
            self.range_ = (float(least), float(most))
        return self._images(values), np.asarray(y)

    def _images(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if values.dtype != np.uint8:
            low, high = self.range_
            scaled = (values.astype(np.float64) - low) / ((high - low) or 1.0)
            values = np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)
        if values.ndim == 2:
            side = int(np.sqrt(values.shape[1]))
            guess = (side, side, 1) if side * side == values.shape[1] else (1, values.shape[1], 1)
            shape = self.image_shape or guess
            if int(np.prod(shape)) != values.shape[1]:
                raise ValueError(f"image_shape is {shape}, but X has {values.shape[1]} features")
            return values.reshape(len(values), *shape)
        images = values[..., np.newaxis] if values.ndim == 3 else values
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(
                f"X is {list(values.shape)}, not images [n, h, w] or [n, h, w, 1 or 3]"
            )
        return images
