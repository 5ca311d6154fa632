"""Where images come from: one reader per file format.

A reader is a frozen configuration, told from the others by its key `reader`. It names its classes
without reading an image, reads files that are already on this machine, and executes nothing it
reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from gppdm_pipeline.streams.errors import SourceError, source_error
from gppdm_pipeline.streams.readers.base import Reader, Split, choose_per_class, fingerprint
from gppdm_pipeline.streams.readers.cifar import Cifar
from gppdm_pipeline.streams.readers.core50 import Core50
from gppdm_pipeline.streams.readers.digits import Mnist5k, SklearnDigits
from gppdm_pipeline.streams.readers.idx import Idx
from gppdm_pipeline.streams.readers.image_folder import ImageFolder
from gppdm_pipeline.streams.readers.npz import Npz
from gppdm_pipeline.streams.readers.parquet import Parquet

__all__ = [
    "PLACES",
    "Cifar",
    "Core50",
    "Idx",
    "ImageFolder",
    "Mnist5k",
    "Npz",
    "Parquet",
    "Reader",
    "SklearnDigits",
    "Source",
    "SourceError",
    "Split",
    "choose_per_class",
    "fingerprint",
    "source_error",
]

Source = Annotated[
    SklearnDigits | Idx | Cifar | Npz | Parquet | ImageFolder | Core50 | Mnist5k,
    Field(discriminator="reader"),
]

PLACES = ("folder", "file", "path")
"""Settings of readers that say where images lie. What images they are is told by their hash."""


def moved(there: Mapping[str, Any], source: Reader) -> dict[str, Any]:
    """A recorded stream, with its images where those of `source` lie."""
    here = {key: value for key, value in source if key in PLACES}
    return {**there, "source": {**there["source"], **here}}
