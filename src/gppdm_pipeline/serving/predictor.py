"""A classifier in use: from image files or pixels to names of classes with probabilities.

Everything that answers goes through `Predictor`: the pipeline, the published model, the service and
the estimator. They agree to the last bit, on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.classifier.network import build_classifier
from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.evaluation.calibration import familiarity, probabilities_of
from gppdm_pipeline.spaces import encoders
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.conversion import Conversion, UndecodableError

BATCH = 256
SHOWN = 5
"""Classes that are named for an image: the most probable one and the next four."""


@dataclass(frozen=True)
class Calibration:
    """What makes logits probabilities, and an image unknown.

    Attributes:
        temperature: the logits are divided by it.
        threshold: of familiarity, below which an image is like no class known; None: none is.
    """

    temperature: float = 1.0
    threshold: float | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Calibration:
        """The part of a calibration's record that is used."""
        return cls(**{name: record[name] for name in asdict(cls())})


@dataclass(frozen=True)
class Answers:
    """What a predictor says of n images among k classes, k at least 1.

    Attributes:
        names: the k classes, in the order of the columns.
        order: int64 [n, min(k, 5)], columns, the most probable first.
        probabilities: float64 [n, k], calibrated.
        known: bool [n], false where an image is like no class known.
    """

    names: tuple[str, ...]
    order: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    known: NDArray[np.bool_]

    def columns(self) -> dict[str, list[Any]]:
        """By name: label, probability, known, then label_2, probability_2, ... of the next four.

        None where there are fewer classes.
        """
        n, shown = self.order.shape
        names = np.array(self.names, object)[self.order]
        shares = np.take_along_axis(self.probabilities, self.order, 1)
        columns: dict[str, list[Any]] = {}
        for place in range(SHOWN):
            end = f"_{place + 1}" if place else ""
            there = place < shown
            columns[f"label{end}"] = names[:, place].tolist() if there else [None] * n
            columns[f"probability{end}"] = shares[:, place].tolist() if there else [None] * n
            if not place:
                columns["known"] = self.known.tolist()
        return columns


class Predictor:
    """The classifier of a state.

    Args:
        state: after at least one task.
        names: the name of each label.
        rule: how other images are brought to the stream's size and colours; `resize` and `colour`
            are the state's own.
        calibration: of the probabilities.
        device: where to compute.
        space: in which the state was learnt.

    Attributes:
        names: of the classes known, in the order of the logits.
        image_shape: (height, width, channels) of the stream's images.
        network: in evaluation mode, on the device.
        calibration: of the probabilities.
        coder: what encodes images first; None where they are learnt as they are.
        sees_pictures: whether the network classifies what the coder decodes again.
    """

    def __init__(
        self,
        state: LearnerState,
        names: Sequence[str],
        rule: Conversion,
        calibration: Calibration | None = None,
        device: torch.device = CPU,
        space: SpaceConfig | None = None,
    ) -> None:
        shape = state.picture_shape or state.image_shape
        assert state.classifier is not None and shape is not None
        self.names = tuple(names[label] for label in state.classes)
        self.image_shape = shape
        height, width, channels = shape
        colour = "grey" if channels == 1 else "rgb"
        self._rule = rule.model_copy(update={"resize": (height, width), "colour": colour})
        self.calibration = calibration or Calibration()
        self._device = device
        self.coder = space.coder(device) if space and space.encodes else None
        self.network = build_classifier(state.classifier).to(device)
        seen = tuple(state.classifier.config["image_shape"])
        self.sees_pictures = self.coder is not None and seen != state.image_shape

    def pixels(self, image: bytes | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image in the stream's size and colours, uint8 [h, w, c].

        Args:
            image: a file's bytes, its path, or uint8 pixels [h, w], [h, w, 1] or [h, w, 3].

        Raises:
            UndecodableError: saying what is wrong with it.
        """
        if isinstance(image, np.ndarray):
            if image.shape == self.image_shape and image.dtype == np.uint8:
                return image
            pixels = image[..., np.newaxis] if image.ndim == 2 else image
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
                raise UndecodableError(
                    f"pixels of {image.dtype} {list(image.shape)}, not uint8 [height, width] or "
                    "[height, width, 1 or 3]"
                )
            if 0 in pixels.shape:
                raise UndecodableError(f"no pixel, but {list(image.shape)}")
            return self._rule.convert(pixels)
        try:
            return self._rule.decode(image.read_bytes() if isinstance(image, Path) else image)
        except OSError as error:
            raise UndecodableError(f"it cannot be read ({error.strerror})") from error

    @torch.no_grad()
    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Uint8 [n, h, w, c] of the stream's shape -> float32 [n, k].

        They are encoded first where something else than pixels was learnt, and not rounded as they
        are for keeping: rounding would turn a difference in the last bit into one that shows. What
        has been encoded, float16 as it is kept, is taken, too.

        An image's logits are those that it has among others: convolutions add up in another order
        for a batch of one, so that a single image is computed twice; products of vectors do for
        other numbers of them, so that there are always as many, some of them empty.
        """
        parts = [np.empty((0, len(self.names)), np.float32)]
        size = encoders.BATCH if self.coder else BATCH
        for start in range(0, len(images), size):
            part = images[start : start + size]
            if self.coder:
                codes = self.coder.numbers(part) if part.dtype == np.uint8 else part
                given = np.zeros((size, *codes.shape[1:]), codes.dtype)
                given[: len(part)] = codes
                if self.sees_pictures:
                    given = self.coder.pictures(given, self.image_shape)
            else:
                given = np.repeat(part, 2, 0) if len(part) == 1 else part
            outputs = self.network(to_unit_range(given, self._device))
            parts.append(outputs[: len(part)].cpu().numpy())
        return np.concatenate(parts)

    def answers(self, images: NDArray[np.uint8]) -> Answers:
        """Uint8 [n, h, w, c] of the stream's shape -> classes and probabilities."""
        logits = self.logits(images)
        order = np.argsort(-logits, 1, kind="stable")[:, :SHOWN]
        probabilities = probabilities_of(logits, self.calibration.temperature)
        threshold = self.calibration.threshold
        known = np.ones(len(logits), np.bool_)
        if threshold is not None:
            known = familiarity(logits) >= threshold
        return Answers(self.names, order, probabilities, known)
