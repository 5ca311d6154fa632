"""The pipeline that makes the newest state a version of a registered model."""

from gppdm_pipeline.pipelines.publish.pipeline import create_pipeline

__all__ = ["create_pipeline"]
