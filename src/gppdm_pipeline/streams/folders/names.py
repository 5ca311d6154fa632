"""What the name of a folder says: a split, a class, or a part of a data set that is neither."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Kind = Literal["train", "val", "test"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys("train training trainset traindata trainval trn".split(), "train"),
    **dict.fromkeys(
        "val valid validation valset valdata dev devel development eval evaluation holdout".split(),
        "val",
    ),
    **dict.fromkeys("test testing testset testdata tst".split(), "test"),
}
# Words beside the split's that say nothing.
_PLAIN = frozenset(
    "set data dataset split folder images image imgs img pictures files samples jpg png a b".split()
)
_PARTS = frozenset(
    "images image imgs img pictures pics photos files data dataset datasets archive jpeg jpg png "
    "masks labels annotations raw".split()
)

_COUNTED = frozenset(
    "part set batch session sequence seq camera cam view day month year folder".split()
)


def split_of(name: str, *, joint: bool = False) -> tuple[Kind, str] | None:
    """Which split a folder is by its name, and the words besides; None if it is none.

    "train", "Training", "train2017", "2021_train", "testSet" and "val-images" say nothing besides;
    of "alphabet_train" it is "alphabet". If `joint`, "train_val" holds training images.
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    words = [word.casefold() for word in words]
    kinds = [_KINDS[word] for word in words if word in _KINDS]
    if joint and kinds == ["train", "val"]:
        kinds = ["train"]
    if len(kinds) != 1:
        return None
    return kinds[0], " ".join(word for word in words if word not in {*_KINDS, *_PLAIN})


def is_split(name: str) -> bool:
    """Whether the name says that it is a split, and nothing else."""
    found = split_of(name)
    return found is not None and not found[1]


def is_part(name: str) -> bool:
    """Whether the name is one of a data set's parts, such as images/, and of no class."""
    return name.casefold() in _PARTS


def is_portion(name: str) -> bool:
    """Whether it is of a part of a class where all classes have one so called: a date, images/."""
    if is_part(name):
        return True
    word = "".join(re.findall(r"[^\W\d_]+", name.casefold()))
    digits = sum(map(str.isdigit, name))
    return digits > 0 and word in _COUNTED if word else digits >= 4


def composed(name: str) -> str:
    """The name in Unicode's form C: systems write letters with accents in one of two ways."""
    return unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Whether every letter can be written: none is of another encoding or steers a terminal."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def likeness(name: str) -> str:
    """The same for names that one reads as the same, whatever signs they are of."""
    visible = (x for x in name if unicodedata.category(x) != "Cf")
    return unicodedata.normalize("NFKC", "".join(visible)).casefold().strip()


def shown(name: str) -> str:
    """The name with a slash, as of a folder."""
    return f"{name}/"


def shown_list(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    """Folders, the first of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
