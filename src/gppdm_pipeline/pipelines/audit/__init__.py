"""The pipeline that looks for real images: in files, and in what a run's states tell."""

from gppdm_pipeline.pipelines.audit.pipeline import create_pipeline

__all__ = ["create_pipeline"]
