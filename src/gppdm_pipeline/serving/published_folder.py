"""A folder that others read: a pipeline of diffusers, the classifier as ONNX, a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.diffusion.network import build_unet
from gppdm_pipeline.algorithm.diffusion.process import Process, solver_of
from gppdm_pipeline.algorithm.disk.writing import let_others_read, naming
from gppdm_pipeline.algorithm.generator.gaussians import gaussian_of
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.ddgr import Ddgr
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.serving.model_card import model_card
from gppdm_pipeline.serving.onnx_file import missing_packages, write_onnx
from gppdm_pipeline.serving.predictor import Calibration
from gppdm_pipeline.serving.trained import Learned

if TYPE_CHECKING:
    from gppdm_pipeline.serving.generator_pipeline import GppdmPipeline

ONNX, CLASSES, CARD = "classifier.onnx", "classes.json", "README.md"
CONTENTS = frozenset(
    {
        *(ONNX, CLASSES, CARD),
        *("model_index.json", "pipeline.py", "conditions.py", "conditions.safetensors"),
        *("scheduler", "unet"),
    }
)
"""What the folder may hold; what holds something else is never replaced."""


class FolderError(RuntimeError):
    """The folder cannot be written; the message says why, and what to do."""


def check_folder(folder: Path, learner: Method, encodes: bool = False) -> None:
    """Whether something can be written there.

    Args:
        folder: to be written.
        learner: of the state.
        encodes: whether something else than pixels was learnt, of which there are no pictures.

    Raises:
        FolderError: if other files would be lost, or there is nothing to write.
    """
    others = sorted({each.name for each in folder.iterdir()} - CONTENTS) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        what = f"it holds {', '.join(others[:3])}" if others else "it is a file"
        raise FolderError(
            f"publish.folder = {folder}: {what}, which a publication would replace. Name a folder "
            "that is not there, or one of an earlier publication."
        )
    missing = missing_packages()
    if missing and (encodes or _drawn_by_solver(learner) is None):
        raise FolderError(
            f"publish.folder = {folder}: {learner.name} has no generator that diffusers could draw "
            f"with, and for ONNX the packages {', '.join(missing)} are not installed. Install the "
            "project's extra onnx, or leave publish.folder out."
        )


def write_folder(
    folder: Path,
    learned: Learned,
    calibration: Mapping[str, Any],
    images: NDArray[np.uint8],
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Write all that there is; an earlier publication is replaced when the new one is whole.

    Args:
        folder: of `check_folder`.
        learned: the state.
        calibration: of its probabilities.
        images: uint8 [n, h, w, c], n >= 1, on which ONNX is held against the classifier.
        told: `run`, `state` and `validation_accuracy`, for the card.

    Returns:
        Plain JSON values: `folder`, `diffusers` (whether a pipeline is in it), `onnx_difference`
        (the largest one of a probability; None where the packages for ONNX are not installed).

    Raises:
        OnnxError: if ONNX and the classifier differ.
        OSError: if it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with naming(folder):
            made = _write_models(temporary, learned, calibration, images)
            card = model_card(learned, calibration, {**told, **made})
            (temporary / CARD).write_text(card, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"folder": str(folder), **made}


def _write_models(
    folder: Path, learned: Learned, calibration: Mapping[str, Any], images: NDArray[np.uint8]
) -> dict[str, Any]:
    """Write generator and classifier, as far as they can be; what `write_folder` says of them."""
    pipeline = generator_pipeline(learned)
    if pipeline is not None:
        pipeline.save_pretrained(folder)
        let_others_read(folder)
    difference = None
    if not missing_packages():
        predictor = learned.predictor(Calibration.of(calibration))
        difference = write_onnx(predictor, images, folder / ONNX)
        (folder / CLASSES).write_text(json.dumps(predictor.names))
    return {"diffusers": pipeline is not None, "onnx_difference": difference}


def generator_pipeline(learned: Learned) -> GppdmPipeline | None:
    """What draws as `learned` does; None where there is no generator that a solver draws with."""
    from gppdm_pipeline.serving.generator_pipeline import (  # noqa: PLC0415 (takes two seconds)
        GppdmPipeline,
    )

    state, learner = learned.state, _drawn_by_solver(learned.learner)
    if (
        learned.space.encodes
        or learner is None
        or state.denoiser is None
        or state.condition is None
    ):
        return None
    condition, (height, width, channels) = state.condition, state.image_shape or (0, 0, 0)
    tensors = {"token_map": condition.token_map}
    for label in state.classes:
        tensors[f"embedding.{label}"] = condition.embeddings[label]
        tensors[f"prototype.{label}"] = condition.prototypes[label]
        gaussian = gaussian_of(state, label) if learner.replay.gaussians else {}
        tensors |= {f"gaussian.{label}.{name}": each for name, each in gaussian.items()}
    tensors |= {f"turn.{label}": turn for label, turn in condition.turns.items()}
    for task, adapter in state.adapters.items():
        tensors |= {f"adapter.{task}.{name}": each for name, each in adapter.tensors.items()}
    scheduler = solver_of(Process(learner.denoiser, CPU), learner.denoiser.prediction)
    settings = {
        "classes": {learned.class_names[label]: label for label in state.classes},
        "adapters": {str(label): state.adapter_of(label) for label in state.classes},
        "shape": [channels, height, width],
        "seed": learned.configuration["seed"],
        "task": len(state.tasks) + 1,
        "memory": learner.memory,
        "patch": learner.denoiser.patch,
        "concatenates": learner.prototypes.concatenated,
        "null_keeps_prototype": learner.condition.null_keeps_prototype,
        **learner.replay.model_dump(mode="json", exclude={"images"}),
    }
    return GppdmPipeline(build_unet(state.denoiser), scheduler, settings, tensors)


def _drawn_by_solver(learner: Method) -> Gppdm | None:
    """All with a diffusion generator but ddgr, whose sampler a classifier guides."""
    return learner if isinstance(learner, Gppdm) and not isinstance(learner, Ddgr) else None
