"""Diffusion replay: deep generative replay with a diffusion model.

Shin et al. 2017, arXiv 1705.08690, with Ho et al. 2020, arXiv 2006.11239, as the generator. The
denoiser is conditioned on the label alone: GPPDM without prototypes and gradient projection.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from gppdm_pipeline.algorithm.diffusion.projection import ProjectionConfig
from gppdm_pipeline.algorithm.generator.prototypes import PrototypeConfig
from gppdm_pipeline.methods.gppdm import Gppdm


class DiffusionReplay(Gppdm):
    """GPPDM with neither prototype nor projection."""

    prototypes: ClassVar[PrototypeConfig] = PrototypeConfig(route="none")  # type: ignore[misc]
    projection: ClassVar[ProjectionConfig] = ProjectionConfig(layers=())  # type: ignore[misc]

    name: Literal["diffusion_replay"] = "diffusion_replay"  # type: ignore[assignment]
