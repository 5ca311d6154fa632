"""How an autoencoder that a run has trained is kept on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gppdm_pipeline.algorithm.disk.writing import let_others_read
from gppdm_pipeline.catalog.datasets import OnDisk


class AutoencoderDataset(OnDisk[Any, Path]):
    """A run's own autoencoder: a folder as diffusers' `save_pretrained` writes it."""

    def load(self) -> Path:
        """Where it lies."""
        if not self.path.is_dir():
            raise self.damaged("is missing")
        return self.path

    def save(self, data: Any) -> None:
        """Write the folder."""
        self.replace_folder(partial(_write_pretrained, data))


def _write_pretrained(network: Any, folder: Path) -> None:
    network.save_pretrained(folder)
    let_others_read(folder)
