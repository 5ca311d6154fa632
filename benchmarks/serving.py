"""What answers cost: many images through `predict`, one image through HTTP.

    PYTHONPATH=src python benchmarks/serving.py --folder=<an empty folder for some gigabytes>

Throughput: blocks of images take turns between the bare network's loop (batches from memory, and
nothing done with what comes out) and `predict` from an .npz, from PNG files and from a Parquet file
of them, which also calibrates, names and writes rows. Memory: all images of an .npz in one go, and
the largest resident set of the process. Latency: a process of its own serves a classifier of
digits; each request opens a connection, as curl does.
"""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import os
import socket
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import compared, interleaved, parser_of, show, timed, write_record
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from gppdm_pipeline.algorithm.classifier.networks import SmallConvNet
from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.catalog.predictions import PredictionsDataset
from gppdm_pipeline.pipelines.measure import measured
from gppdm_pipeline.serving.classify import Rows
from gppdm_pipeline.serving.predictor import BATCH, Predictor
from gppdm_pipeline.serving.requests import answered
from gppdm_pipeline.streams.conversion import Conversion
from gppdm_pipeline.streams.unlabelled import unlabelled

CLASSES = 10
PART = 5000
SPAWN = multiprocessing.get_context("spawn")
BARE, NPZ = "bare network", "predict from .npz"
FILES, PARQUET = "predict from PNG files", "predict from Parquet"


def predictor_of(shape: tuple[int, int, int], width: int) -> Predictor:
    """A classifier that was never trained: it costs what a trained one does."""
    network = SmallConvNet(shape, width, CLASSES)
    config = {"image_shape": list(shape), "width": width, "classes": CLASSES}
    state = LearnerState(
        tasks=(tuple(range(CLASSES)),),
        image_shape=shape,
        classifier=Weights(config, network.state_dict()),
    )
    return Predictor(state, [f"class {k}" for k in range(CLASSES)], Conversion())


def noise(images: int, shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    """Uint8 [n, h, w, c]."""
    return np.random.default_rng(seed).integers(0, 256, (images, *shape), np.uint8)


@torch.no_grad()
def bare(predictor: Predictor, images: NDArray[np.uint8]) -> None:
    """The network's loop."""
    for start in range(0, len(images), BATCH):
        predictor.network(to_unit_range(images[start : start + BATCH], CPU))


def predicted(predictor: Predictor, images: Path, folder: Path) -> None:
    """Rows on disk."""
    file = folder / "predictions.csv"
    PredictionsDataset(filepath=str(file)).save(Rows(predictor, unlabelled(images)))


def throughput(predictor: Predictor, block: int, turns: int, folder: Path) -> dict[str, Any]:
    """By variant, as `measuring.compared`; a speed of 0.9 is 90 % of the bare network's."""
    images = noise(block, predictor.image_shape, 0)
    np.savez(folder / "block.npz", images=images)
    files = folder / "files"
    files.mkdir(exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(files / f"{number:06}.png")
    rows = [file.read_bytes() for file in sorted(files.iterdir())]
    pq.write_table(pa.table({"image": rows}), folder / "block.parquet")

    def of(source: Path) -> Any:
        return lambda: timed(lambda: predicted(predictor, source, folder), CPU)

    variants = {
        BARE: lambda: timed(lambda: bare(predictor, images), CPU),
        NPZ: of(folder / "block.npz"),
        FILES: of(files),
        PARQUET: of(folder / "block.parquet"),
    }
    return compared(interleaved(variants, turns), BARE, CPU)


def write_many(file: Path, images: int, shape: tuple[int, int, int]) -> None:
    """An .npz of noise, a part at a time."""
    with (
        zipfile.ZipFile(file, "w") as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, *shape)}
        npy.write_array_header_1_0(member, header)
        for start in range(0, images, PART):
            member.write(noise(min(PART, images - start), shape, start).tobytes())


def predict_alone(width: int, side: int, folder: Path, told: Connection) -> None:
    """All images of many.npz, in a process of its own, which tells what it took."""
    torch.set_num_threads(1)
    predictor = predictor_of((side, side, 3), width)
    everything = partial(predicted, predictor, folder / "many.npz", folder)
    _, cost = measured(lambda: (everything(), StageLog()))
    told.send({key: cost[key] for key in ("peak_memory_bytes", "cpu_seconds", "seconds")})


def memory(images: int, width: int, side: int, folder: Path) -> dict[str, float]:
    """Bytes and seconds that so many images take."""
    write_many(folder / "many.npz", images, (side, side, 3))
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=predict_alone, args=(width, side, folder, there))
    process.start()
    found: dict[str, float] = here.recv()
    process.join()
    return {"images": images, **found}


def serve(port: int) -> None:
    """A classifier of digits, until the process is ended."""
    import uvicorn  # noqa: PLC0415 (MLflow takes seconds, and only this process needs it)

    from gppdm_pipeline.serve import application  # noqa: PLC0415

    torch.set_num_threads(1)
    app = application(predictor_of((8, 8, 1), 32), {})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def latency(requests: int) -> dict[str, dict[str, float]]:
    """By kind of image, milliseconds from connecting to the whole answer; and without HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pixels, file = noise(1, (8, 8, 1), 0)[0], BytesIO()
    Image.fromarray(pixels[..., 0]).save(file, "PNG")
    kinds = {"PNG in base64": base64.b64encode(file.getvalue()).decode(), "lists": pixels.tolist()}
    process = SPAWN.Process(target=serve, args=(port,), daemon=True)
    process.start()
    found = {}
    try:
        _wait_for(port, process)
        for kind, image in kinds.items():
            before = _processor_seconds(process.pid)
            found[kind] = _percentiles(partial(_asked, port, image), requests)
            used = _processor_seconds(process.pid) - before
            found[kind]["cpu_ms_of_the_service"] = 1e3 * used / requests
    finally:
        process.terminate()
    alone = partial(answered, predictor_of((8, 8, 1), 32), [kinds["lists"]])
    return {**found, "lists, without HTTP": _percentiles(alone, requests)}


def _wait_for(port: int, process: SpawnProcess) -> None:
    """Until the service listens."""
    while process.is_alive():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.2)
    raise RuntimeError("the service has ended")


def _asked(port: int, image: object) -> None:
    """One request, from connecting to the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"inputs": [image]})
    connection.request("POST", "/invocations", body, {"content-type": "application/json"})
    assert "predictions" in json.loads(connection.getresponse().read())
    connection.close()


def _processor_seconds(process: int | None) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _percentiles(run: Callable[[], object], calls: int) -> dict[str, float]:
    seconds = []
    for _ in range(calls):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    places = {"least_ms": 0, "p25_ms": 25, "median_ms": 50, "p75_ms": 75, "p95_ms": 95}
    found = np.percentile(1e3 * np.array(seconds), [*places.values()]).tolist()
    return dict(zip(places, found, strict=True))


def main() -> None:
    """Measure, print, write the record."""
    parser = parser_of(__doc__, "serving")
    parser.add_argument("--folder", type=Path, required=True, help="for images and rows")
    parser.add_argument("--images", type=int, default=100_000, help="in one go")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--width", type=int, default=32, help="of the classifier")
    parser.add_argument("--narrow", type=int, default=8, help="of the one that classifies all")
    parser.add_argument("--block", type=int, default=2048, help="images of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    answers = latency(given.requests)
    show("One image through HTTP", answers)
    predictor = predictor_of((given.side, given.side, 3), given.width)
    speeds = throughput(predictor, given.block, given.turns, given.folder)
    show(f"{given.block} images, with one thread", speeds)
    many = memory(given.images, given.narrow, given.side, given.folder)
    show("All in one go", {"predict": many})
    write_record(given.out, {"latency": answers, "throughput": speeds, "memory": many})


if __name__ == "__main__":
    main()
