"""Folders of images as people have them, drawn at random: classes under what surrounds them."""

from __future__ import annotations

import io
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

NAMES = ["ant", "Bee", "cat", "Löwe", "猫", "new york", "n01443537", "7", "yes", "train station"]
TRAIN = ["train", "Training", "TRAIN", "train2017", "2021_train", "train_set", "training-images"]
TEST = ["test", "Testing", "Test", "test_set", "test2017", "val", "valid", "validation", "dev"]
WRAPPERS = ["archive", "images", "data", "my pictures"]
SYSTEM = [
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/0.png",
    ".ipynb_checkpoints/0-checkpoint.png",
    "__MACOSX/._0.png",
    "$RECYCLE.BIN/1.png",
    "System Volume Information/x.png",
    ".git/objects/a.png",
    ".thumbnails/0.png",
]
FILES = ["Thumbs.db", ".DS_Store", "._0.png", "desktop.ini", "README.txt"]


def png(value: int) -> bytes:
    """A small image, of other pixels for another value."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (4, 4), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PNGS = [png(value) for value in range(64)]


@dataclass
class Tree:
    """What is drawn.

    Attributes:
        images: paths of images, from the root.
        files: of other files.
        links: (path, what it leads to).
        bytes_names: folders that get a name in Latin-1.
        classes: names that classes may have.
        plain: whether there is nothing that may be refused.
    """

    images: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    bytes_names: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    plain: bool = True

    def write(self, root: Path) -> Path:
        """Make it below a folder that is there."""
        for number, name in enumerate(dict.fromkeys(self.images)):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(PNGS[number % len(PNGS)])
        for name in self.files:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"something")
        for name, target in self.links:
            if not os.path.lexists(root / name):
                os.symlink(target, root / name)
        for name in self.bytes_names:
            place = os.fsencode(root / name)
            os.rename(place, os.path.join(os.path.dirname(place), b"L\xf6we"))
        return root


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Two or more classes, in splits or none, with what lies about."""
    tree = Tree()
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    tree.classes = set(names)
    wrapper = "".join(
        f"{name}/" for name in draw(st.lists(st.sampled_from(WRAPPERS), max_size=2, unique=True))
    )
    splits = [wrapper]
    if draw(st.booleans()):
        splits = [
            f"{wrapper}{draw(st.sampled_from(among))}/"
            for among in ([TRAIN, TEST] if draw(st.integers(0, 3)) else [TRAIN])
        ]
    deeper = draw(st.sampled_from(["", "", "", "images/"]))
    folders = []
    for split in splits:
        for name in names:
            form = draw(st.sampled_from(["NFC", "NFD"])) if not name.isascii() else "NFC"
            folder = f"{split}{unicodedata.normalize(form, name)}/{deeper}"
            folders.append(folder)
            tree.images += [f"{folder}{i}.png" for i in range(draw(st.integers(2, 4)))]
    for place in draw(st.lists(st.sampled_from(["", *splits, *folders]), max_size=3)):
        tree.images.append(place + draw(st.sampled_from(SYSTEM)))
        tree.files.append(place + draw(st.sampled_from(FILES)))
    tree.plain = len(names) > 1  # the folder around one class could be the class
    if draw(st.integers(0, 2)) == 0:
        draw(st.sampled_from(TROUBLES))(draw, tree, splits, folders)
    return tree


def _one_image(draw, tree, splits, folders):
    first = folders[0]
    tree.images = [x for x in tree.images if not x.startswith(first)] + [f"{first}0.png"]
    tree.plain = tree.plain and len(splits) == 2


def _circle(draw, tree, splits, folders):
    where = draw(st.sampled_from([*folders, splits[0]]))
    tree.links.append((f"{where}loop", draw(st.sampled_from([".", "..", "loop", "nowhere"]))))
    tree.plain = False


def _nested(draw, tree, splits, folders):
    """A class whose images are in folders; Places365 has a letter above each class."""
    first = folders[0]
    inner = draw(st.lists(st.sampled_from(["front", "back", "2020"]), min_size=1, unique=True))
    tree.images = [x for x in tree.images if not x.startswith(first)]
    tree.images += [f"{first}{part}/{i}.png" for part in inner for i in range(3)]
    tree.plain = False
    if len(tree.classes) == 1:
        tree.classes |= set(inner)  # nothing tells the class from a folder around classes


def _strays(draw, tree, splits, folders):
    place = draw(st.sampled_from(splits))
    tree.images.append(f"{place}stray.png")
    # an image and folders, alone in a folder: several classes, or one whose images lie deeper
    tree.plain = tree.plain and Path(place).name not in WRAPPERS


def _flat_split(draw, tree, splits, folders):
    wrapper = "/".join(splits[0].split("/")[: -2 if len(splits) == 2 else -1])
    name = draw(st.sampled_from([*TRAIN, *TEST]))
    tree.images += [f"{wrapper}/{name}/{i}.png".lstrip("/") for i in range(3)]
    tree.plain = False


def _empty(draw, tree, splits, folders):
    tree.files.append(f"{splits[0]}nothing/notes.txt")
    tree.plain = False


def _no_text(draw, tree, splits, folders):
    tree.images += [f"{splits[0]}strange/{i}.png" for i in range(3)]
    tree.bytes_names.append(f"{splits[0]}strange")
    tree.plain = False


def _damaged(draw, tree, splits, folders):
    tree.files.append(f"{folders[0]}damaged.png")
    tree.plain = False


def _copy_beside(draw, tree, splits, folders):
    tree.images += [f"{splits[0]}backup/{x.removeprefix(splits[0])}" for x in tree.images[:6]]
    tree.plain = False


TROUBLES = [
    _one_image,
    _circle,
    _nested,
    _strays,
    _flat_split,
    _empty,
    _no_text,
    _damaged,
    _copy_beside,
]
