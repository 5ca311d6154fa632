"""From files to 8-bit arrays of one size and one number of channels, by rules that are named."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field, PositiveInt

from gppdm_pipeline.configuration.base import Config

# Those whose decoders are plain and run no other program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
MOST_PIXELS = 89_478_485  # of Pillow's own warning: a quarter of a gigabyte in colour

GREY_MODES = {"1", "L", "LA", "La"}
_WIDE = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


class UndecodableError(Exception):
    """An image that is damaged, none, or too large; says what was found."""


class Conversion(Config):
    """The size and the colours that all images get.

    Images are turned as their EXIF orientation says. What is transparent shows `pad_value`. Images
    are made smaller by averaging areas, as in the downsampled ImageNet (Chrabaszcz et al. 2017,
    arXiv 1707.08819), and larger bilinearly.

    Attributes:
        resize: [height, width], or one number for both; None leaves sizes as they are.
        fit: how an image of other proportions gets there: "crop" fills the size and cuts off what
            stands out on both sides, "pad" fits it in and fills both sides with `pad_value`,
            "stretch" does neither.
        pad_value: 0 (black) to 255.
        colour: "as_is" leaves grey images with one channel and others with three, "grey" makes one
            (the luma of ITU-R BT.601), "rgb" three.
    """

    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 0
    colour: Literal["as_is", "grey", "rgb"] = "as_is"

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An image file's bytes, as uint8 [h, w, c].

        Raises:
            UndecodableError: if they are no whole image of 8 bits a channel.
        """
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UndecodableError(_too_large(f"{image.width} x {image.height} pixels"))
                if image.mode in _WIDE:
                    raise UndecodableError(f"more than 8 bits a channel (mode {image.mode})")
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return self._finished(image)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UndecodableError(
                f"more than the {MOST_PIXELS} pixels that are decoded"
            ) from error
        except UndecodableError:
            raise
        except Exception as error:  # decoders raise whatever damaged data make them stumble over
            what = str(error)
            if isinstance(error, UnidentifiedImageError):
                what = "no image" if data else "no image: the file is empty"
            raise UndecodableError(what) from error

    def convert(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels [h, w, c], c 1 or 3, in the size and colours asked for."""
        height, width, channels = pixels.shape
        if (self._size or (height, width)) == (height, width) and (
            self.colour == "as_is" or channels == {"grey": 1, "rgb": 3}[self.colour]
        ):
            return pixels
        return self._finished(Image.fromarray(pixels[..., 0] if channels == 1 else pixels))

    @property
    def _size(self) -> tuple[int, int] | None:
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    def _finished(self, image: Image.Image) -> NDArray[np.uint8]:
        pixels = np.asarray(self._fitted(self._coloured(image)))
        return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels

    def _coloured(self, image: Image.Image) -> Image.Image:
        grey = self.colour == "grey" or (self.colour == "as_is" and image.mode in GREY_MODES)
        if image.has_transparency_data:
            behind = Image.new("RGBA", image.size, (self.pad_value,) * 3 + (255,))
            image = Image.alpha_composite(behind, image.convert("RGBA"))
        return image.convert("L" if grey else "RGB")

    def _fitted(self, image: Image.Image) -> Image.Image:
        if self._size is None or image.size == self._size[::-1]:
            return image
        height, width = self._size
        if self.fit == "stretch":
            return _resampled(image, (width, height))
        scale = {"crop": max, "pad": min}[self.fit](width / image.width, height / image.height)
        image = _resampled(
            image, (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        )
        blank = (self.pad_value,) * len(image.getbands())
        canvas = Image.new(image.mode, (width, height), blank if len(blank) > 1 else blank[0])
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return canvas


def _resampled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    shrinks = size[0] <= image.width and size[1] <= image.height
    return image.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)


def _too_large(found: str) -> str:
    return f"{found}, which is more than the {MOST_PIXELS} that are decoded"
