"""The pipeline that draws images of classes that were learnt."""

from gppdm_pipeline.pipelines.draw.pipeline import create_pipeline

__all__ = ["create_pipeline"]
