"""What is done with what was learnt. None of it decides what is learnt."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.streams.readers.base import UserPath


class PredictConfig(Config):
    """Which images the pipeline `predict` classifies.

    Attributes:
        images: a folder, an image file, an .npz or a .parquet; it has to be given.
        least_sure: how many of the images that it is least sure of are shown on the page.
    """

    images: UserPath | None = None
    least_sure: Annotated[int, Field(ge=0, le=200)] = 24


class DrawConfig(Config):
    """What the pipeline `draw` draws.

    Attributes:
        classes: names, as a list or joined by "-"; None: every class that the generator knows.
        images: how many of each class.
        like: an image that is noised and drawn anew as each class; None: noise is.
        signal: the share of signal (abar) of that image which noise leaves.
        towards: a class, towards whose prototype that of each other class is moved step by step, on
            a sheet of its own; None: no sheet.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    classes: tuple[str, ...] | str | None = None
    images: Annotated[int, Field(ge=1, le=100_000)] = 64
    like: UserPath | None = None
    signal: Annotated[float, Field(gt=0, lt=1)] = 0.5
    towards: str | None = None


class PublishConfig(Config):
    """What the pipeline `publish` does.

    Attributes:
        folder: where a pipeline of diffusers, the classifier as ONNX and a model card are written,
            besides; None: nowhere.
        version: of the registered model, which becomes the champion; nothing is published then.
    """

    folder: UserPath | None = None
    version: Annotated[int, Field(ge=1)] | None = None


USES: dict[str, type[Config]] = {
    "predict": PredictConfig,
    "draw": DrawConfig,
    "publish": PublishConfig,
}
