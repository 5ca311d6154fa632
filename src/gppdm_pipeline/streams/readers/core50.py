"""CORe50, with the batches in which it is learnt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gppdm_pipeline.streams.errors import FETCH_AGAIN, source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers import npy
from gppdm_pipeline.streams.readers.base import ClassNames, FileReader, Split, UserPath
from gppdm_pipeline.streams.readers.plain_pickle import load_plain
from gppdm_pipeline.streams.readers.rows import streamed

_CATEGORIES = (
    "plug_adapter",
    "mobile_phone",
    "scissor",
    "light_bulb",
    "can",
    "glass",
    "ball",
    "marker",
    "cup",
    "remote_control",
)
_OBJECTS = tuple(f"{category}{i}" for category in _CATEGORIES for i in range(1, 6))
_FILES = ("core50_imgs.npz", "paths.pkl", "LUP.pkl", "labels.pkl")


class Core50(FileReader):
    """CORe50 (Lomonaco & Maltoni 2017, arXiv 1705.03550), uint8 [n, 128, 128, 3] before `resize`.

    Training images are those of the published training batches, in the order of the images' file;
    test images are those of the published test batch. No pickle is executed.

    Attributes:
        folder: holds core50_imgs.npz, paths.pkl, LUP.pkl and labels.pkl.
        lists: which of the published lists of batches.
        run: which of their orders.
        classes: the 50 "objects", or their 10 "categories".
    """

    reader: Literal["core50"] = "core50"
    folder: UserPath
    lists: Literal["ni", "nc", "nic", "nicv2_79", "nicv2_196", "nicv2_391"] = "nicv2_79"
    run: Annotated[int, Field(ge=0, le=9)] = 0
    classes: Literal["objects", "categories"] = "objects"

    def batches(self) -> tuple[NDArray[np.int64], ...]:
        """The training batches, as indices into `read("train")`; limits leave images out of them.

        Raises:
            SourceError: if a list is missing or damaged.
        """
        lists, objects = self._lists()
        train = _union(lists[:-1])
        within = self._within_limit("train", self._labels(objects, train))
        place = np.cumsum(within) - 1
        found = [np.searchsorted(train, batch) for batch in lists[:-1]]
        return tuple(place[batch[within[batch]]] for batch in found)

    def _names(self) -> ClassNames:
        return _OBJECTS if self.classes == "objects" else _CATEGORIES

    def _files(self, split: Split) -> Iterable[Path]:
        files = [self.folder / name for name in _FILES]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise source_error(
                self.folder,
                f"no file {missing.name}",
                ", ".join(_FILES),
                "Set `folder` to where they are; the data set's page has all four.",
            )
        return files

    def _contents(self, split: Split) -> Contents:
        lists, objects = self._lists()
        index = lists[-1] if split == "test" else _union(lists[:-1])
        index = np.unique(index)
        file = self.folder / _FILES[0]
        images = npy.image_shape(file, "x")[0]
        if images != len(objects):
            raise source_error(
                file,
                f"{images} images",
                f"{len(objects)}, one for each of paths.pkl",
                "Fetch the files again, from one place.",
            )
        rows = streamed(npy.blocks(file, "x"))
        return Contents(
            self._labels(objects, index), lambda positions: rows(index[positions]), self.folder
        )

    def _labels(self, objects: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
        return objects[index] // (1 if self.classes == "objects" else 5)

    def _lists(self) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.int64]]:
        times = tuple(file.stat().st_mtime_ns for file in self._files("train"))
        return _read_lists(self.folder, self.lists, self.run, times)


@lru_cache(maxsize=2)  # a stream asks for every task, and reading takes seconds
def _read_lists(
    folder: Path, lists: str, run: int, _: tuple[int, ...]
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.int64]]:
    """Indices of the images of each training batch and of the test batch; each image's object."""
    objects = _objects(folder / "paths.pkl")
    batches = _batches(folder / "LUP.pkl", lists, run)
    labels = _batches(folder / "labels.pkl", lists, run)
    if [*map(len, batches)] != [*map(len, labels)] or len(batches) < 2:
        raise source_error(
            folder / "labels.pkl",
            f"{len(labels)} batches of {sum(map(len, labels))} labels",
            f"a label for each image in LUP.pkl ({len(batches)} batches)",
            "Fetch the files again, from one place.",
        )
    index, label = np.concatenate(batches), np.concatenate(labels)
    if index.min() < 0 or index.max() >= len(objects):
        raise source_error(
            folder / "LUP.pkl",
            f"image {index.max() if index.max() >= len(objects) else index.min()}",
            f"0 to {len(objects) - 1}, as in paths.pkl",
            "Fetch the files again, from one place.",
        )
    pairs = np.unique(np.stack([objects[index], label]), axis=1)
    if any(len(np.unique(side)) != pairs.shape[1] for side in pairs):
        raise source_error(
            folder / "labels.pkl",
            "labels that do not follow the objects in paths.pkl",
            "one label for each object",
            "Fetch the files again, from one place.",
        )
    return tuple(batches), objects


def _objects(file: Path) -> NDArray[np.int64]:
    """The object of each image, 0 to 49, by its path: s3/o7/C_03_07_000.png is of object 6."""
    with file.open("rb") as stream:
        paths = load_plain(stream, file)
    objects = np.empty(len(paths), np.int64)
    for i, path in enumerate(paths):
        text = path.decode() if isinstance(path, bytes) else str(path)
        found = re.search(r"(?:^|/)o(\d+)/", text)
        if found is None or not 1 <= int(found[1]) <= len(_OBJECTS):
            raise source_error(
                file, f"path {path!r} (row {i})", "s<session>/o<object>/<image>.png", FETCH_AGAIN
            )
        objects[i] = int(found[1]) - 1
    return objects


def _batches(file: Path, lists: str, run: int) -> list[NDArray[np.int64]]:
    with file.open("rb") as stream:
        content = load_plain(stream, file)
    try:
        found: Mapping[Any, Any] = content
        by_run = found[lists] if lists in found else found[lists.encode()]
        batches: Sequence[Any] = by_run[run]
        return [np.asarray(batch, np.int64) for batch in batches]
    except (LookupError, TypeError, ValueError) as error:
        raise source_error(
            file, f"no batches of {lists}, run {run} ({error!r})", "lists of numbers", FETCH_AGAIN
        ) from error


def _union(batches: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([*batches]))
