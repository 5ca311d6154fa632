"""What images were encoded to, kept by the images' content, so that each is encoded once.

    <cache>/encoded-<hash of the encoder>-<side>/<hash of the images>.npy

A file has the codes of up to `SHARD` images: rows of `key`, the hash of an image, and `code`,
float16. It is written under another name and renamed when it is whole, so that a stopped command
goes on from the last. The folder can be removed at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gppdm_pipeline.images.labelled import Room, let_go
from gppdm_pipeline.pretrained.folder import EncoderError

logger = logging.getLogger(__name__)

SHARD = 1024
_KEY = 16  # bytes

Codes = NDArray[np.float16]


class Store:
    """The codes of one encoder.

    Args:
        folder: of its own; need not exist.
        shape: (height, width, channels) of a code.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._dtype = np.dtype([("key", f"S{2 * _KEY}"), ("code", np.float16, shape)])

    def codes(
        self, images: NDArray[np.uint8], encode: Callable[[NDArray[np.uint8]], Codes]
    ) -> Codes:
        """The codes of images; those that are not there are made and kept.

        Args:
            images: uint8 [n, h, w, c].
            encode: makes the codes of up to `SHARD` images.

        Returns:
            float16 [n, *shape]; many lie in a mapped file.

        Raises:
            EncoderError: if the folder cannot be written.
        """
        keys = [key for start in range(0, len(images), SHARD) for key in _keys(images, start)]
        shards = [*self._shards()]
        known = {key for shard in shards for key in shard["key"].astype(str)}
        wanted = {key: place for place, key in enumerate(keys) if key not in known}
        places = np.array(sorted(wanted.values()), np.int64)
        for start in tqdm(
            range(0, len(places), SHARD),
            desc=f"encoding {len(places)} images",
            disable=not (len(places) and sys.stderr.isatty()),
        ):
            part = places[start : start + SHARD]
            rows = np.empty(len(part), self._dtype)
            rows["key"], rows["code"] = [keys[place] for place in part], encode(images[part])
            shards.append(self._write(rows))
            let_go(images)
        return self._gathered(keys, shards)

    def _gathered(self, keys: Sequence[str], shards: Sequence[NDArray[np.void]]) -> Codes:
        at = {
            key: (number, row)
            for number, shard in enumerate(shards)
            for row, key in enumerate(shard["key"].astype(str))
        }
        pieces = (
            np.stack([shards[number]["code"][row] for number, row in map(at.__getitem__, part)])
            for part in (keys[i : i + SHARD] for i in range(0, len(keys), SHARD))
        )
        return Room.of((len(keys), *self._shape), pieces, np.float16)

    def _shards(self) -> Iterator[NDArray[np.void]]:
        for file in sorted(self._folder.glob("*.npy")):
            try:
                shard = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                logger.warning("%s is damaged (%s); its images are encoded anew.", file, error)
                continue
            if shard.dtype == self._dtype:
                yield shard

    def _write(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        name = hashlib.sha256(rows["key"].tobytes()).hexdigest()[:32]
        file = self._folder / f"{name}.npy"
        temporary = self._folder / f".{name}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as stream:
                    np.save(stream, rows)
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise EncoderError(
                f"{self._folder}: encoded images cannot be written ({error.strerror or error}). "
                "Free space, allow writing, or set the environment variable GPPDM_CACHE to a "
                "folder elsewhere; the same command then goes on."
            ) from error
        mapped: NDArray[np.void] = np.load(file, mmap_mode="r", allow_pickle=False)
        return mapped


def _keys(images: NDArray[np.uint8], start: int) -> list[str]:
    """The hashes of `SHARD` images from `start` on; they do not stay in memory."""
    piece = images[start : start + SHARD]
    keys = [hashlib.blake2b(image.tobytes(), digest_size=_KEY).hexdigest() for image in piece]
    let_go(images)
    return keys
