"""Arrays in .npz files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers import npy
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Split,
    UserPath,
    check_count,
    check_labels,
)
from gppdm_pipeline.streams.readers.rows import streamed


class Npz(FileReader):
    """An .npz file with MedMNIST's keys (Yang et al. 2023, arXiv 2110.14795), official split.

    train_images and test_images are uint8 [n, h, w] or [n, h, w, c], c 1 or 3; train_labels and
    test_labels whole numbers [n] or [n, 1]. Nothing in it may be pickled.

    Attributes:
        file: the .npz file.
        validation: what becomes of val_images and val_labels: "ignore", or "train" to add them to
            the training images, out of which the pipeline takes its own validation images.
        class_names: the array class_names of the file, unless they are given.
    """

    reader: Literal["npz"] = "npz"
    file: UserPath
    validation: Literal["ignore", "train"] = "ignore"

    def _names(self) -> ClassNames:
        if "class_names" not in npy.keys(self.file):
            return super()._names()
        return tuple(map(str, npy.array(self.file, "class_names").tolist()))

    def _files(self, split: Split) -> Iterable[Path]:
        return [self.file]

    def _contents(self, split: Split) -> Contents:
        parts = [split, *(["val"] if (split, self.validation) == ("train", "train") else [])]
        labels = np.concatenate([self._labels(part) for part in parts])

        def blocks() -> Iterator[NDArray[np.uint8]]:
            for part in parts:
                yield from npy.blocks(self.file, f"{part}_images")()

        return Contents(labels, streamed(blocks), self.file)

    def _labels(self, part: str) -> NDArray[np.int64]:
        key = f"{part}_labels"
        found = npy.array(self.file, key)
        if found.dtype.kind not in "iu" or found.size != len(found):
            raise source_error(
                self.file,
                f"{key} of {found.dtype} {list(found.shape)}",
                "one whole number for each image",
                "Images of several labels are not for this pipeline.",
            )
        labels = found.reshape(-1).astype(np.int64)
        images = npy.image_shape(self.file, f"{part}_images")[0]
        check_count(images, len(labels), self.file, key)
        check_labels(labels, self.class_names, self.file, f"{key}, row")
        return labels
