"""Random folders, as people have them: each is understood, or refused in a sentence."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from tests.reference.folder_trees import Tree, trees

from gppdm_pipeline.streams import prepared
from gppdm_pipeline.streams.errors import SourceError
from gppdm_pipeline.streams.readers.image_folder import ImageFolder

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
COMMON = {"deadline": None, "database": None, "suppress_health_check": QUIET}
"""Trees are of a seed, not of those that failed here before."""


def check(tree: Tree) -> bool:
    """Whether it is understood; what is refused is told in one printable line or a list."""
    with tempfile.TemporaryDirectory() as place:
        root = tree.write(Path(place))
        try:
            source = ImageFolder(folder=root)
            data = {split: source.read(split) for split in ("train", "test")}
            notes = source.notes()
        except SourceError as error:
            assert str(error).encode(), "it can be printed"
            assert str(error).startswith(place), "it names what is wrong"
            assert str(error).rstrip().endswith("."), "it is a sentence"
            assert not tree.plain, f"refused: {error}"
            return False
    assert set(source.class_names) <= tree.classes, source.class_names
    assert not tree.plain or set(source.class_names) == tree.classes
    for part in data.values():
        assert set(part.labels.tolist()) == set(range(len(source.class_names)))
    assert notes and all(note.endswith(".") and note.encode() for note in notes)
    own = [x for x in tree.images if not any(x.count(mark) for mark in MARKS)]
    total = sum(map(len, data.values()))
    assert total <= len(own), "nothing that a system left is learnt"
    return True


MARKS = ("@eaDir", "#recycle", "/.", "__MACOSX", "$RECYCLE", "System Volume", "stray")


@seed(23)
@settings(max_examples=40, **COMMON)
@given(tree=trees())
def test_some_folders(tree, cache):
    prepared._sound.clear()
    check(tree)


@pytest.mark.slow
@seed(0)
@settings(max_examples=2000, **COMMON)
@given(tree=trees())
def test_many_folders(tree, cache):
    prepared._sound.clear()
    check(tree)


def test_the_trees_hold_both_kinds():
    understood: list[bool] = []

    @seed(1)
    @settings(max_examples=60, **COMMON)
    @given(tree=trees())
    def run(tree):
        understood.append(check(tree))

    run()
    assert 0.5 < sum(understood) / len(understood) < 1
    assert os.listdir(os.environ["GPPDM_CACHE"])
