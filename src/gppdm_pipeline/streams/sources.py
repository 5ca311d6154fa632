"""Where images come from: one reader per file format.

A reader is a frozen configuration, told from the others by its key `reader`. It names its classes
without reading an image, reads files that are already on this machine, and executes nothing it
reads.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from gppdm_pipeline.images import LabelledImages

Split = Literal["train", "test"]

# Part of what makes a benchmark the same benchmark: never the run's seed.
_LIMIT_SEED = 20_231_211
_DIGITS_TEST_SEED = 1_797

_MAX_DEFLATE_RATIO = 1032  # deflate cannot pack more bytes than this into one
_GZIP_MAGIC = b"\x1f\x8b"
_FETCH_AGAIN = "Fetch the file again."


class SourceError(ValueError):
    """A data file is missing, damaged, or not what its configuration says."""


def source_error(file: Path | str, found: str, expected: str, repair: str) -> SourceError:
    """The one wording of what is wrong with a data file."""
    return SourceError(f"{file}: found {found}, expected {expected}. {repair}")


def choose_per_class(
    labels: NDArray[np.int64], count: Callable[[int], int], seed: Sequence[int]
) -> NDArray[np.bool_]:
    """Choose some images of every class at random.

    A class's choice depends on the seed and on its own images only; a smaller count chooses a
    subset of what a larger one does.

    Args:
        labels: int64 [n].
        count: how many to choose, given how many the class has; more than that chooses all.
        seed: non-negative integers.

    Returns:
        bool [n], true where chosen.
    """
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled = np.random.default_rng([*seed, int(label)]).permutation(members)
        chosen[shuffled[: count(len(members))]] = True
    return chosen


def fingerprint(data: LabelledImages) -> str:
    """The identity of a data set: a SHA-256, as 64 hexadecimal digits.

    Covers the images' shape, their bytes, and the labels' bytes (little-endian), in this order.
    """
    digest = hashlib.sha256(repr(data.images.shape).encode())
    digest.update(np.ascontiguousarray(data.images).data)
    digest.update(np.ascontiguousarray(data.labels, "<i8").data)
    return digest.hexdigest()


class Reader(BaseModel, ABC):
    """What all readers share.

    Attributes:
        train_per_class: use at most so many training images of each class; None uses all.
        test_per_class: the same for the test images.

    The images of a limited class are the first after a shuffle whose seed is a constant, in the
    source's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    train_per_class: PositiveInt | None = None
    test_per_class: PositiveInt | None = None

    def read(self, split: Split) -> LabelledImages:
        """All images of the split, within the limits, in the source's order.

        Returns:
            uint8 images [n, h, w, c], labels int64 [n] in 0..len(class_names)-1.

        Raises:
            SourceError: if a file is missing or damaged.
        """
        data = self._read(split)
        limit = {"train": self.train_per_class, "test": self.test_per_class}[split]
        if limit is None:
            return data
        return data.select(choose_per_class(data.labels, lambda _: limit, [_LIMIT_SEED]))

    def batches(self) -> tuple[NDArray[np.int64], ...] | None:
        """The training batches that the source publishes, in order, as indices of read("train")."""
        return None

    @abstractmethod
    def _read(self, split: Split) -> LabelledImages:
        """All images of the split."""


class SklearnDigits(Reader):
    """The 1,797 handwritten digits inside scikit-learn, uint8 [n, 8, 8, 1].

    They come without an official split. The test split is stratified by class and made with a
    constant seed, so that runs of every seed are measured on the same images.

    Attributes:
        test_fraction: the share of each class that is for testing.
    """

    reader: Literal["sklearn_digits"] = "sklearn_digits"
    test_fraction: float = Field(0.2, gt=0, le=0.5)

    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def _read(self, split: Split) -> LabelledImages:
        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        data = LabelledImages(images, digits.target.astype(np.int64))
        test = choose_per_class(
            data.labels, lambda n: round(n * self.test_fraction), [_DIGITS_TEST_SEED]
        )
        return data.select(test if split == "test" else ~test)


class Idx(Reader):
    """IDX files of the MNIST family, gzipped or not, uint8 [n, h, w, 1], official split.

    Attributes:
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte; `train-images.idx3-ubyte` and an ending .gz will do as well.
        class_names: the name of label 0, of label 1, ...
    """

    reader: Literal["idx"] = "idx"
    folder: Path
    class_names: tuple[str, ...] = Field(min_length=1, max_length=256)

    @field_validator("class_names")
    @classmethod
    def _each_name_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"each class needs a name of its own; repeated: {', '.join(repeated)}")
        return names

    def _read(self, split: Split) -> LabelledImages:
        prefix = {"train": "train", "test": "t10k"}[split]
        labels_file = self._find(f"{prefix}-labels", "idx1-ubyte")
        images_file = self._find(f"{prefix}-images", "idx3-ubyte")
        labels = _read_idx(labels_file, dimensions=1).astype(np.int64)
        if labels.max() >= len(self.class_names):
            raise source_error(
                labels_file,
                f"label {labels.max()} (image {labels.argmax()})",
                f"labels 0 to {len(self.class_names) - 1}, as class_names has "
                f"{len(self.class_names)} names",
                "Name every class in class_names.",
            )
        images = _read_idx(images_file, dimensions=3)
        if len(images) != len(labels):
            raise source_error(
                images_file,
                f"{len(images)} images",
                f"{len(labels)}, one for each label in {labels_file.name}",
                "Fetch both files again, from one place.",
            )
        return LabelledImages(images[..., np.newaxis], labels)

    def _find(self, stem: str, ending: str) -> Path:
        names = [f"{stem}{joint}{ending}{suffix}" for suffix in ("", ".gz") for joint in "-."]
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise source_error(
            self.folder,
            "no such folder" if not self.folder.is_dir() else f"no file {names[0]}",
            f"one of {', '.join(names)}",
            "Set `folder` to where the files are; for Fashion-MNIST, `apt-get install "
            "dataset-fashion-mnist` puts them in /usr/share/datasets/fashion-mnist.",
        )


Source = Annotated[SklearnDigits | Idx, Field(discriminator="reader")]


def _read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: magic number, one size per dimension, data.

    Never unpacks more than one byte beyond what the header promises, and believes no header that
    promises more than a file of this size can hold.
    """
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        try:
            shape = _read_idx_header(stream, file, dimensions)
            size = math.prod(shape)
            stored = file.stat().st_size
            if size > stored * (_MAX_DEFLATE_RATIO if packed else 1):
                raise source_error(
                    file,
                    f"a file of {stored} bytes",
                    f"the {size} bytes of data that its header promises",
                    f"It is cut short or damaged. {_FETCH_AGAIN}",
                )
            data = stream.read(size + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise source_error(
                file, f"damaged gzip data ({error})", "a whole gzip file", _FETCH_AGAIN
            ) from error
    if len(data) != size:
        found = f"{len(data)} bytes of data" if len(data) < size else f"more than {size} bytes"
        raise source_error(
            file, found, f"{size}, as its header promises {list(shape)}", _FETCH_AGAIN
        )
    return np.frombuffer(data, np.uint8).reshape(shape).copy()  # a copy, so that it is writable


def _read_idx_header(stream: BinaryIO, file: Path, dimensions: int) -> tuple[int, ...]:
    header = stream.read(4 * (1 + dimensions))
    magic = (0x08 << 8) + dimensions  # 0x08: unsigned bytes
    if header[:4] != struct.pack(">I", magic):
        raise source_error(
            file,
            f"magic number 0x{header[:4].hex()}",
            f"0x{magic:08x} (unsigned bytes in {dimensions} dimensions)",
            "It is another kind of file: check that images and labels are not swapped.",
        )
    if len(header) < 4 * (1 + dimensions):
        raise source_error(file, f"{len(header)} bytes", "a whole header", _FETCH_AGAIN)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise source_error(file, f"dimensions {list(shape)}", "at least 1 each", _FETCH_AGAIN)
    return shape
