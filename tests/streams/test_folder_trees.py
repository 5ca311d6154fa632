"""Random folders, as people have them: each is understood, or refused in a sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.reference.folder_trees import Tree, trees

from gppdm_pipeline.streams import prepared
from gppdm_pipeline.streams.errors import SourceError
from gppdm_pipeline.streams.readers.image_folder import ImageFolder


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


def run(number: int, count: int) -> float:
    """Check random trees; the share of those that are understood."""
    understood: list[bool] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(tree=trees())
    def each(tree):
        prepared._sound.clear()
        understood.append(check(tree))

    each()
    return sum(understood) / len(understood)


def test_some_folders():
    assert 0.4 < run(23, 40) < 1


@pytest.mark.slow
def test_two_thousand_folders():
    assert 0.4 < run(0, 2000) < 1
