"""How what the pipeline makes is kept on disk. Every write is atomic: whole, or not there.

Nothing is pickled. An error names the file and the repair.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NewType, TypeVar
from urllib.parse import quote, unquote

from kedro.io import AbstractDataset, DatasetError

from gppdm_pipeline.algorithm.disk.states import StateError, load_state, save_state, verify_state
from gppdm_pipeline.algorithm.disk.writing import naming
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.places import place_of
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.faults import of_system
from gppdm_pipeline.images.files import read_images, write_images
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.provenance import provenance

Saved = TypeVar("Saved")
Loaded = TypeVar("Loaded")
T = TypeVar("T")

_LARGEST_SVG = 300_000  # bytes; a page of figures stays below 5 MB

# kedro-viz tells previews apart by the names of these types.
ImagePreview = NewType("ImagePreview", str)
JSONPreview = NewType("JSONPreview", str)


class OnDisk(AbstractDataset[Saved, Loaded]):
    """A file or folder of its own.

    Attributes:
        path: where it is.
        metadata: for kedro-viz.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.path = place_of(filepath)
        self.metadata = metadata

    def verify(self) -> None:
        """Read it, without keeping it.

        Raises:
            DatasetError: if it is missing or damaged.
        """
        self.load()

    def damaged(self, what: str) -> DatasetError:
        """The error for a file that cannot be read."""
        return DatasetError(
            f"{self.path} {what}. Remove it and make it again: the same command with "
            "--only-missing-outputs runs what is missing, and nothing else."
        )

    def unwritable(self, error: OSError) -> DatasetError:
        """The error for a file that cannot be written."""
        return DatasetError(
            f"{self.path} cannot be written ({error.strerror or error}). Put that right (free "
            "space, allow writing); the same command then goes on from its last checkpoint."
        )

    def replace_folder(self, write: Callable[[Path], None]) -> None:
        """Write a folder; an older one is replaced when the new one is whole.

        Args:
            write: what belongs in it, into the empty folder that it is given.

        Raises:
            DatasetError: if it cannot be written.
        """
        temporary = self.path.with_name(f".{self.path.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            with naming(temporary):
                write(temporary)
            shutil.rmtree(self.path, ignore_errors=True)
            temporary.rename(self.path)
        except OSError as error:
            raise self.unwritable(error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _exists(self) -> bool:
        return self.path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.path)}


class _File(OnDisk[Saved, Loaded]):
    def load(self) -> Loaded:
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError as error:
            raise self.damaged("is missing") from error
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self.damaged(f"is damaged ({error})") from error
        except OSError as error:
            raise DatasetError(of_system(error)) from error

    def save(self, data: Saved) -> None:
        try:
            self._replace(data)
        except OSError as error:
            raise self.unwritable(error) from error

    def _replace(self, data: Saved) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._unfinished
        try:
            with temporary.open("wb") as file:
                self._write(data, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def _unfinished(self) -> Path:
        """What is written, until it is whole."""
        return self.path.with_name(f".{self.path.name}.new")

    @abstractmethod
    def _read(self, file: BinaryIO) -> Loaded: ...

    @abstractmethod
    def _write(self, data: Saved, file: BinaryIO) -> None: ...


class ImagesDataset(_File[LabelledImages, LabelledImages]):
    """Labelled images as .npz (see `gppdm_pipeline.images.files`)."""

    def _read(self, file: BinaryIO) -> LabelledImages:
        return read_images(file)

    def _write(self, data: LabelledImages, file: BinaryIO) -> None:
        write_images(data, file)


class JsonDataset(_File[dict[str, Any], dict[str, Any]]):
    """A JSON object; neither NaN nor infinity, which JSON does not have."""

    def _read(self, file: BinaryIO) -> dict[str, Any]:
        loaded: dict[str, Any] = json.load(file)
        return loaded

    def _write(self, data: dict[str, Any], file: BinaryIO) -> None:
        file.write(json.dumps(data, indent=2, allow_nan=False).encode())

    def preview(self) -> JSONPreview:
        """For kedro-viz."""
        return JSONPreview(json.dumps(self.load()))


class TextDataset(_File[str, str]):
    """Text in UTF-8."""

    def _read(self, file: BinaryIO) -> str:
        return file.read().decode()

    def _write(self, data: str, file: BinaryIO) -> None:
        file.write(data.encode())


class _BytesDataset(_File[bytes, bytes]):
    def _read(self, file: BinaryIO) -> bytes:
        return file.read()

    def _write(self, data: bytes, file: BinaryIO) -> None:
        file.write(data)


class LogDataset(JsonDataset):
    """What a stage cost and told: none where the stage's result came from elsewhere.

    It is always there, so that its absence is no reason to run a stage again.
    """

    def load(self) -> dict[str, Any]:
        """The record, or an empty one."""
        if self.path.exists():
            return super().load()
        # A kill may have left a part of it, which no run would write again and so put away.
        self._unfinished.unlink(missing_ok=True)
        return {}

    def _exists(self) -> bool:
        return True


class PictureDataset(_File[Picture, str]):
    """A picture as PNG, as SVG, and its data as CSV, side by side; loaded for a page."""

    def save(self, data: Picture) -> None:
        """Write the three files; the PNG, which is what is asked for, last."""
        for suffix in (".csv", ".svg"):
            beside = _BytesDataset(filepath=str(self.path.with_suffix(suffix)))
            beside.save(data.csv().encode() if suffix == ".csv" else data.rendered("svg"))
        super().save(data)

    def _read(self, file: BinaryIO) -> str:
        """A data URI: of the SVG, which is sharp at every size, unless it is a large one."""
        drawing = self.path.with_suffix(".svg")
        small = drawing.exists() and drawing.stat().st_size <= _LARGEST_SVG
        kind = "svg+xml" if small else "png"
        content = drawing.read_bytes() if small else file.read()
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    def _write(self, data: Picture, file: BinaryIO) -> None:
        file.write(data.rendered("png"))

    def preview(self) -> ImagePreview:
        """For kedro-viz."""
        return ImagePreview(base64.b64encode(self.path.read_bytes()).decode())


def encoded(configuration: Mapping[str, Any]) -> str:
    """A configuration in a word without signs that mean something in a catalogue: ${x}, {x}."""
    return quote(json.dumps(configuration))


class StateDataset(OnDisk[LearnerState, LearnerState]):
    """A learner's state as a folder (see `gppdm_pipeline.algorithm.disk.states`).

    Attributes:
        configuration: what states are made with; kept in each. It is given as `encoded` makes it.
    """

    def __init__(
        self,
        *,
        filepath: str,
        configuration: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self.configuration = json.loads(unquote(configuration)) if configuration else None

    def load(self) -> LearnerState:
        """The state; checksums are verified."""
        return self._plainly(load_state)

    def save(self, data: LearnerState) -> None:
        """Write the folder, or leave none."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made = provenance(self.path.parent)
            save_state(data, self.path, self.configuration, made)
        except OSError as error:
            raise self.unwritable(error) from error

    def verify(self) -> None:
        """Check every file against its checksum."""
        self.manifest()

    def manifest(self) -> Mapping[str, Any]:
        """What state.json says; checksums are verified."""
        return self._plainly(verify_state)

    def _plainly(self, function: Callable[[Path], T]) -> T:
        try:
            return function(self.path)
        except StateError as error:
            raise DatasetError(str(error)) from error
        except OSError as error:
            raise DatasetError(of_system(error)) from error
