"""The pipeline that shows what will be learned, before it is."""

from gppdm_pipeline.pipelines.inspect.pipeline import create_pipeline

__all__ = ["create_pipeline"]
