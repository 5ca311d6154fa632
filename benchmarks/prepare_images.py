"""Time and memory of a large folder of images: prepare, split into tasks, iterate.

    PYTHONPATH=src python benchmarks/prepare_images.py --folder /tmp/images

It makes the folder (100,000 PNG files of 64 x 64 in 1,000 classes) in a process of its own, then
measures each step in one more process each, so that peaks do not mix, and removes everything.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gppdm_pipeline.streams.scenario import StreamConfig, read_task

TASKS = 10
SEED = 0


def make(folder: Path, classes: int, per_class: int, side: int) -> dict[str, float]:
    """Smooth random images, which compress about as photographs do."""
    for label in range(classes):
        rng = np.random.default_rng(label)
        where = folder / f"class_{label:04d}"
        where.mkdir(parents=True)
        coarse = rng.integers(0, 256, (per_class, side // 4, side // 4, 3), np.uint8)
        noise = rng.integers(0, 16, (per_class, side, side, 3), np.uint8)
        for i in range(per_class):
            image = Image.fromarray(coarse[i]).resize((side, side), Image.Resampling.BICUBIC)
            Image.fromarray(np.asarray(image) // 2 + noise[i]).save(where / f"{i:04d}.png")
    return {}


def stream(folder: Path) -> StreamConfig:
    """All classes, the same number in each task."""
    source = {"reader": "image_folder", "folder": str(folder)}
    classes = sum(1 for _ in folder.iterdir())
    return StreamConfig.model_validate({"source": source, "classes_per_task": classes // TASKS})


def prepare(folder: Path) -> dict[str, float]:
    """Both splits, for the first time."""
    source = stream(folder).source
    return {"images": sum(len(source.read(split)) for split in ("train", "test"))}


def split(folder: Path) -> dict[str, float]:
    """What the node `split` does, for every task."""
    config = stream(folder)
    images = 0
    for task in range(1, TASKS + 1):
        parts = read_task(config, SEED, task)
        images += len(parts.train) + len(parts.validation) + len(parts.test)
    return {"images": images}


def iterate(folder: Path) -> dict[str, float]:
    """Every image of both splits once, in batches of 256, in random order."""
    source, total, images = stream(folder).source, 0, 0
    for name in ("train", "test"):
        data = source.read(name)
        order = np.random.default_rng(SEED).permutation(len(data))
        for first in range(0, len(data), 256):
            batch = data.select(order[first : first + 256])
            total += int(batch.images.sum(dtype=np.int64))
            images += len(batch)
    return {"images": images, "mean": total / images}


def measured(step: Callable[..., dict[str, float]], *arguments: Any) -> None:
    """Run a step in a process of its own, and print what it took."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, step, *arguments))
    process.start()
    sender.close()  # the child's is the only one left: if it dies, nobody waits
    try:
        print(step.__name__, json.dumps(receiver.recv()), flush=True)
    finally:
        process.join()


def _measure(sender: Any, step: Callable[..., dict[str, float]], *arguments: Any) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    result = step(*arguments)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes on Linux
    costs = {"seconds": wall, "processor_seconds": processor, "peak_resident_GB": peak}
    sender.send({**result, **{key: round(value, 2) for key, value in costs.items()}})


def main() -> None:
    """Make, measure, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; it is removed")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--side", type=int, default=64)
    options = parser.parse_args()
    options.folder.mkdir()
    os.environ["GPPDM_CACHE"] = str(options.folder / "cache")
    images = options.folder / "images"
    try:
        measured(make, images, options.classes, options.per_class, options.side)
        for step in (prepare, split, iterate):
            measured(step, images)
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
