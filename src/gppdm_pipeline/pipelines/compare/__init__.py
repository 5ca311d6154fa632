"""The pipeline that puts finished runs of one benchmark side by side."""

from gppdm_pipeline.pipelines.compare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
