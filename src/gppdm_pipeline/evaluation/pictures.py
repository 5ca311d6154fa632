"""A picture with its data: what is drawn can be looked at, scaled and drawn again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from gppdm_pipeline.evaluation.lettering import make_legible

Row = Mapping[str, object]


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Attributes:
        figure: drawn.
        rows: its data, at least one; all have the keys of the first.
    """

    figure: Figure
    rows: Sequence[Row]

    def rendered(self, kind: Literal["png", "svg"]) -> bytes:
        """The file's content: the same whenever and by whomever it is made."""
        file = io.BytesIO()
        make_legible(self.figure)
        if not isinstance(self.figure.get_layout_engine(), PlaceHolderLayoutEngine | None):
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")  # it would be laid out for every file again
        # The salt makes an SVG's identifiers, which would be random; letters are paths, so that it
        # looks the same without the font.
        with matplotlib.rc_context({"svg.hashsalt": "gppdm_pipeline", "svg.fonttype": "path"}):
            metadata = {"Date": None} if kind == "svg" else None
            self.figure.savefig(file, format=kind, metadata=metadata)
        return file.getvalue()

    def csv(self) -> str:
        """The data as comma-separated values, a header first; None is empty."""
        file = io.StringIO()
        writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return file.getvalue()
