"""Work on all ranks that torchrun started: a method's verbs, and what is measured of them.

Rank 0 alone runs the project: its configuration, lock, outputs and tracking. The others wait for
work, do it beside rank 0, and wait again; what it is given comes to them from rank 0, and so do
checkpoints, of which they keep none. What they return is dropped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from gppdm_pipeline.algorithm.context import Context, silent
from gppdm_pipeline.algorithm.disk.checkpoints import (
    Checkpoint,
    Snapshot,
    no_checkpoints,
    not_kept,
)
from gppdm_pipeline.algorithm.team import ALONE, WAIT, RankError, Team, meeting

Value = TypeVar("Value")


def join() -> Team:
    """Meet the other ranks, if torchrun started any; each has a GPU of its own, if there are some.

    Raises:
        RankError: if there are fewer GPUs than ranks.
    """
    if int(os.getenv("WORLD_SIZE", "1")) < 2:
        return ALONE
    gpus, number = torch.cuda.device_count(), int(os.getenv("LOCAL_RANK", "0"))
    if 0 < gpus <= number:
        raise RankError(
            f"torchrun started process {number + 1} on a machine with {gpus} GPUs; use "
            f"--nproc-per-node={gpus}"
        )
    if gpus:
        torch.cuda.set_device(number)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=WAIT)
    return launched()


def launched() -> Team:
    """The ranks that torchrun started; one without it."""
    if not dist.is_initialized():
        return ALONE
    return Team(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


def on_all_ranks(work: Callable[..., Value], context: Context, **given: Any) -> Value:
    """What `work` returns, done by all ranks; called on rank 0.

    Args:
        work: takes a context, by this name, and shares by its team; a function of a module, or a
            method of what can be pickled.
        context: of rank 0.
        given: the other arguments, by name.
    """
    team = launched()
    if team.size > 1:
        bare = replace(context, progress=silent, checkpoints=no_checkpoints, drawn=not_kept)
        _told((work, bare, given))
        context = _of_team(context, team)
    return work(context=context, **given)


def dismiss() -> None:
    """Let the other ranks end; called on rank 0 when all is done."""
    if launched().size > 1:
        _told(None)
        dist.destroy_process_group()


def serve(team: Team) -> None:
    """Do the work that rank 0 tells, until it ends; signals that stop a run are rank 0's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while (told := _told(None)) is not None:
            work, context, given = told
            work(context=_of_team(context, team), **given)
    except RankError:
        return  # rank 0 tells it, if it is there
    dist.destroy_process_group()


def _told(value: Value) -> Value:
    """Rank 0's value, on every rank; pickled here, and read from no file."""
    box = [value]
    with meeting():
        dist.broadcast_object_list(box, 0)
    return box[0]


def _of_team(context: Context, team: Team) -> Context:
    """With the snapshots that rank 0 has; others keep none."""
    return replace(
        context,
        team=team,
        checkpoints=lambda loop: _Told(context.checkpoints(loop)),
        drawn=lambda name, *given: _Told(context.drawn(name, *given)),
    )


@dataclass(frozen=True)
class _Told:
    """A loop's checkpoint as all ranks see it: what rank 0 finds there.

    Attributes:
        own: of this rank; nowhere, but on rank 0.
    """

    own: Checkpoint

    def latest(self) -> Snapshot | None:
        """As `Checkpoint`."""
        return _told(self.own.latest())

    def parts(self) -> Iterator[Snapshot]:
        """As `Checkpoint`."""
        found = self.own.parts()
        while (part := _told(next(found, None))) is not None:
            yield part

    def offer(self, take: Callable[[], Snapshot], now: bool = False) -> None:
        """As `Checkpoint`."""
        self.own.offer(take, now)
