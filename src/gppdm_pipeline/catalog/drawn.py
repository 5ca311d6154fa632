"""Drawn images on disk: a folder of PNG files and their labels, whole or not there."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gppdm_pipeline.catalog.datasets import OnDisk
from gppdm_pipeline.images.labelled import LabelledImages

LABELS = "labels.csv"


@dataclass(frozen=True)
class Drawn:
    """Images that a generator has drawn.

    Attributes:
        images: with their classes.
        class_names: the name of each label.
        seed: of the noise.
    """

    images: LabelledImages
    class_names: tuple[str, ...]
    seed: int


class DrawnDataset(OnDisk[Drawn, Drawn]):
    """`00000_<class>.png`, ..., and labels.csv with the columns file, label, number and seed."""

    def save(self, data: Drawn) -> None:
        """Write the folder."""
        self.replace_folder(partial(_write, data))

    def load(self) -> Drawn:
        """The images; names of classes that were not drawn are empty."""
        try:
            with (self.path / LABELS).open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            pixels = [np.asarray(Image.open(self.path / row["file"])) for row in rows]
        except (OSError, KeyError) as error:
            raise self.damaged(f"is missing or damaged ({error})") from error
        images = np.stack([each[..., None] if each.ndim == 2 else each for each in pixels])
        labels = np.array([int(row["number"]) for row in rows], np.int64)
        names = [""] * (int(labels.max()) + 1)
        for row in rows:
            names[int(row["number"])] = row["label"]
        return Drawn(LabelledImages(images, labels), tuple(names), int(rows[0]["seed"]))


def _write(data: Drawn, folder: Path) -> None:
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("file", "label", "number", "seed"))
        pairs = zip(data.images.images, data.images.labels.tolist(), strict=True)
        for place, (pixels, label) in enumerate(pairs):
            name = data.class_names[label]
            image = f"{place:05d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}.png"
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / image)
            lines.writerow((image, name, label, data.seed))
