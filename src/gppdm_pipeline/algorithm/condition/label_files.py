"""Label embeddings on disk.

    .npy                    float [classes, width]: row i is class i
    .npz, .safetensors      an array of that form, named or the only one; or an array [width] for
                            each class, by the class's name

Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

SUFFIXES = (".npz", ".npy", ".safetensors")

Arrays = Mapping[str, NDArray[np.generic]]


def read_embeddings(
    file: str, key: str | None, names: Sequence[str], labels: Sequence[int]
) -> Tensor:
    """The vectors of some classes.

    Args:
        file: in one of the forms above.
        key: of the array whose rows are classes.
        names: class i is called names[i]; may be empty where rows are classes.
        labels: classes.

    Returns:
        float64 [labels, width], none of them zero.

    Raises:
        ValueError: if the file is missing, damaged, or has no such vectors; it names the repair.
    """
    arrays = _read(Path(file))
    array = _rows(file, arrays, key, names)
    if array is None:
        lacking = [names[label] for label in labels if names[label] not in arrays]
        if lacking:
            raise ValueError(f"{file} has no entry for {lacking}; {_held(arrays)}")
        chosen = [arrays[names[label]] for label in labels]
        widths = {vector.shape for vector in chosen}
        if len(widths) > 1 or chosen[0].ndim != 1:
            raise ValueError(
                f"the entries of {file} have shapes {sorted(widths)}; each class needs a vector, "
                "all of one width"
            )
        return _checked(file, np.stack(chosen), labels)
    if len(array) < max(labels) + 1 or (names and len(array) != len(names)):
        expected = len(names) or max(labels) + 1
        raise ValueError(
            f"{file} has {len(array)} rows, and there are {expected} classes, a row each: use the "
            "file, or the condition.key, of this data set"
        )
    return _checked(file, array[np.asarray(labels)], labels)


def _read(path: Path) -> Arrays:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"condition.file is {path}; allowed are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"condition.file is {path}, which is not there (seen from {Path.cwd()})")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if path.suffix == ".npy":
                return {"": loaded}
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, BadZipFile, SafetensorError) as error:
        raise ValueError(f"condition.file {path} cannot be read: {error}") from error


def _rows(
    file: str, arrays: Arrays, key: str | None, names: Sequence[str]
) -> NDArray[np.generic] | None:
    """The array whose rows are classes, or None where each class has an entry of its name."""
    if key is not None:
        if key not in arrays:
            raise ValueError(f"{file} has no array {key!r} (condition.key); {_held(arrays)}")
        array = arrays[key]
    elif any(name in arrays for name in names):
        return None
    elif len(arrays) == 1:
        [array] = arrays.values()
    else:
        raise ValueError(
            f"{file} holds several arrays, and none has the name of a class; name one with "
            f"condition.key; {_held(arrays)}"
        )
    if array.ndim != 2:
        raise ValueError(
            f"{file} has an array of shape {list(array.shape)}; it must be [classes, width]"
        )
    return array


def _checked(file: str, vectors: NDArray[np.generic], labels: Sequence[int]) -> Tensor:
    if not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"{file} holds {vectors.dtype}; embeddings are floating-point numbers")
    tensor = torch.from_numpy(vectors.astype(np.float64))
    bad = ~tensor.isfinite().all(1) | ~tensor.any(1)
    if bad.any():
        classes = [label for label, is_bad in zip(labels, bad.tolist(), strict=True) if is_bad]
        raise ValueError(f"{file}: the vectors of classes {classes} are zero or not finite")
    return tensor


def _held(arrays: Arrays) -> str:
    names, most = sorted(arrays), 20
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"it holds {', '.join(map(repr, names[:most]))}{more}"
