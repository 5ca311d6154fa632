"""A run's folders, as what was learnt in it: the newest state, and what it is calibrated with."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gppdm_pipeline.algorithm.classifier.networks import trained_part
from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.disk.states import StateError, load_state, verify_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.evaluation.calibration import calibrated, familiarity, separation
from gppdm_pipeline.images.files import read_images
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pretrained.folder import EncoderError, requirements_of
from gppdm_pipeline.serving.predictor import Calibration, Predictor
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.conversion import Conversion
from gppdm_pipeline.streams.names import split_names, unknown_names
from gppdm_pipeline.wording import listed


class UntrainedError(ValueError):
    """There is no state to use; the message says where, and what to do."""


@dataclass(frozen=True)
class Learned:
    """A state on disk with what it says of itself.

    Attributes:
        folder: of the state.
        manifest: what its state.json says.
        state: itself; checksums are verified.
    """

    folder: Path
    manifest: Mapping[str, Any]
    state: LearnerState

    @classmethod
    def read(cls, folder: Path) -> Learned:
        """The state in `folder`.

        Raises:
            StateError: if it is missing or damaged, does not say what it was made with, or was
                learnt with an encoder that is not there.
        """
        manifest = verify_state(folder)
        if not manifest["configuration"]:
            raise StateError(
                f"{folder} does not say what it was made with: make it again by running its task."
            )
        learned = cls(folder, manifest, load_state(folder))
        try:
            learned.space.resolved()
        except EncoderError as error:
            raise StateError(f"{folder} has learnt {learned.space.name}: {error}") from error
        if learned.space.encodes and learned.state.picture_shape is None:
            raise StateError(
                f"{folder} does not say of what size its images were before they were encoded: "
                "learn its tasks again (overwrite=true)."
            )
        return learned

    @property
    def space(self) -> SpaceConfig:
        """In which it was learnt."""
        space = SpaceConfig.model_validate(self.configuration.get("space", {}))
        return space.of_state(self.folder, self.state.encoder)

    @property
    def classifies_by_timm(self) -> bool:
        """Whether its classifier is a model of timm."""
        assert self.state.classifier is not None
        return "network" in trained_part(self.state.classifier).config

    @property
    def requirements(self) -> list[str]:
        """The packages that it needs besides the project's own, as pip takes them."""
        own = requirements_of("timm") if self.classifies_by_timm else []
        return sorted({*own, *self.space.requirements})

    @property
    def keeps(self) -> str:
        """What its state has of training images besides networks; empty: nothing."""
        sums = {"moments", "gaussians"} & self.state.extras.keys()
        found = ["sums over training images"] if sums else []
        return " and ".join([*found, *(["training images"] if self.state.kept is not None else [])])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the stream's images, before they are encoded."""
        shape = self.state.picture_shape or self.state.image_shape
        assert shape is not None
        return shape

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The settings of its run, by the keys that the user knows."""
        values: Mapping[str, Any] = self.manifest["configuration"]
        return values

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return tuple(self.configuration["classes"])

    def accuracy(
        self, images: Sequence[LabelledImages], names: Sequence[str], device: torch.device
    ) -> float | None:
        """The share of images that is classified rightly, by name.

        None if there is no image, or they are of another shape than those that were learnt.

        Args:
            images: labelled, as they are learnt.
            names: of their labels.
            device: where to compute.
        """
        parts = [part for part in images if len(part)]
        if not parts or parts[0].image_shape != self.state.image_shape:
            return None
        data, predictor = LabelledImages.concatenate(parts), self.predictor(device=device)
        found = np.array(predictor.names)[predictor.logits(data.images).argmax(1)]
        return float((found == np.array(names)[data.labels]).mean())

    @property
    def learner(self) -> Method:
        """The method with its settings."""
        name = self.configuration["method"]
        own = {"name": name, "classifier": self.configuration["classifier"]}
        return Method.model_validate({**own, **self.configuration[name]})

    def labels(self, names: Sequence[str] | str | None, setting: str = "draw.classes") -> list[int]:
        """The labels of classes, each of which was learnt.

        Args:
            names: a list, or joined by "-"; None: all classes.
            setting: where they come from, for the message.

        Raises:
            UntrainedError: naming those that were not, with the nearest right spelling.
        """
        known = {self.class_names[label]: label for label in self.state.classes}
        if names is None:
            return [*known.values()]
        asked = split_names(names, [*known]) if isinstance(names, str) else names
        faults = unknown_names(asked, known)
        if faults or not asked:
            raise UntrainedError(
                f"{setting} = {names if isinstance(names, str) else listed(names)}: "
                f"{'; '.join(faults) or 'no class'}. Learnt are {listed([*known])}"
                f"{'; join several by -' if setting == 'draw.classes' else ''}."
            )
        return [known[name] for name in dict.fromkeys(asked)]

    def predictor(
        self, calibration: Calibration | None = None, device: torch.device = CPU
    ) -> Predictor:
        """Its classifier; images are brought to size and colour by the rule of its stream."""
        source = self.configuration["stream"]["source"]
        rule = {key: source[key] for key in Conversion.model_fields if key in source}
        given = (self.class_names, Conversion(**rule), calibration, device, self.space)
        return Predictor(self.state, *given)


@dataclass(frozen=True)
class TrainedRun:
    """What a run has left.

    Attributes:
        run: its name, `<benchmark>/<method>/seed_<seed>`.
        models: its folder of states, `<task>/state`.
        images: of its images, `<task>/validation.npz`.
        replay: of its replay, `<task>/replay.npz`.
    """

    run: str
    models: Path
    images: Path
    replay: Path

    @property
    def newest(self) -> Path:
        """The folder of the state after the last task that is learnt.

        Raises:
            UntrainedError: if there is none.
        """
        tasks = sorted(self.models.iterdir()) if self.models.is_dir() else []
        states = [
            task / "state"
            for task in tasks
            if task.name.startswith("task_") and (task / "state/state.json").exists()
        ]  # what may not be read is told, and is not passed over as by glob
        if not states:
            raise UntrainedError(
                f"{self.models} has no state: nothing has been learnt with this benchmark, method, "
                "variant and seed. Learn first: kedro run --pipeline=continual with the same "
                "--params, without those of predict, draw and publish."
            )
        return states[-1]

    @cached_property
    def learned(self) -> Learned:
        """The newest state."""
        return Learned.read(self.newest)

    def calibrate(self, device: torch.device) -> dict[str, Any]:
        """A temperature and a threshold, and what they are worth.

        Both are fitted on every second validation image, and measured on the others; of a run
        without validation images, on the replay that its last task has learnt from.

        Returns:
            Plain JSON values: `temperature`, `threshold` (None without any image), `fitted_on`,
            `images` (how many were fitted on), `calibration_error_before`,
            `calibration_error_after`, `known` (share of the others that counts as known),
            `unseen_classes` and `unseen_auroc`: of the classes of the last task, seen by the state
            before it, among validation images of the classes that it knew.
        """
        learned, parts = self.learned, self.validation()
        origin = "validation"
        if not any(map(len, parts)):
            origin, parts = "replay", self._read(self.replay, "replay", [self._number])
        images = [part for part in parts if len(part)]
        if not images:
            return _uncalibrated()
        data = LabelledImages.concatenate(images)
        logits = learned.predictor(device=device).logits(data.images)
        fitted, worth = calibrated(logits, data.labels, learned.state.classes)
        unseen = self._unseen(parts if origin == "validation" else [], device)
        return {**fitted, "fitted_on": origin, **worth, **unseen}

    @property
    def _number(self) -> int:
        """Of the newest state's task."""
        return int(self.newest.parent.name.removeprefix("task_"))

    def validation(self) -> list[LabelledImages]:
        """The validation images of each task that was learnt; none where none were kept."""
        return self._read(self.images, "validation", range(1, self._number + 1))

    def _read(self, folder: Path, name: str, tasks: Sequence[int]) -> list[LabelledImages]:
        """Those of some tasks, none where there is no file."""
        parts = []
        for task in tasks:
            file = folder / f"task_{task:02d}" / f"{name}.npz"
            if not file.exists():
                continue
            try:
                with file.open("rb") as stream:
                    parts.append(read_images(stream))
            except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
                raise StateError(
                    f"{file} is damaged ({error}). Remove it and make it again: kedro run "
                    "--pipeline=continual --only-missing-outputs"
                ) from error
        return parts

    def _unseen(self, parts: Sequence[LabelledImages], device: torch.device) -> dict[str, Any]:
        """How well the state before tells images of the last task's classes from those it knew."""
        nothing: dict[str, Any] = {"unseen_classes": [], "unseen_auroc": None}
        before = self.models / f"task_{self._number - 1:02d}" / "state"
        if not (before / "state.json").exists() or not parts:
            return nothing
        earlier = Learned.read(before)
        data = LabelledImages.concatenate([part for part in parts if len(part)])
        seen = np.isin(data.labels, earlier.state.classes)
        if seen.all() or not seen.any():
            return nothing
        scores = familiarity(earlier.predictor(device=device).logits(data.images))
        new = sorted({*data.labels[~seen].tolist()})
        return {
            "unseen_classes": [self.learned.class_names[k] for k in new],
            "unseen_auroc": separation(scores[seen], scores[~seen]),
        }


def _uncalibrated() -> dict[str, Any]:
    """Of a run that has kept no image to be calibrated with."""
    keys = ("calibration_error_before", "calibration_error_after", "known", "unseen_auroc")
    nothing = dict.fromkeys(keys)
    return {
        "temperature": 1.0,
        "threshold": None,
        "fitted_on": "nothing",
        "images": 0,
        "unseen_classes": [],
        **nothing,
    }
