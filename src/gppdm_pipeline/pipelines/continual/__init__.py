"""The pipeline that learns a stream of tasks, one after the other."""

from gppdm_pipeline.pipelines.continual.pipeline import create_pipeline

__all__ = ["create_pipeline"]
