"""Memory and time of what a large stream does: train on many images, draw replay of many classes.

    PYTHONPATH=src python benchmarks/memory.py --folder /tmp/memory

Each step runs in a process of its own, so that peaks do not mix. Of resident memory, what is
anonymous is told from pages of mapped files, which the system takes back when something else needs
the room (Linux only: it reads /proc). Networks are small: they would need the same anyhow. The
folder must not exist; it is removed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.files import read_images, write_images
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method

SIDE = 64
CLASSIFIER = {"width": 8, "batch_size": 64}
DENOISER = {"channels": [8, 16], "patch": 8, "batch_size": 64}
METHODS: dict[str, dict[str, Any]] = {
    "finetune": {"classifier": CLASSIFIER},
    "vae_replay": {
        "classifier": CLASSIFIER,
        "vae": {"width": 8, "batch_size": 64},
        "replay": {"images_per_class": 10},
    },
    "gppdm": {
        "classifier": CLASSIFIER,
        "denoiser": DENOISER,
        "projection": {"images_per_class": 2},
        "replay": {"images_per_class": 10, "sampler_steps": 2},
    },
}


class Watch:
    """The median time of a loop's steps, and the most memory of each kind."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.marks: dict[str, list[float]] = {}
        self.peaks = {"anonymous_GB": 0.0, "of_files_GB": 0.0}

    @contextmanager
    def __call__(self, total: int, title: str) -> Iterator[Any]:
        """As a progress bar."""
        self._title = title
        self.marks[title] = [time.perf_counter()]
        yield self

    def advance(self, n: int = 1, **metrics: float) -> None:
        """A step is done."""
        self.marks[self._title].append(time.perf_counter())

    def steps(self) -> dict[str, float]:
        """Milliseconds a step, the median of each loop."""
        return {
            title: round(1e3 * median(np.diff(marks[len(marks) // 4 :])), 2)
            for title, marks in self.marks.items()
            if len(marks) > 4
        }

    @contextmanager
    def memory(self) -> Iterator[None]:
        """Look every 10 milliseconds."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                lines = Path("/proc/self/status").read_text().splitlines()
                found = {line.split(":")[0]: line.split()[1] for line in lines if "kB" in line}
                files = int(found["RssFile"]) + int(found["RssShmem"])
                now = {"anonymous_GB": int(found["RssAnon"]), "of_files_GB": files}
                for kind, size in now.items():
                    self.peaks[kind] = max(self.peaks[kind], round(size / 1e6, 3))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def nothing(folder: Path) -> dict[str, Any]:
    """What Python and its libraries need by themselves."""
    time.sleep(0.1)
    return {}


def make(folder: Path, images: int, classes: int) -> dict[str, Any]:
    """A task's images as the pipeline keeps them."""
    rng = np.random.default_rng(0)
    pixels = np.lib.format.open_memmap(
        folder / "pixels.npy", "w+", np.uint8, (images, SIDE, SIDE, 3)
    )
    for start in range(0, images, 1000):
        pixels[start : start + 1000] = rng.integers(0, 256, (1000, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(images, dtype=np.int64) % classes
    with (folder / "train.npz").open("wb") as file:
        write_images(LabelledImages(pixels, labels), file)
    (folder / "pixels.npy").unlink()
    return {"images": images, "GB": round(pixels.nbytes / 1e9, 2)}


def method_of(name: str, steps: int, **changes: dict[str, Any]) -> Method:
    """Small networks, so many steps each."""
    settings: dict[str, Any] = {"name": name, **METHODS[name]}
    for part in ("classifier", "denoiser", "vae"):
        if part in settings:
            settings[part] = {**settings[part], "steps": steps, **changes.get(part, {})}
    return Method.model_validate(
        {**settings, **{k: v for k, v in changes.items() if k == "replay"}}
    )


def train(folder: Path, name: str, steps: int) -> dict[str, Any]:
    """A first task, as the nodes learn it."""
    watch, method = Watch(), method_of(name, steps)
    with (folder / "train.npz").open("rb") as file:
        images = read_images(file)
    none, context, state = (
        images.of_classes(()),
        Context(0, 1, progress=watch),
        LearnerState.empty(),
    )
    stages = ["train_generator", "train_classifier"]
    for stage in stages if method.generator_first else stages[::-1]:
        if stage == "train_generator":
            state, _ = method.train_generator(state, images, none, context)
        else:
            state, _ = method.train_classifier(state, images, none, none, context)
    return {"milliseconds_a_step": watch.steps()}


def generator(folder: Path, classes: int) -> dict[str, Any]:
    """A generator of so many classes, which has hardly learnt: its replay costs the same."""
    images = np.random.default_rng(0).integers(0, 256, (classes, SIDE, SIDE, 3), np.uint8)
    data = LabelledImages(images, np.arange(classes, dtype=np.int64))
    method = _replaying(1)
    state, _ = method.train_generator(
        LearnerState.empty(), data, data.of_classes(()), Context(0, 1)
    )
    save_state(state, folder / "state", {})
    return {}


def _replaying(images_per_class: int) -> Method:
    replay = {"images_per_class": images_per_class, "sampler_steps": 2, "batch_size": 128}
    denoiser = {"condition_dim": 1024}
    return method_of("gppdm", 1, denoiser=denoiser, replay=replay)


def synthesise(folder: Path, classes: int, images_per_class: int) -> dict[str, Any]:
    """Replay of the first so many classes, with a checkpoint every second, written as .npz."""
    state, watch = load_state(folder / "state"), Watch()
    state = replace(state, tasks=(tuple(range(classes)),))
    place = CheckpointFolder(folder / "checkpoints", "key", 1)
    with watch.memory():
        context = Context(0, 2, progress=watch, checkpoints=place)
        replay, _ = _replaying(images_per_class).synthesise_replay(state, context)
    with (folder / "replay.npz").open("wb") as file:
        write_images(replay, file)
    sizes = [file.stat().st_size for file in (folder / "checkpoints").rglob("*.safetensors")]
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {
        "GB": round(replay.images.nbytes / 1e9, 2),
        "while_drawing": watch.peaks,
        "checkpoints": len(sizes),
        "largest_checkpoint_MB": round(max(sizes, default=0) / 1e6, 1),
    }


def measured(step: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    """Run a step in a process of its own, and print what it took."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, step, *arguments))
    process.start()
    sender.close()  # the child's is the only one left: if it dies, nobody waits
    try:
        print(step.__name__, *arguments[1:], json.dumps(receiver.recv()), flush=True)
    finally:
        process.join()


def _measure(sender: Any, step: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    wall, watch = time.perf_counter(), Watch()
    with watch.memory():
        result = step(*arguments)
    sender.send({"seconds": round(time.perf_counter() - wall, 1), **watch.peaks, **result})


def main() -> None:
    """Make, measure, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; it is removed")
    parser.add_argument("--images", type=int, default=100_000, help="that are trained on")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--classes", type=int, default=1000, help="that are replayed")
    parser.add_argument("--images-per-class", type=int, default=100)
    options = parser.parse_args()
    options.folder.mkdir()
    os.environ["TMPDIR"] = str(options.folder)
    try:
        measured(nothing, options.folder)
        measured(make, options.folder, options.images, 100)
        for name in METHODS:
            measured(train, options.folder, name, options.steps)
        measured(generator, options.folder, options.classes)
        for share in (4, 2, 1):
            classes = options.classes // share
            measured(synthesise, options.folder, classes, options.images_per_class)
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
