"""The pipeline that classifies images without labels."""

from gppdm_pipeline.pipelines.predict.pipeline import create_pipeline

__all__ = ["create_pipeline"]
