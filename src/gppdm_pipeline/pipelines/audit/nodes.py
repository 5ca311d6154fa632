"""From files, states and images to what is kept of the images."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from gppdm_pipeline.algorithm.generator.guarantee import guarantee_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.project import THEIRS, ProjectFiles
from gppdm_pipeline.evaluation.audit_page import audit_page
from gppdm_pipeline.evaluation.captions import CAPTIONS
from gppdm_pipeline.evaluation.leakage import leakage_of
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.images.search import Needles
from gppdm_pipeline.pipelines.continual.nodes import Record
from gppdm_pipeline.streams.scenario import StreamConfig

Pairs = dict[int, LabelledImages]

_SHOWING = {"drift", "replay", "nearest_pairs", "images"}
"""Pictures of test images; the last two, of which `inspect` makes one, of training images."""
_TITLES = tuple(f'alt="{CAPTIONS[name][0]}"'.encode() for name in _SHOWING - {"images"})


def search(stream: StreamConfig, files: ProjectFiles) -> Record:
    """Which files of the project hold real images of the stream, and which ones.

    What is prepared here to know the images is not among them: it goes when the audit ends.
    """
    there = list(files)
    train, test = stream.read("train"), stream.read("test")
    needles, found = Needles(LabelledImages.concatenate([train, test])), {}
    labels, names = np.concatenate([train.labels, test.labels]), stream.class_names
    count = size = 0
    for file in there:
        content = files.content(file)
        count, size = count + 1, size + len(content)
        which = np.array(sorted(needles.found_in(content)), np.int64)
        if len(which):
            of_train = int((which < len(train)).sum())
            classes = [names[label] for label in np.unique(labels[which]).tolist()]
            held = {"training": of_train, "test": len(which) - of_train, "classes": classes}
            found[file.as_posix()] = held
        elif _shows(file, content):
            found[file.as_posix()] = {"pictures": True}
    return {"files": found, "files_searched": count, "bytes_searched": size}


def summarise(
    configuration: Record, stream: StreamConfig, found: Record, state: LearnerState, *tasks: Record
) -> Record:
    """All of it as plain JSON values, by the names of classes.

    Args:
        configuration: every setting of the run.
        stream: names the classes.
        found: as of `search`.
        state: the last.
        tasks: what each task's state tells.
    """
    names = stream.class_names
    prototypes = {names[int(k)]: v for task in tasks for k, v in task.get("prototypes", {}).items()}
    return {
        **{key: configuration[key] for key in ("benchmark", "method", "seed", "variant")},
        "files_with_real_images": sorted(found["files"]),
        **found,
        "not_searched": [THEIRS.as_posix()],
        "state": {
            "real_images": 0 if state.kept is None else len(state.kept),
            "prototypes": prototypes,
            "private": guarantee_of(state),
        },
        **leakage_of(tasks, names),
    }


def write_page(stream: StreamConfig, audit: Record, *pairs: Pairs) -> str:
    """The audit as one page; pairs of drawn and real images where they are there."""
    shown = {stream.class_names[k]: images for task in pairs for k, images in task.items()}
    return audit_page(audit, shown)


def _shows(file: PurePath, content: bytes | memoryview) -> bool:
    """Whether it is a picture of real images, or a page with one: they are enlarged there."""
    if file.suffix in (".png", ".svg"):
        return file.stem in _SHOWING
    is_page = bytes(content[:1]) == b"<"  # DVC's cache keeps no names
    return is_page and any(title in bytes(content) for title in _TITLES)
