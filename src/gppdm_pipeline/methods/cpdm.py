"""CPDM: class-prototype conditional diffusion without gradient projection.

Doan et al. 2023, arXiv 2312.06710 v1: what GPPDM was before the projection. The settings of the
authors' code are in conf/cpdm_reference.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from gppdm_pipeline.algorithm.diffusion.projection import ProjectionConfig
from gppdm_pipeline.methods.gppdm import Gppdm


class Cpdm(Gppdm):
    """GPPDM without gradient projection."""

    projection: ClassVar[ProjectionConfig] = ProjectionConfig(layers=())  # type: ignore[misc]

    name: Literal["cpdm"] = "cpdm"  # type: ignore[assignment]
