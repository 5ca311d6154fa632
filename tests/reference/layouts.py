"""Published data sets in their true layouts, with a few small images."""

from __future__ import annotations

import numpy as np
from PIL import Image
from tests.reference.python2_pickle import python2_pickle


def tiny_imagenet(root, per_class=4):
    """As tiny-imagenet-200.zip unpacks, with three classes, in colour and in grey."""
    wnids, lines = ("n02", "n01", "n03"), []
    (root / "val/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tbeacon\n")
    for label, wnid in enumerate(wnids):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("box\n")
        for i, image in enumerate(_images(label, per_class, 64)):
            Image.fromarray(image).save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        for i, image in enumerate(_images(label, 2, 64)):
            name = f"val_{2 * label + i}.JPEG"
            Image.fromarray(image).convert("L" if i else "RGB").save(root / "val/images" / name)
            lines.append(f"{name}\t{wnid}\t0\t0\t62\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    return root


def core50(root):
    """All fifty objects, in two training batches and the test batch of run 0; one comes back."""
    root.mkdir()
    objects = [*range(1, 51), 1, *range(1, 51)]
    batches = [[*range(25)], [*range(25, 51)], [*range(51, 101)]]
    images = np.concatenate([_images(label, 1, 128) for label in objects])
    labels = [[objects[i] - 1 for i in batch] for batch in batches]
    files = {
        "paths": [f"s{i % 3 + 1}/o{o}/C_01_{o:02}_{i:03}.png" for i, o in enumerate(objects)],
        "LUP": {"nicv2_79": [batches]},
        "labels": {"nicv2_79": [labels]},
    }
    for name, value in files.items():
        (root / f"{name}.pkl").write_bytes(python2_pickle(value))
    np.savez(root / "core50_imgs.npz", x=images)
    return root


def _images(label, count, side):
    """Noise around a colour of each class."""
    rng = np.random.default_rng(label)
    colour = rng.integers(40, 216, 3)
    return (colour + rng.integers(-40, 40, (count, side, side, 3))).astype(np.uint8)
