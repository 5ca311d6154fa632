"""Class-incremental image classification that keeps a generator instead of old images."""

__version__ = "0.1.0"
