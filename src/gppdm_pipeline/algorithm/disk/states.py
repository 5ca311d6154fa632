"""States on disk: a folder that is whole, or not there.

    state.json               format, versions, settings, hashes of the data, tasks, image shape (and
                             that of pictures before an encoder), classifier's shape, checksums
    classifier.safetensors
    denoiser/                config.json and weights as diffusers writes its networks
    adapters/task_<tt>/      config.json and weights.safetensors of what a later task adds to them
    prototypes.safetensors   prototype.<class>, start.<class>, embedding.<class>, token_map; and
                             turn.<class> where tokens are turned
    bases.safetensors        by the full name of the projected layer
    extras/<name>/           config.json and weights.safetensors of what only some methods carry
    kept.safetensors         uint8 images and their labels, of methods that keep them

    provenance.json          where it was made: git commit, machine; nothing depends on it

Only the files that a state has something for are there. Nothing is pickled. A folder is written
under a temporary name, synced and renamed, so that a stopped write leaves no state behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

import gppdm_pipeline
from gppdm_pipeline.algorithm.diffusion.network import build_unet
from gppdm_pipeline.algorithm.disk.shapes import UNET_WEIGHTS, misfits, without_private
from gppdm_pipeline.algorithm.disk.writing import let_others_read, naming, replace_folder, sync
from gppdm_pipeline.algorithm.state import Condition, LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pretrained.folder import EncoderError

FORMAT = 1
MANIFEST = "state.json"
"""The file that names all others of a state."""
_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_PROVENANCE = "provenance.json"
_TASK = "task_"


class StateError(ValueError):
    """A state on disk that is missing, damaged, or of another format; the message says which."""


def save_state(
    state: LearnerState,
    folder: Path,
    configuration: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a state; an older one in the same place is replaced in one step.

    The same state with the same configuration gives the same bytes, provenance aside.

    Args:
        state: any, the empty one included.
        folder: its parents are made.
        configuration: what it was made with, kept beside it; plain JSON values.
        provenance: where it was made; plain JSON values.

    Raises:
        OSError: if it cannot be written; it names a file or the folder.
    """
    with naming(folder):
        _save(state, folder, configuration, provenance)


def _save(
    state: LearnerState,
    folder: Path,
    configuration: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
        shutil.rmtree(leftover)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        _write_tensors(state, temporary)
        checksums = {
            path.relative_to(temporary).as_posix(): _checksum(path.read_bytes())
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        manifest = _manifest(state, checksums, configuration)
        manifest["checksum"] = _checksum(_canonical(manifest))
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        if provenance is not None:
            (temporary / _PROVENANCE).write_text(json.dumps(dict(provenance), indent=2) + "\n")
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_state(folder: Path) -> LearnerState:
    """Read a state; every file is held against its checksum first.

    Raises:
        StateError: if the folder or a file of it is missing or damaged, or its format is another
            one. The message names the file and the repair.
    """
    manifest, files = _verified(folder)
    _check_shapes(folder, manifest, files)
    classifier, denoiser, condition = None, None, None
    if manifest["classifier"] is not None:
        classifier = Weights(manifest["classifier"], load(files["classifier.safetensors"]))
    if f"denoiser/{UNET_WEIGHTS}" in files:
        config = json.loads(files["denoiser/config.json"])
        denoiser = Weights(without_private(config), load(files[f"denoiser/{UNET_WEIGHTS}"]))
    if "prototypes.safetensors" in files:
        condition = _unpack_condition(load(files["prototypes.safetensors"]))
    shape, pictures = manifest["image_shape"], manifest.get("picture_shape")
    return LearnerState(
        tasks=tuple(tuple(task) for task in manifest["tasks"]),
        image_shape=None if shape is None else (shape[0], shape[1], shape[2]),
        classifier=classifier,
        denoiser=denoiser,
        condition=condition,
        bases=load(files["bases.safetensors"]) if "bases.safetensors" in files else {},
        adapters={
            int(name.removeprefix(_TASK)): weights
            for name, weights in _networks(files, "adapters").items()
        },
        extras=_networks(files, "extras"),
        kept=_unpack_images(files["kept.safetensors"]) if "kept.safetensors" in files else None,
        data=tuple(manifest["data"]),
        picture_shape=None if pictures is None else (pictures[0], pictures[1], pictures[2]),
        encoder=manifest.get("encoder"),
    )


def verify_state(folder: Path) -> Mapping[str, Any]:
    """Check that `folder` holds a whole state.

    Returns:
        What state.json says, such as `configuration` and `tasks`.

    Raises:
        StateError: as `load_state`.
    """
    manifest, files = _verified(folder)
    _check_shapes(folder, manifest, files)
    return manifest


def _write_tensors(state: LearnerState, folder: Path) -> None:
    if state.classifier is not None:
        _write(folder / "classifier.safetensors", state.classifier.tensors)
    if state.denoiser is not None:
        build_unet(state.denoiser).save_pretrained(folder / "denoiser")
        let_others_read(folder / "denoiser")
    if state.condition is not None:
        condition = state.condition
        named = {"token_map": condition.token_map}
        for kind, tensors in _parts(condition).items():
            named |= {f"{kind}.{label}": tensor for label, tensor in tensors.items()}
        _write(folder / "prototypes.safetensors", named)
    if state.bases:
        _write(folder / "bases.safetensors", state.bases)
    networks = {f"extras/{name}": weights for name, weights in state.extras.items()}
    networks |= {f"adapters/{_TASK}{task:02d}": each for task, each in state.adapters.items()}
    for name, weights in networks.items():
        place = folder / name
        place.mkdir(parents=True)
        (place / _CONFIG).write_text(json.dumps(dict(weights.config)))
        _write(place / _WEIGHTS, weights.tensors)
    if state.kept is not None:
        images, labels = map(torch.from_numpy, (state.kept.images, state.kept.labels))
        _write(folder / "kept.safetensors", {"images": images, "labels": labels})


def _parts(condition: Condition) -> dict[str, Mapping[int, Tensor]]:
    return {
        "prototype": condition.prototypes,
        "start": condition.starts,
        "embedding": condition.embeddings,
        "turn": condition.turns,
    }


def _unpack_condition(named: Mapping[str, Tensor]) -> Condition:
    kinds = ("embedding", "prototype", "start", "turn")
    parts: dict[str, dict[int, Tensor]] = {kind: {} for kind in kinds}
    for name in sorted(set(named) - {"token_map"}, key=lambda name: int(name.split(".")[1])):
        kind, label = name.split(".")
        parts[kind][int(label)] = named[name]
    embeddings, prototypes, starts, turns = parts.values()
    return Condition(embeddings, named["token_map"], prototypes, starts, turns)


def _unpack_images(content: bytes) -> LabelledImages:
    named = load(content)
    return LabelledImages(named["images"].numpy(), named["labels"].numpy())


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _manifest(
    state: LearnerState, checksums: Mapping[str, str], configuration: Mapping[str, Any] | None
) -> dict[str, Any]:
    pictures = state.picture_shape
    return {
        "format": FORMAT,
        "versions": {
            "gppdm-pipeline": gppdm_pipeline.__version__,
            "torch": torch.__version__,
            "diffusers": version("diffusers"),
        },
        "configuration": None if configuration is None else dict(configuration),
        "data": list(state.data),
        "tasks": [list(task) for task in state.tasks],
        "image_shape": None if state.image_shape is None else list(state.image_shape),
        **({} if pictures is None else {"picture_shape": list(pictures)}),
        **({} if state.encoder is None else {"encoder": state.encoder}),
        "classifier": None if state.classifier is None else dict(state.classifier.config),
        "files": dict(checksums),
    }


def _verified(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the bytes of every file, all of them as they were written."""
    path = folder / MANIFEST
    if not path.is_file():
        raise _error(path, "is missing")
    try:
        manifest = json.loads(path.read_text())
        stated = manifest.pop("checksum")
    except (ValueError, KeyError, AttributeError) as error:
        raise _error(path, f"is damaged ({error})") from error
    if manifest.get("format") != FORMAT:
        raise _error(path, f"has format {manifest.get('format')}, this version reads {FORMAT}")
    if stated != _checksum(_canonical(manifest)):
        raise _error(path, "is damaged (its checksum differs)")
    files = {}
    for name, checksum in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise _error(file, "is missing")
        files[name] = file.read_bytes()
        if _checksum(files[name]) != checksum:
            raise _error(file, "is damaged (its checksum differs)")
    return manifest, files


def _networks(files: Mapping[str, bytes], folder: str) -> dict[str, Weights]:
    """Those in a folder, by name."""
    return {
        name.split("/")[1]: Weights(
            json.loads(content), load(files[name.replace(_CONFIG, _WEIGHTS)])
        )
        for name, content in files.items()
        if name.startswith(f"{folder}/") and name.endswith(_CONFIG)
    }


def _check_shapes(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    try:
        for name, what in misfits(manifest, files):
            raise _error(folder / name, f"does not fit its network: {what}")
    except EncoderError as error:  # timm is missing, or another one
        raise StateError(f"{folder}: {error}") from error


def _error(path: Path, what: str) -> StateError:
    return StateError(
        f"{path} {what}. Remove the folder {path.parent} and make the state again by running its "
        "task, or restore the folder from a copy."
    )


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
