"""`python -m gppdm_pipeline.serve <model>`: a published model answers over HTTP.

POST /invocations takes {"inputs": [image, ...]}, as MLflow's own server does for this model; an
image is a PNG (JPEG, ...) in base64, or nested lists of numbers. Beside MLflow's server, this one
holds all files of the version against what was published, runs no code of theirs, bounds the size
of a request, and says in a line what is wrong with one.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gppdm_pipeline.environment  # noqa: F401  isort: skip - before the libraries

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.algorithm.disk.states import StateError
from gppdm_pipeline.catalog.registry import ALIAS, ModelRegistry
from gppdm_pipeline.catalog.registry_dataset import RegistryError
from gppdm_pipeline.faults import PlainCommand
from gppdm_pipeline.run.mlflow_places import database_uri, follow_move
from gppdm_pipeline.serving.predictor import Calibration, Predictor
from gppdm_pipeline.serving.requests import RequestError, answered
from gppdm_pipeline.serving.trained import Learned

LARGEST = 32 << 20
"""Bytes of a request."""


class _RefusedError(Exception):
    """A request that gets no answer: the status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def application(predictor: Predictor, about: dict[str, Any], largest: int = LARGEST) -> Starlette:
    """The service.

    Args:
        predictor: what answers.
        about: what GET / says.
        largest: bytes of a request's body.
    """

    async def invocations(request: Request) -> JSONResponse:
        try:
            body = await _body(request, largest)
            rows = await asyncio.to_thread(_rows, predictor, body)
        except _RefusedError as error:
            closing = {"connection": "close"} if error.status == 413 else None
            return JSONResponse({"error": str(error)}, error.status, closing)
        return JSONResponse({"predictions": rows})

    async def tell(request: Request) -> JSONResponse:
        return JSONResponse(about)

    return Starlette(
        routes=[
            Route("/invocations", invocations, methods=["POST"]),
            Route("/", tell),
            Route("/ping", tell),
        ]
    )


async def _body(request: Request, largest: int) -> bytes:
    kind = request.headers.get("content-type", "none").split(";")[0].strip()
    if kind != "application/json":
        raise _RefusedError(415, f"the content type is {kind}; send application/json")
    too_large = _RefusedError(413, f"the request is too large; send {largest} bytes at most")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > largest:
        raise too_large
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= largest:
            body += part
        else:  # is thrown away: a client that is still sending reads no answer
            body.clear()
    if size > largest:
        raise too_large
    return bytes(body)


def _rows(predictor: Predictor, body: bytes) -> list[dict[str, Any]]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"the request is no JSON: {error}") from error
    if not isinstance(given, dict) or "inputs" not in given:
        raise _RefusedError(400, 'there is no image; send {"inputs": [image, ...]}')
    try:
        columns = answered(predictor, given["inputs"])
    except RequestError as error:
        raise _RefusedError(400, str(error)) from error
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def load(registry: ModelRegistry, model: str, chosen: str, device: str) -> tuple[Predictor, int]:
    """A published predictor, and its version.

    Args:
        registry: where it is.
        model: its name.
        chosen: an alias, or the number of a version.
        device: where to compute.

    Raises:
        RegistryError: if it is not there, or its files are not those that were published.
        StateError: if its state is damaged.
    """
    version = registry.version_of(model, chosen)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = registry.download(model, version, Path(folder)) / "artifacts"
        record = json.loads((artifacts / "calibration.json").read_text())
        learned = Learned.read(artifacts / "state")
    return learned.predictor(Calibration.of(record), resolve_device(device)), version


@click.command(cls=PlainCommand)
@click.argument("model")
@click.option("--version", "chosen", default=ALIAS, show_default=True, help="Number or alias.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Who may ask: this machine.")
@click.option("--port", default=5001, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--tracking-uri", default="sqlite:///mlflow.db", show_default=True)
def main(model: str, chosen: str, host: str, port: int, device: str, tracking_uri: str) -> None:
    """Serve a registered MODEL, such as digits-gppdm."""
    settings = {"tracking_uri": tracking_uri, "artifact_location": "mlruns"}
    with suppress(sqlite3.Error, OSError):  # who serves need not be allowed to write
        follow_move(settings, Path.cwd())
    registry = ModelRegistry(database_uri(settings, Path.cwd()), model)
    try:
        predictor, version = load(registry, model, chosen, device)
    except (RegistryError, StateError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    about = {"model": model, "version": version, "classes": list(predictor.names)}
    click.echo(f"models:/{model}/{version} answers on http://{host}:{port}/invocations")
    uvicorn.run(application(predictor, about), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main()
