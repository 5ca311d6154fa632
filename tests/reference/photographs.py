"""Drawn photographs: a shape of any colour and size on a ground; a pair of the two is a class."""

from __future__ import annotations

from itertools import product

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPES, GROUNDS = ("disc", "square", "triangle", "ring", "cross"), ("noise", "stripes")
CLASSES = ["_".join(pair) for pair in product(GROUNDS, SHAPES)]


def draw(folder, classes, per_class, side=160):
    """JPEGs in a folder of each class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            rng = np.random.default_rng([CLASSES.index(name), number])
            image = Image.fromarray(_ground(name.split("_")[0], side, rng))
            _shape(name.split("_")[1], ImageDraw.Draw(image), side, rng)
            image = image.filter(ImageFilter.GaussianBlur(0.7))
            image.save(folder / name / f"{number:03d}.jpg", quality=90)
    return folder


def _ground(kind, side, rng):
    ground = np.ones((side, side, 3)) * rng.integers(60, 200, 3)
    if kind == "noise":
        ground += rng.normal(0, 40, (side, side, 1))
    else:
        y, x = np.mgrid[:side, :side]
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.1, 0.3)
        waves = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)))
        ground += 50 * np.sign(waves)[..., None]
    return ground.clip(0, 255).astype(np.uint8)


def _shape(kind, pen, side, rng):
    r = int(rng.uniform(0.15, 0.35) * side)
    x, y = (int(place) for place in rng.integers(r, side - r, 2))
    colour, box = tuple(rng.integers(0, 256, 3).tolist()), [x - r, y - r, x + r, y + r]
    if kind == "disc":
        pen.ellipse(box, fill=colour)
    elif kind == "square":
        pen.rectangle(box, fill=colour)
    elif kind == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    elif kind == "ring":
        pen.ellipse(box, outline=colour, width=r // 3)
    else:
        pen.rectangle([x - r, y - r // 4, x + r, y + r // 4], fill=colour)
        pen.rectangle([x - r // 4, y - r, x + r // 4, y + r], fill=colour)
