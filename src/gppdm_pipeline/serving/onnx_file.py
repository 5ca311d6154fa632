"""The classifier as ONNX: bytes of images in, probabilities out. Needs the extra `onnx`."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gppdm_pipeline.serving.predictor import Predictor

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""How far a probability may be from the predictor's."""


class OnnxError(RuntimeError):
    """The classifier cannot be written as ONNX; the message says why, and what to do."""


class _Whole(nn.Module):
    """What comes before the network and after it, around it; an encoder, where one is in use."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.network = predictor.network
        self.temperature = predictor.calibration.temperature
        self.coder = predictor.coder
        self.shape = predictor.image_shape if predictor.sees_pictures else None
        self.encoder = predictor.coder.encoder.network if predictor.coder else None

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 [n, h, w, c] -> float32 [n, k]."""
        if self.coder is not None:
            given = self.coder.of(images)
            if self.shape is not None:
                images = self.coder.shown(given, self.shape)
        if self.coder is None or self.shape is not None:
            given = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        return torch.softmax(self.network(given) / self.temperature, 1)


def missing_packages() -> list[str]:
    """Those of `PACKAGES` that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def write_onnx(predictor: Predictor, images: NDArray[np.uint8], file: Path) -> float:
    """Write the classifier with its calibration, and hold it against the predictor.

    Input `images`, uint8 [n, h, w, c] of any n >= 1, output `probabilities`, float32 [n, k], whose
    columns are `predictor.names` in their order.

    Args:
        predictor: on the CPU.
        images: to compare on, uint8 [n, h, w, c], n >= 1.
        file: is replaced when the new one is whole and agrees.

    Returns:
        The largest difference of a probability.

    Raises:
        OnnxError: if the two differ by more than `TOLERANCE`, or torch cannot write the network.
    """
    import onnxruntime  # type: ignore[import-not-found]  # noqa: PLC0415 (an extra)

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    try:
        _export(predictor, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images})
        difference = float(np.abs(found - predictor.answers(images).probabilities).max())
        if difference > TOLERANCE:
            raise OnnxError(
                f"{file}: the ONNX classifier's probabilities differ by {difference:.1e}, more "
                f"than {TOLERANCE:.0e}: it is not written. Other versions of torch and onnx may do."
            )
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _export(predictor: Predictor, file: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # not of torchvision, which is optional
    try:
        with warnings.catch_warnings():  # of what the exporter's own libraries will change
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Whole(predictor).eval(),
                (torch.zeros(2, *predictor.image_shape, dtype=torch.uint8),),
                str(file),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OnnxError(
            f"The classifier cannot be written as ONNX ({cause}): other versions of torch, onnx "
            "and onnxscript may do. Without those packages the folder is written without ONNX."
        ) from error
