"""Letters that the default font lacks, as of Chinese names: another font's, or their code."""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import cache

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

logger = logging.getLogger(__name__)

_SPELLED = 2  # letters of a word that are shown by their codes, which are long


def make_legible(figure: Figure) -> None:
    """Give texts the fonts of this machine that have their letters.

    Where none has, a letter is shown by its code, such as U+732B, and what to do is told once.

    Args:
        figure: whose texts are changed, if any holds a letter that the default font lacks.
    """
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    labels = [text for axis in axes for text in axis.get_ticklabels()]
    texts: list[Text] = figure.findobj(Text)
    used = {letter for text in (*texts, *labels) for letter in text.get_text()}
    lacking = frozenset(used - _letters(findfont(FontProperties())) - {"\n"})
    if not lacking:
        return
    families, missing = _fonts_with(lacking)
    for text in (*texts, *labels):
        text.set_fontfamily([*rcParams["font.family"], *families])
        text.set_text(_spelled(text.get_text(), missing))
    if missing:
        _tell(min(missing))
        for axis in axes:  # writes its labels anew whenever it is drawn
            if missing & {letter for text in axis.get_ticklabels() for letter in text.get_text()}:
                write = axis.get_major_formatter()
                axis.set_major_formatter(
                    FuncFormatter(
                        lambda value, place, write=write: _spelled(write(value, place), missing)
                    )
                )


@cache
def _letters(file: str) -> frozenset[str]:
    """Those that a font has."""
    try:
        return frozenset(map(chr, get_font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):  # a font that Matplotlib cannot draw
        return frozenset()


@cache
def _fonts_with(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Fonts of this machine that have letters, and those letters that none has."""
    families = list[str]()
    fonts = (font for font in fontManager.ttflist if "Last Resort" not in font.name)
    order = sorted(
        fonts, key=lambda font: (font.style != "normal", "Sans" not in font.name, font.name)
    )
    for font in order:
        if found := letters & _letters(font.fname):
            families.append(font.name)
            letters -= found
        if not letters:
            break
    return tuple(families), letters


def _spelled(text: str, missing: frozenset[str]) -> str:
    """With the codes of missing letters, and without missing marks that only join others."""

    def codes(found: re.Match[str]) -> str:
        letters = [c for c in found[0] if unicodedata.category(c) not in ("Cf", "Mn")]
        shown = " ".join(f"U+{ord(letter):04X}" for letter in letters[:_SPELLED])
        return shown + "…" * (len(letters) > _SPELLED)

    return re.sub(f"[{''.join(map(re.escape, missing))}]+", codes, text) if missing else text


@cache  # once in a process for each
def _tell(letter: str) -> None:
    logger.warning(
        "No font of this machine has every letter of the classes' names: figures show such letters "
        "as U+%04X. Install a font that has them, such as Noto Sans CJK.",
        ord(letter),
    )
