"""Train on two processes for ever, and write the number of the second one where it is said."""

import os
import sys
import time
from pathlib import Path

import torch

from gppdm_pipeline.algorithm.workers import backward_of

torch.set_num_threads(2)
slope, fork, told = torch.zeros(1, requires_grad=True), os.fork, Path(sys.argv[1])


def noted():
    """Fork; the name is there when the number is."""
    process = fork()
    if process:
        told.with_suffix(".partial").write_text(str(process))
        told.with_suffix(".partial").replace(told)
    return process


os.fork = noted
with backward_of(lambda batch: {"loss": (slope * batch[0]).sum()}, [slope]) as backward:
    while True:
        backward((torch.ones(40),))
        time.sleep(0.01)
