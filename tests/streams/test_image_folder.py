"""Folders of images: each layout, names and orders, and what is wrong with an image."""

import logging
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gppdm_pipeline.streams import prepared, preparing
from gppdm_pipeline.streams.readers.image_folder import ImageFolder
from gppdm_pipeline.streams.scenario import StreamConfig, read_task
from gppdm_pipeline.streams.sources import SourceError


def draw(path, value, size=(6, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, quality=100)


def write_classes(root, names=("ant", "bee", "cat"), n=5, first=0):
    """Images of one value each: 10 times the class, plus the number."""
    for label, name in enumerate(names):
        for i in range(n):
            draw(root / name / f"{i}.png", 10 * label + i + first)
    return root


def values(data):
    """(label, pixel) of each image."""
    assert (data.images == data.images[:, :1, :1]).all()
    return [*zip(data.labels.tolist(), data.images[:, 0, 0, 0].tolist(), strict=True)]


def test_a_folder_without_splits_is_split_by_class(tmp_path):
    source = ImageFolder(folder=write_classes(tmp_path))
    assert source.class_names == ("ant", "bee", "cat")
    train, test = source.read("train"), source.read("test")
    assert train.image_shape == test.image_shape == (4, 6, 1)
    everything = [(label, 10 * label + i) for label in range(3) for i in range(5)]
    assert sorted(values(train) + values(test)) == everything
    assert values(train) == sorted(values(train))
    assert np.bincount(test.labels).tolist() == [1, 1, 1]
    half = ImageFolder(folder=tmp_path, test_fraction=0.4).read("test")
    assert np.bincount(half.labels).tolist() == [2, 2, 2]
    assert set(values(test)) < set(values(half))


@pytest.mark.parametrize("tests", ["test", "val", "validation"])
def test_train_and_test_folders_are_as_they_are(tmp_path, tests):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / tests, n=2, first=100)
    source = ImageFolder(folder=tmp_path)
    assert len(source.read("train")) == 15
    assert values(source.read("test")) == [
        (label, 100 + 10 * label + i) for label in range(3) for i in range(2)
    ]


def write_tiny_imagenet(root):
    """As tiny-imagenet-200.zip unpacks, with three classes."""
    wnids = ["n02", "n01", "n03"]
    (root / "val/images").mkdir(parents=True)
    (root / "test/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (root / "words.txt").write_text(
        "n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn04\tnot here\n"
    )
    lines = []
    for label, wnid in enumerate(wnids):
        for i in range(3):
            draw(
                root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG",
                (10 * label + i,) * 3,
                mode="RGB",
            )
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("box\n")
        draw(root / "val/images" / f"val_{label}.JPEG", 100 + label)  # some of them are grey
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    draw(root / "test/images/test_0.JPEG", 1)
    (root / "val/val_annotations.txt").write_text("".join(reversed(lines)))
    return root


def test_tiny_imagenet(tmp_path, caplog):
    source = ImageFolder(folder=write_tiny_imagenet(tmp_path), colour="rgb")
    assert source.class_names == ("crane (n02)", "goldfish", "crane (n03)")
    with caplog.at_level(logging.WARNING):
        train = source.read("train")
    assert "files that are no images by their names: 3 .txt" in caplog.text
    assert values(train) == [(label, 10 * label + i) for label in range(3) for i in range(3)]
    assert values(source.read("test")) == [(0, 100), (1, 101), (2, 102)]
    some = ImageFolder(folder=tmp_path, colour="rgb", class_names=["n03", "goldfish"])
    assert values(some.read("test")) == [(0, 102), (1, 101)]
    assert values(some.read("train"))[0] == (0, 20)


def test_damage_to_the_annotations_is_told_with_the_row(tmp_path):
    write_tiny_imagenet(tmp_path)
    file = tmp_path / "val/val_annotations.txt"
    lines = file.read_text()
    source = ImageFolder(folder=tmp_path, colour="rgb")
    for line in ("val_0.JPEG n02\n", "val_0.JPEG\tn99\t0\n", "../../val_0.JPEG\tn02\t0\n"):
        file.write_text(lines + line)
        with pytest.raises(SourceError, match=r"val_annotations.txt: found '.*\(row 4\), expected"):
            source.read("test")
    file.write_text(lines + "val_7.JPEG\tn02\t0\n")
    with pytest.raises(SourceError, match=r"val_7.JPEG: cannot be read \(No such file"):
        source.read("test")
    (tmp_path / "wnids.txt").write_text("n01\nn02\nn03\nn09\n")
    with pytest.raises(SourceError, match=r"no folder 'n09', expected all of .*wnids.txt"):
        ImageFolder(folder=tmp_path)


def test_names_that_are_given_choose_classes_and_their_order(tmp_path):
    write_classes(tmp_path)
    source = ImageFolder(folder=tmp_path, class_names=["cat", "ant"], test_fraction=0.2)
    assert {value // 10 for label, value in values(source.read("train")) if label == 0} == {2}
    assert sorted({label for label, _ in values(source.read("train"))}) == [0, 1]
    with pytest.raises(SourceError, match=r"no class 'catt', .*Did you mean 'cat'\?"):
        ImageFolder(folder=tmp_path, class_names=["ant", "catt"]).read("train")


def test_a_new_class_changes_nothing_for_the_others(tmp_path):
    write_classes(tmp_path, n=12)
    options = {"folder": tmp_path, "train_per_class": 4}
    before = {split: ImageFolder(**options).read(split) for split in ("train", "test")}
    write_classes(tmp_path, names=["aardvark"], n=12)
    for split, old in before.items():
        new = ImageFolder(**options).read(split)
        assert [(label - 1, value) for label, value in values(new) if label] == values(old)
    assert len(ImageFolder(folder=tmp_path, class_names=["bee"]).read("test")) == 2


def test_names_found_in_the_folder_are_settings_from_then_on(tmp_path):
    stream = StreamConfig.model_validate(
        {"source": {"reader": "image_folder", "folder": str(tmp_path)}, "classes_per_task": 1}
        if write_classes(tmp_path)
        else {}
    )
    write_classes(tmp_path / "aardvark" / "..", names=["aardvark"])
    again = StreamConfig.model_validate_json(stream.model_dump_json())
    assert again == stream
    assert again.source.class_names == ("ant", "bee", "cat")
    assert len(read_task(again, 0, 1).train) > 0


def test_limits_are_applied_before_anything_is_decoded(tmp_path):
    write_classes(tmp_path, n=10)
    (tmp_path / "ant" / "0.png").write_bytes(b"damaged")
    everything = ImageFolder(folder=tmp_path, damaged="skip").read("train")
    some = ImageFolder(folder=tmp_path, damaged="skip", train_per_class=3).read("train")
    assert np.bincount(some.labels).tolist() in ([3, 3, 3], [2, 3, 3])
    assert set(values(some)) < set(values(everything))
    assert len(everything) in (23, 24)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-30]), "broken|truncated|Truncated"),
        (lambda file: file.write_bytes(b"GIF? no."), "no image"),
        (lambda file: file.write_bytes(b""), "no image"),
    ],
)
def test_a_damaged_image_is_named_and_skipped_only_if_told(
    tmp_path, damage, message, caplog, cache
):
    write_classes(tmp_path / "train", n=4)
    write_classes(tmp_path / "test", n=2)
    file = tmp_path / "train/bee/2.png"
    damage(file)
    with pytest.raises(SourceError, match=f"(?s){file}: .*({message}).*`damaged: skip`"):
        ImageFolder(folder=tmp_path).read("train")
    assert not list(cache.glob("*/images.npy")), "nothing half-written is left"
    source = ImageFolder(folder=tmp_path, damaged="skip")
    for clear in (False, True):  # it is told again by another process
        caplog.clear()
        if clear:
            prepared._sound.clear()
        data = source.read("train")
        assert f"1 damaged images are left out: '{file}'" in caplog.text
        assert (1, 12) not in values(data) and len(data) == 11
        np.testing.assert_array_equal(np.load(data.images.filename), data.images)
    assert len(source.read("test")) == 6


def test_mixed_sizes_and_colours_ask_for_a_rule(tmp_path):
    write_classes(tmp_path)
    draw(tmp_path / "bee" / "wide.png", 3, size=(9, 4))
    with pytest.raises(SourceError, match=r"wide.png: .*\(4, 9, 1\).*\(4, 6, 1\).*set `resize`"):
        ImageFolder(folder=tmp_path, test_fraction=0.01).read("train")
    (tmp_path / "bee" / "wide.png").unlink()
    draw(tmp_path / "bee" / "red.png", (3, 0, 0), mode="RGB")
    with pytest.raises(SourceError, match=r"red.png: .*\(4, 6, 3\).*`colour` to grey or rgb"):
        ImageFolder(folder=tmp_path, test_fraction=0.01).read("train")
    data = ImageFolder(folder=tmp_path, resize=5, colour="rgb").read("train")
    assert data.image_shape == (5, 5, 3)


def test_what_is_no_folder_of_classes_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere: found no such folder.*Set `folder`"):
        ImageFolder(folder=tmp_path / "nowhere")
    with pytest.raises(SourceError, match="found no folder in it"):
        ImageFolder(folder=tmp_path)
    draw(tmp_path / "test/a/0.png", 1)
    with pytest.raises(SourceError, match="found test/ and no folder of training images"):
        ImageFolder(folder=tmp_path)


def test_a_class_without_images_is_named_before_any_is_decoded(tmp_path, monkeypatch):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", names=("ant", "cat"))
    (tmp_path / "train/bat").mkdir()
    monkeypatch.setattr(ImageFolder, "decode", None)
    with pytest.raises(SourceError, match="no training image of class 'bat', but each"):
        ImageFolder(folder=tmp_path).read("train")
    with pytest.raises(SourceError, match="no test image of class 'bat', 'bee', but each"):
        ImageFolder(folder=tmp_path).read("test")


def test_files_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    write_classes(tmp_path)
    original = Path.read_bytes

    def read(path):
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(
        SourceError, match=r"ant/3.png: cannot be read \(Permission denied\). Allow"
    ):
        ImageFolder(folder=tmp_path, damaged="skip", test_fraction=0.01).read("train")


def test_prepared_images_are_read_and_not_decoded_again(tmp_path, monkeypatch, cache):
    source = ImageFolder(folder=write_classes(tmp_path))
    first = source.read("train")
    monkeypatch.setattr(ImageFolder, "decode", None)
    assert values(ImageFolder(folder=tmp_path).read("train")) == values(first)
    assert Path(first.images.filename).is_relative_to(cache)
    with pytest.raises(TypeError):
        ImageFolder(folder=tmp_path, resize=3).read("train")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: draw(folder / "ant/0.png", 99),
        lambda folder: draw(folder / "ant/9.png", 99),
        lambda folder: (folder / "ant/0.png").rename(folder / "ant/00.png"),
        lambda folder: (folder / "ant/1.png").unlink(),
        lambda folder: os.utime(folder / "ant/0.png", (1, 1)),
    ],
)
def test_a_cache_of_other_files_is_made_anew(tmp_path, change, cache):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    source = ImageFolder(folder=tmp_path)
    before = source.read("train").images.filename
    change(tmp_path / "train")
    record = Path(before).with_name("prepared.json")
    old = record.stat().st_ino, record.read_bytes()
    data = source.read("train")
    assert data.images.filename == before, "in the same place"
    assert record.read_bytes() != old[1]
    expected = [
        int(np.asarray(Image.open(file))[0, 0])
        for name in ("ant", "bee", "cat")
        for file in sorted((tmp_path / "train" / name).iterdir())
    ]
    assert [value for _, value in values(data)] == expected


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "images.npy"),
        lambda folder: flip(folder / "labels.npy"),
        lambda folder: (folder / "images.npy").write_bytes(b"\x93NUMPY"),
        lambda folder: os.truncate(folder / "images.npy", 200),
        lambda folder: (folder / "labels.npy").unlink(),
        lambda folder: (folder / "prepared.json").write_text("{"),
        lambda folder: (folder / "prepared.json").write_text("[]"),
    ],
)
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    source = ImageFolder(folder=write_classes(tmp_path))
    first = source.read("train")
    expected, folder = values(first), Path(first.images.filename).parent
    del first
    damage(folder)
    prepared._sound.clear()  # another process
    assert values(source.read("train")) == expected
    assert not list(folder.parent.glob(".*.new"))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch, cache):
    source = ImageFolder(folder=write_classes(tmp_path))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_header", full)
        with pytest.raises(SourceError, match=r"cannot be written \(No space left.*GPPDM_CACHE"):
            source.read("train")
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert len(source.read("train")) == 12


def test_too_little_room_is_told_before_the_work(tmp_path, monkeypatch, cache):
    source = ImageFolder(folder=write_classes(tmp_path))
    usage = type("Usage", (), {"free": 12 * 24 - 1})
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError, match=r"do not fit on this disk, which has 0.0 GB free"):
        source.read("train")
    usage.free += 1
    assert len(source.read("train")) == 12


LAYOUTS = {
    "Training Testing": ("Training/ant Training/bee Testing/ant Testing/bee", "Testing/"),
    "Train valid": ("Train/ant Train/bee valid/ant valid/bee", "valid/"),
    "years": ("train2017/ant train2017/bee 2017_val/ant 2017_val/bee", "2017_val/"),
    "sets": (
        "a/training_set/ant a/training_set/bee a/test_set/ant a/test_set/bee",
        "They are in a/",
    ),
    "twice": ("x_train/x_train/ant x_train/x_train/bee x_test/ant x_test/bee", "x_test/"),
    "wrapped": ("archive/images/ant archive/images/bee", "are in archive/images/"),
    "macOS": ("pets/ant pets/bee __MACOSX/pets/ant", "are in pets/"),
    "letters": ("a/ant b/bee b/bat", "set apart"),
    "stray": ("images images/ant images/bee", "that lie in images/ itself"),
    "images": ("ant/images bee/images", "set apart"),
    "cases": ("train/ant train/bee test/Ant test/BEE", "test/"),
    "unused": ("train/ant train/bee test/ant test/bee val/ant val/bee", "Not used: val/"),
    "one more": (
        "train/ant train/bee test/ant test/bee test/cow",
        "test/ has cow/, and",
    ),
    "accents": ("train/ant train/Lo\u0308we test/ant test/L\u00f6we", "test/"),
    "one": ("ant", "one class only, ant"),
    "joined": ("train_val/ant train_val/bee test/ant test/bee", "those of train_val/, test"),
    "in one word": (
        "traindata/ant traindata/bee testdata/ant testdata/bee",
        "test images those of",
    ),
    "masks": ("ant/images ant/masks bee/images bee/masks", "Left out .* 2 masks/"),
    "thumbnails": ("ant ant/thumbs bee", "1 thumbs/"),
    "look alike": ("ant bat bat\u200b", "look the same: they differ in blanks"),
}


def write_folders(root, folders, n=4):
    for folder in folders.split():
        for i in range(n):
            draw(root / folder / f"{i}.png", i)
    return root


@pytest.mark.parametrize(("folders", "told"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_are_understood_and_told(tmp_path, folders, told, caplog):
    source = ImageFolder(folder=write_folders(tmp_path, folders))
    expected = {name for name in ("ant", "bee", "bat", "L\u00f6we") if name in folders}
    expected |= {"L\u00f6we"} if "we" in folders else set()
    expected |= {"bat\u200b"} if "\u200b" in folders else set()
    assert set(source.class_names) == expected
    with caplog.at_level(logging.INFO):
        for split in ("train", "test"):
            assert {*source.read(split).labels.tolist()} == {*range(len(expected))}
    assert re.search(told, " ".join(source.notes()))
    assert re.search(told, caplog.text)
    if "images/" not in told and "/images ant/masks" in folders:
        assert len(source.read("train")) == 6


REFUSED = {
    "flat splits": ("train test", "images in test/, train/ without a folder of their class"),
    "split or class": ("ant bee train", "name them in class_names; move away .*train/ by the name"),
    "tests beside": ("ant bee test/ant test/bee", "the folders 'ant', 'bee', 'test'"),
    "two": ("train/ant train2/ant", "training images in train/, train2/, expected one"),
    "two tests": ("train/ant test/ant Testing/ant", "test images in Testing/, test/, expected one"),
    "other names": (
        "train/ant train/bee test/a1 test/b1",
        "'a1', 'b1', expected classes of",
    ),
    "parts": ("images annotations", "annotations/, images/ is no class by its name"),
    "single": ("pets pets/ant pets/bee", "pets/ alone, with images and the folders 'ant', 'bee'"),
    "flat": ("images", "images in images/ without a folder of their class"),
    "nested": (
        "pets/ant pets/bee cars/bus cars/van",
        "Set class_folders to outermost",
    ),
    "splits in other words": (
        "learn/ant learn/bee check/ant check/bee",
        "if the outer folders are splits, call",
    ),
    "data sets of equal classes": ("a/n01 a/n02 b/n01 b/n02", "if each is a data set, set"),
    "no training": ("val/ant val/bee", "found val/ and no folder of training images"),
    "data sets": ("a/train/ant a/test/ant b/train/ant b/test/ant", "if a is a data set of its own"),
    "copy": ("ant bee x/ant x/bee", "folders have the names of those beside it: remove x"),
    "classes above": (
        "ant/train ant/test bee/train bee/test",
        "splits above classes, such as",
    ),
}


@pytest.mark.parametrize(("folders", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_refused_with_the_repair(tmp_path, folders, message):
    with pytest.raises(SourceError, match=message):
        ImageFolder(folder=write_folders(tmp_path, folders))


def test_names_that_steer_a_terminal_are_told_in_one_line(tmp_path):
    write_folders(tmp_path, "ant bee")
    draw(tmp_path / "c\n\x1b[2Jat/0.png", 0)
    with pytest.raises(SourceError, match=r"the folder c\\n\\x1b\[2Jat, expected names"):
        ImageFolder(folder=tmp_path)


def test_files_called_masks_are_told(tmp_path):
    write_folders(tmp_path, "ant bee")
    for i in range(3):
        draw(tmp_path / f"ant/{i}_mask.png", i)
    (note,) = [x for x in ImageFolder(folder=tmp_path).notes() if "mask" in x]
    assert "3 images are masks of others" in note


def test_folders_called_alike_in_all_classes_are_parts_of_them(tmp_path):
    folder = write_folders(tmp_path, "ant/2020 ant/2021 bee/2020 bee/2021", n=5)
    source = ImageFolder(folder=folder)
    assert source.class_names == ("ant", "bee")
    assert len(source.read("train")) == 16


def test_names_or_class_folders_settle_what_is_unclear(tmp_path):
    write_folders(tmp_path / "a", "ant bee train")
    source = ImageFolder(folder=tmp_path / "a", class_names=["train", "ant"])
    assert len(source.read("train")) == 6
    write_folders(tmp_path / "b", "pets/ant pets/bee cars/bus")
    for chosen, names in (
        ("outermost", ("cars", "pets")),
        ("innermost", ("cars/bus", "pets/ant", "pets/bee")),
    ):
        source = ImageFolder(folder=tmp_path / "b", class_folders=chosen)
        assert source.class_names == names
        assert {*source.read("train").labels.tolist()} == {*range(len(names))}
    assert ImageFolder(folder=tmp_path / "b", class_names=["pets"]).read("test").labels.any() == 0


def test_what_systems_and_programs_leave_is_no_image(tmp_path):
    write_folders(tmp_path, "ant bee")
    for folder in ("", "ant/"):
        for file in (
            "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
            "#recycle/0.png",
            ".ipynb_checkpoints/0-checkpoint.png",
            "System Volume Information/0.png",
            "$RECYCLE.BIN/0.png",
            "._0.png",
        ):
            draw(tmp_path / folder / file, 99)
        (tmp_path / folder / "Thumbs.db").write_bytes(b"")
    source = ImageFolder(folder=tmp_path)
    assert source.class_names == ("ant", "bee")
    data = [source.read(split) for split in ("train", "test")]
    assert sum(map(len, data)) == 8
    assert not any((each.images == 99).any() for each in data)
    told = " ".join(source.notes())
    assert "2 @eaDir/" in told and "2 Thumbs.db" in told and "2 $RECYCLE.BIN/" in told


def test_links_that_lead_in_a_circle_are_left_out(tmp_path):
    write_folders(tmp_path, "ant bee")
    for link, target in (("ant/up", ".."), ("bee/self", "self"), ("all", "."), ("bee/a", "../ant")):
        (tmp_path / link).symlink_to(target)
    source = ImageFolder(folder=tmp_path)
    assert source.class_names == ("ant", "bee")
    assert len(source.read("train")) + len(source.read("test")) == 8
    assert "read anyway: 1 a, 1 all, 1 up." in " ".join(source.notes())
    (tmp_path / "ant/lost.png").symlink_to("nowhere.png")
    with pytest.raises(SourceError, match=r"lost.png: found a link to a file that is not there"):
        assert source.read("train") and source.read("test")


def test_two_ways_to_write_an_accent_are_one_class(tmp_path):
    write_folders(tmp_path, "L\u00f6we Lo\u0308we ant")
    source = ImageFolder(folder=tmp_path)
    assert source.class_names == ("L\u00f6we", "ant")
    assert len(source.read("train")) + len(source.read("test")) == 12
    again = ImageFolder(folder=tmp_path, class_names=["Lo\u0308we"])
    assert again.class_names == ("L\u00f6we",)
    assert "Two folders are L\u00f6we" in " ".join(source.notes())


def test_bytes_that_are_no_text_are_refused_or_left_alone(tmp_path):
    write_folders(tmp_path, "ant bee")
    place = os.fsencode(tmp_path)
    os.rename(place + b"/bee", place + b"/L\xf6we")
    with pytest.raises(
        SourceError, match=r"the folder L\\xf6we, expected names in UTF-8"
    ) as refused:
        ImageFolder(folder=tmp_path)
    assert str(refused.value).encode()
    os.rename(place + b"/ant/0.png", place + b"/ant/\xf6.png")
    assert len(ImageFolder(folder=tmp_path, class_names=["ant"]).read("train")) == 3
    with pytest.raises(SourceError, match="found a path, expected one in UTF-8"):
        ImageFolder(folder=os.fsdecode(place + b"/L\xf6we"))


def test_tiny_imagenets_sorted_tests_are_read(tmp_path):
    write_tiny_imagenet(tmp_path)
    for label, wnid in enumerate(("n02", "n01", "n03")):
        file = f"val_{label}.JPEG"
        (tmp_path / "val" / wnid / "images").mkdir(parents=True)
        (tmp_path / "val/images" / file).rename(tmp_path / "val" / wnid / "images" / file)
    (tmp_path / "val/images").rmdir()
    source = ImageFolder(folder=tmp_path, colour="rgb")
    assert values(source.read("test")) == [(0, 100), (1, 101), (2, 102)]
    assert "Not used: test/." in source.notes()
    for wnid in ("n01", "n02", "n03"):
        shutil.rmtree(tmp_path / "val" / wnid)
    with pytest.raises(SourceError, match=r"val_annotations.txt: found no folder images beside"):
        ImageFolder(folder=tmp_path, colour="rgb")


def test_other_files_in_place_of_images_are_named(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"no folder in it \(files: 1 .zip\).*unpack what"):
        ImageFolder(folder=tmp_path)
    with pytest.raises(SourceError, match=r"pets.zip: found a file, expected a folder"):
        ImageFolder(folder=tmp_path / "pets.zip")
    write_folders(tmp_path, "ant")
    draw(tmp_path / "bee/0.png", 1)
    with pytest.raises(SourceError, match=r"no test image of class 'bee'.*two of a class"):
        ImageFolder(folder=tmp_path).read("test")


def test_two_at_once_prepare_once(tmp_path, monkeypatch):
    source = ImageFolder(folder=write_classes(tmp_path))
    calls, original = [], preparing.write_images

    def counted(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(prepared, "write_images", counted)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(values(source.read("train"))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(results) == 4 and all(result == results[0] for result in results)


def test_what_a_killed_process_left_is_cleared(tmp_path, cache):
    source = ImageFolder(folder=write_classes(tmp_path))
    folder = Path(source.read("train").images.filename).parent
    folder.rename(folder.with_name(f".{folder.name}.new"))
    assert len(source.read("train")) == 12
    assert not list(cache.glob(".*.new"))


def test_threads_change_no_bit(tmp_path, monkeypatch):
    write_classes(tmp_path, n=40)
    source = ImageFolder(folder=tmp_path, resize=9)
    many = np.array(source.read("train").images)
    monkeypatch.setattr(preparing.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(preparing, "_TOGETHER", 7)
    (tmp_path.parent / "other").mkdir(exist_ok=True)
    monkeypatch.setenv("GPPDM_CACHE", str(tmp_path.parent / "other"))
    np.testing.assert_array_equal(source.read("train").images, many)


@pytest.mark.parametrize(
    ("size", "mode", "resize", "colour"),
    [
        ((28, 28), "L", 28, "grey"),
        ((16, 16), "RGB", 16, "grey"),  # grey, saved as colours
        ((32, 20), "L", (20, 32), "grey"),
        ((30, 30), "L", 32, "grey"),  # the next size that can be halved twice
        ((3, 3), "L", 8, "grey"),
        ((90, 60), "RGBA", 32, "grey"),
    ],
)
def test_auto_leaves_small_images_as_they_are(tmp_path, size, mode, resize, colour):
    for name in "ab":
        for i in range(2):
            draw(tmp_path / name / f"{i}.png", 7 if mode == "L" else (7,) * 3, size, "RGB")
            with Image.open(tmp_path / name / f"{i}.png") as image:
                image.convert(mode).save(tmp_path / name / f"{i}.png")
    source = ImageFolder(folder=tmp_path, resize="auto", colour="auto")
    assert (source.resize, source.colour) == (resize, colour)
    height, width = (resize, resize) if isinstance(resize, int) else resize
    assert source.read("train").image_shape == (height, width, 1)
    assert ImageFolder.model_validate(source.model_dump(mode="json")) == source


def test_auto_makes_images_of_several_sizes_squares_of_the_usual_one(tmp_path):
    for i, side in enumerate((20, 21, 23, 60)):
        draw(tmp_path / "a" / f"{i}.png", (7, 7, 7), (side + 5, side), "RGB")
        draw(tmp_path / "b" / f"{i}.png", (7, 7, 8 if i else 7), (side, side), "RGB")
    (tmp_path / "b/damaged.png").write_bytes(b"no image")
    source = ImageFolder(folder=tmp_path, resize="auto", colour="auto", damaged="skip")
    assert (source.resize, source.colour) == (24, "rgb")
    assert ImageFolder(folder=tmp_path, resize="auto").colour == "as_is"
    assert ImageFolder(folder=tmp_path, resize=12, colour="auto").resize == 12


def test_auto_reads_the_size_of_a_turned_image_as_it_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        for i in range(2):
            draw(tmp_path / name / f"{i}.png", 7, (32, 20))
            with Image.open(tmp_path / name / f"{i}.png") as image:
                image.save(tmp_path / name / f"{i}.png", exif=exif)
    source = ImageFolder(folder=tmp_path, resize="auto")
    assert source.resize == (32, 20)
    assert source.read("test").image_shape == (32, 20, 1)
