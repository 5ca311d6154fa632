"""What a run keeps besides its outputs to go on after it was stopped; the folder can be removed.

<folder>/lock                        held while a run writes this run's outputs
<folder>/lock_holder                 the process that holds it
<folder>/unfinished/<command>.json   a command that has begun and not ended
<folder>/mlflow_run.json             MLflow's run, until the report is made
<folder>/<task>/<stage>/             checkpoints, until the stage's outputs are written
<folder>/drawn/<name>/               images that every task would draw alike, drawn once
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFiles, CheckpointFolder, digest
from gppdm_pipeline.algorithm.disk.checkpoints import Checkpoints
from gppdm_pipeline.provenance import code_digest


@dataclass(frozen=True)
class Scratch:
    """The scratch folder of a run.

    Attributes:
        folder: need not exist.
        every: seconds between checkpoints.
    """

    folder: Path
    every: float

    def checkpoints(self, task: int, stage: str, *given: object) -> Checkpoints:
        """The place of a stage, good for as long as code and what the stage is given stay the same.

        Args:
            task: from 1.
            stage: the name of its node.
            given: settings, state and images.
        """
        folder = self.folder / f"task_{task:02d}" / stage
        return CheckpointFolder(folder, digest(code_digest(), task, given), self.every)

    def drawn(self, name: str, *given: object) -> CheckpointFiles:
        """The place of images that stay, good for as long as code and what they come of stay so.

        Args:
            name: of what is drawn, such as a class.
            given: settings, weights, condition.
        """
        key = digest(code_digest(), given)
        return CheckpointFiles(self.folder / "drawn" / name, key, self.every)

    def forget(self, node: str) -> None:
        """Remove the checkpoints of a node, `<task>.<stage>`, whose outputs are written."""
        task, _, stage = node.partition(".")
        shutil.rmtree(self.folder / task / stage, ignore_errors=True)

    @property
    def mlflow_run(self) -> Path:
        """Names MLflow's run."""
        return self.folder / "mlflow_run.json"
