"""Class-incremental image classification that keeps a generator instead of old images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gppdm_pipeline.serving.generator_pipeline import GppdmPipeline as GppdmPipeline

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`GppdmPipeline`, whose libraries take seconds to import, when it is asked for."""
    if name != "GppdmPipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gppdm_pipeline.serving.generator_pipeline import GppdmPipeline  # noqa: PLC0415

    return GppdmPipeline
