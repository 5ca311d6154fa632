"""Folders of networks: whose they are, their files and hash. Nothing in a file is executed.

Of timm: config.json with `architecture`, and model.safetensors, as timm's models on the hub have
them, and as `timm.models.save_for_hf` writes them. Of transformers: config.json with `model_type`,
preprocessor_config.json and model.safetensors, as `save_pretrained` of a model and of its image
processor write them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

Kind = Literal["timm", "transformers"]
CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
PACKAGES: Mapping[Kind, tuple[str, ...]] = {
    "timm": ("timm", "torchvision"),
    "transformers": ("transformers",),
}
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")


class EncoderError(ValueError):
    """A network cannot be had or used; the message says why, and what to do."""


@dataclass(frozen=True)
class Pretrained:
    """A network in a folder, before its weights are read.

    Attributes:
        kind: whose layout it has.
        folder: of its files, absolute.
        setting: that names it, for messages.
    """

    kind: Kind
    folder: Path
    setting: str

    @classmethod
    def at(cls, place: str | Path, setting: str, besides: str) -> Pretrained:
        """The one in the folder `place`.

        Args:
            place: its path.
            setting: that names it.
            besides: what else the setting allows.

        Raises:
            EncoderError: if there is none, or its config.json is of neither kind.
        """
        path = Path(place).resolve()
        if not path.is_dir():
            raise EncoderError(
                f"{setting} = {place}: there is no such folder. Allowed are {besides}, and a "
                f"folder with a model of timm or transformers ({CONFIG} and {WEIGHTS})."
            )
        config = read(path / CONFIG, setting)
        if "model_type" in config:
            return cls("transformers", path, setting)
        if "architecture" in config:
            return cls("timm", path, setting)
        raise EncoderError(
            f"{path / CONFIG}: it has neither architecture, as models of timm have, nor "
            f"model_type, as those of transformers have. Name the folder of such a model in "
            f"{setting}."
        )

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return read(self.folder / CONFIG, self.setting)

    @property
    def files(self) -> list[Path]:
        """What decides what the network does."""
        names = [CONFIG, *((PREPROCESSOR,) if self.kind == "transformers" else ()), WEIGHTS]
        return [self.folder / name for name in names]

    @property
    def requirements(self) -> list[str]:
        """The packages that are in use, as pip takes them."""
        return requirements_of(self.kind)

    def fingerprint(self) -> str:
        """SHA-256 of its files: settings, pre-processing and weights.

        Raises:
            EncoderError: as `check`.
        """
        self.check()
        return fingerprint_of(self.files)

    def check(self) -> None:
        """Raise EncoderError if one of its files, or a package, is missing."""
        for file in self.files:
            if not file.is_file():
                raise EncoderError(f"{file} is missing: {self._repair(file.name)}")
        check_packages(self.kind, f"{self.setting} = {self.folder}")

    def _repair(self, name: str) -> str:
        pickles = sorted(file.name for kind in _PICKLES for file in self.folder.glob(kind))
        if name == WEIGHTS and pickles:
            return (
                f"{pickles[0]} is a pickle, which may execute what is in it, and is not read. "
                "Write the weights as safetensors (safe_serialization=True)."
            )
        if name == PREPROCESSOR:
            return (
                "it says how images are prepared. Write it beside the model by save_pretrained of "
                "the model's AutoImageProcessor."
            )
        return f"name a folder that has {', '.join(f.name for f in self.files)} in {self.setting}"


@contextmanager
def on_trial(what: str, repair: str) -> Iterator[None]:
    """Inside, networks have shapes and no numbers, and what one of them raises is told.

    Args:
        what: it does not do, as the message begins; what it raises follows.
        repair: as the message ends.

    Raises:
        EncoderError: with the message; one that is raised inside stays as it is.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            yield
    except EncoderError:
        raise
    except Exception as error:  # whatever the network raises
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EncoderError(f"{what} ({cause}). {repair}") from error


def check_packages(kind: Kind, where: str) -> None:
    """Raise EncoderError if packages of this kind, which `where` asks for, are missing."""
    missing = [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise EncoderError(
            f"{where}: it is a model of {kind}, whose packages are not installed: pip install "
            f"{' '.join(missing)}, or leave it out"
        )


def requirements_of(kind: Kind) -> list[str]:
    """The packages that are in use, as pip takes them."""
    return [f"{name}=={version(name)}" for name in PACKAGES[kind]]


def read(file: Path, setting: str) -> dict[str, Any]:
    """A JSON file of a folder.

    Raises:
        EncoderError: if it cannot be read, or holds no object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{file} cannot be read ({error}): name the folder of a model of timm or transformers "
            f"in {setting}"
        ) from error
    return found if isinstance(found, dict) else {}


def hash_of(file: Path) -> str:
    """SHA-256 of a file; it is read again when it has changed."""
    return _hash(file, file.stat().st_mtime_ns)


@cache
def _hash(file: Path, _: int) -> str:
    """Of a file as it was at a time."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_of(files: Sequence[Path]) -> str:
    """SHA-256 of files by name and content, wherever they lie."""
    lines = [f"{file.name} {hash_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
