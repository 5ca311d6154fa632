"""`python -m gppdm_pipeline.demo`: a local page on which a learner is tried, and taught a class.

Needs the extra `demo` (gradio). What is taught stays in this process: no state of a run changes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import gppdm_pipeline.environment  # noqa: F401  isort: skip - before the libraries

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.algorithm.disk.states import StateError
from gppdm_pipeline.estimator import ContinualClassifier
from gppdm_pipeline.faults import PlainCommand
from gppdm_pipeline.serving.trained import TrainedRun, UntrainedError
from gppdm_pipeline.streams.conversion import UndecodableError

DRAWN = 16
"""Images of a class on the page, and to watch one by whose images are not kept."""
SHOWN_SIDE = 96
CANVAS = (320, 320)
COLUMNS = ("class", "images", "right before, %", "right after, %")


class Showcase:
    """A learner that is asked and taught by one person at a time.

    Args:
        trained: the run, whose newest state begins.
        calibration: calibration.json, if there is one.
        device: "auto", "cpu", "cuda" or "mps".
    """

    def __init__(self, trained: TrainedRun, calibration: Path | None, device: str) -> None:
        resolve_device(device)
        self._estimator = ContinualClassifier.load(trained.newest, calibration)
        self._estimator.set_params(device=device)
        self._pixels = trained.learned.predictor().pixels
        self._teaching = Lock()
        names = np.array(trained.learned.class_names)
        watched = [part for part in trained.validation() if len(part)]
        self._watched = {
            str(name): np.concatenate([part.images[names[part.labels] == name] for part in watched])
            if watched
            else self._estimator.sample(name, DRAWN)
            for name in self._estimator.classes_
        }

    @property
    def classes(self) -> list[str]:
        """What is known now."""
        return [str(name) for name in self._estimator.classes_]

    def classify(self, image: Path | NDArray[np.uint8]) -> dict[str, float]:
        """The probability of each class.

        Args:
            image: a file, or uint8 pixels [h, w] or [h, w, 1 or 3].

        Raises:
            ValueError: if it is no image.
        """
        (shares,) = self._estimator.predict_proba(self._images([image]))
        return dict(zip(self.classes, shares.tolist(), strict=True))

    def draw(self, name: str, seed: int) -> list[NDArray[np.uint8]]:
        """Replay of a class, uint8 [h, w, c] each.

        Raises:
            ValueError: if the class is unknown, or the method has no generator.
        """
        return [*self._estimator.sample(name, DRAWN, seed)]

    def teach(self, name: str, files: Sequence[str | Path]) -> list[list[Any]]:
        """Learn a class as the next task, from these files and no other image.

        Returns:
            A row of `COLUMNS` for each class, the new one last: whose images are those that it was
            learnt from, and which had no accuracy before.

        Raises:
            ValueError: if there is no name or no file, a file is no image, or it cannot be learnt.
        """
        name = name.strip()
        if not name or not files:
            raise ValueError("give the class a name, and at least one image file")
        images = self._images([*map(Path, files)])
        with self._teaching:
            before = self._accuracies()
            learner = copy.deepcopy(self._estimator)  # what fails leaves the present one
            learner.partial_fit(images, np.array([name] * len(images)))
            earlier = self._watched.pop(name, images[:0])
            self._watched[name] = np.concatenate([earlier, images])
            self._estimator = learner
            after = self._accuracies()
        return [
            [each, len(self._watched[each]), before.get(each), after[each]]
            for each in self._watched
        ]

    def _accuracies(self) -> dict[str, float]:
        return {
            name: round(100 * float((self._estimator.predict(images) == name).mean()), 1)
            for name, images in self._watched.items()
            if len(images)
        }

    def _images(self, images: Sequence[Path | NDArray[np.uint8]]) -> NDArray[np.uint8]:
        pixels = []
        for image in images:
            try:
                pixels.append(self._pixels(image))
            except UndecodableError as error:
                what = image.name if isinstance(image, Path) else "the image"
                raise ValueError(f"{what}: {error}") from error
        return np.stack(pixels)


def strokes(drawn: Image.Image | None) -> NDArray[np.uint8] | None:
    """What was drawn on a transparent sheet, light on black, uint8 [h, w]; None if nothing was."""
    opacity = None if drawn is None else np.asarray(drawn.convert("RGBA"))[..., 3]
    return opacity if opacity is not None and opacity.any() else None


def enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    """A small image in large pixels."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    times = max(1, SHOWN_SIDE // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def page(showcase: Showcase, title: str) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        showcase: what it shows.
        title: of the page.
    """
    import gradio as gr  # noqa: PLC0415 (an extra)

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}")
        with gr.Tab("Classify"):
            _classify_tab(gr, showcase)
        with gr.Tab("Replay"):
            chosen = _replay_tab(gr, showcase)
        with gr.Tab("Add a class"):
            _teach_tab(gr, showcase, chosen)
    return blocks


def _classify_tab(gr: Any, showcase: Showcase) -> None:
    """A sheet to draw on and a place for files; what is put there is classified."""

    def of_sketch(sketch: dict[str, Any] | None) -> dict[str, float] | None:
        pixels = strokes(sketch["composite"]) if sketch else None
        return None if pixels is None else _told(gr, showcase.classify, pixels)

    def of_file(file: str | None) -> dict[str, float] | None:
        return None if file is None else _told(gr, showcase.classify, Path(file))

    sketch = gr.Sketchpad(type="pil", canvas_size=CANVAS, layers=False, format="png", label="Draw")
    with gr.Row():
        dropped = gr.Image(
            type="filepath", format="png", sources=["upload", "clipboard"], label="Or drop"
        )
        answer = gr.Label(num_top_classes=5, label="Class")
    sketch.change(of_sketch, sketch, answer, show_progress="hidden")
    dropped.change(of_file, dropped, answer)


def _replay_tab(gr: Any, showcase: Showcase) -> Any:
    """Replay of the class that is chosen; the list of classes."""

    def replay(name: str, seed: float) -> list[Image.Image]:
        return [enlarged(pixels) for pixels in _told(gr, showcase.draw, name, int(seed))]

    with gr.Row():
        chosen = gr.Dropdown(showcase.classes, label="Class to draw")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    gallery = gr.Gallery(columns=8, label="Drawn by the generator", format="png")
    gr.Button("Draw its replay").click(replay, [chosen, seed], gallery)
    return chosen


def _teach_tab(gr: Any, showcase: Showcase, chosen: Any) -> None:
    """A class is learnt from files, and added to the list of classes, `chosen`."""

    def teach(name: str, files: list[str] | None) -> tuple[list[list[Any]], Any]:
        rows = _told(gr, showcase.teach, name, files or [])
        return rows, gr.Dropdown(choices=showcase.classes)

    gr.Markdown("A handful of files is learnt as a task; of the old classes, replay alone.")
    name = gr.Textbox(label="Name of the class")
    files = gr.File(file_count="multiple", file_types=["image"], label="Its images")
    table = gr.Dataframe(headers=list(COLUMNS), interactive=False, label="What is kept")
    gr.Button("Learn it").click(teach, [name, files], [table, chosen])


def _told(gr: Any, call: Any, *given: Any) -> Any:
    """What a call returns; a fault of what was given is shown on the page."""
    try:
        return call(*given)
    except ValueError as error:
        raise gr.Error(str(error)) from error


@click.command(cls=PlainCommand)
@click.argument("run", default="digits/gppdm/seed_0")
@click.option("--port", default=7860, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(run: str, port: int, device: str) -> None:
    """Show what a RUN has learnt, such as digits/gppdm/seed_0."""
    try:
        import gradio as gr  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise click.ClickException(
            "gradio is not installed: use `make demo`, or install the project's extra demo."
        ) from error
    data = Path.cwd() / "data"
    places = (data / layer / run for layer in ("06_models", "03_primary", "05_model_input"))
    calibration = data / "07_model_output" / run / "calibration.json"
    try:
        known = calibration if calibration.exists() else None
        showcase = Showcase(TrainedRun(run, *places), known, device)
    except (StateError, UntrainedError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{run} is shown on http://127.0.0.1:{port}")
    theme = gr.themes.Default(font=["sans-serif"], font_mono=["monospace"])  # of this machine
    page(showcase, run).launch(
        server_name="127.0.0.1", server_port=port, theme=theme, quiet=True, ssr_mode=False
    )


if __name__ == "__main__":
    main()
