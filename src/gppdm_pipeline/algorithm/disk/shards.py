"""Images that are drawn, kept in shards: each is written once, so that the cost does not grow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from gppdm_pipeline.algorithm.disk.checkpoints import Checkpoint, Snapshot
from gppdm_pipeline.images.labelled import Room

SHARD_BYTES = 1 << 26
"""Bytes of images from which on a shard is written before its time."""


class Shards:
    """Images drawn so far; those of a loop that was stopped are there already.

    Memory holds a shard, however many images there are (see `Room`).

    Args:
        shape: (n, height, width, channels), of all images in the end.
        generator: of the random numbers, which goes on from where it was.
        checkpoint: gives shards back, and is offered new ones.
        dtype: of the images.

    Attributes:
        done: how many images there are.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator,
        checkpoint: Checkpoint,
        dtype: DTypeLike = np.uint8,
    ) -> None:
        self._room, self._generator, self._checkpoint = Room(shape, dtype), generator, checkpoint
        self.done = self._kept = 0
        for shard in checkpoint.parts():
            self._room.put(self.done, shard.tensors["images"].numpy())
            generator.set_state(shard.tensors["generator"])
            self.done = self._kept = shard.step

    def add(self, images: NDArray[Any]) -> None:
        """Take in images [b, height, width, channels], drawn after those that are there."""
        self._room.put(self.done, images)
        self.done += len(images)
        waiting = (self.done - self._kept) * math.prod(images.shape[1:]) * images.itemsize
        self._checkpoint.offer(self._shard, waiting >= SHARD_BYTES)

    @property
    def images(self) -> NDArray[Any]:
        """Of the shape and dtype that were asked for."""
        return self._room.images

    def _shard(self) -> Snapshot:
        images = torch.from_numpy(self.images[self._kept : self.done])
        tensors = {"images": images, "generator": self._generator.get_state()}
        shard = Snapshot(self.done, tensors, follows=self._kept)
        self._kept = self.done
        return shard
