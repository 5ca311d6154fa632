"""A command that has begun: how it is found again, and what keeps a second one away."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from gppdm_pipeline.algorithm.disk.checkpoint_files import digest
from gppdm_pipeline.algorithm.disk.writing import replace_file
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.locks import file_lock, lacks_locks
from gppdm_pipeline.provenance import code_digest

logger = logging.getLogger(__name__)

FILTERS = (
    "tags",
    "node_names",
    "from_nodes",
    "to_nodes",
    "from_inputs",
    "to_outputs",
    "namespaces",
)
_GROWS = "new from task "


class RefusedError(RuntimeError):
    """The run must not start; the message is the whole story."""


@dataclass(frozen=True)
class Command:
    """A run of the same nodes with the same settings, by which a stopped one is found again.

    Attributes:
        scratch: of the run.
        experiment: its settings.
        filters: which nodes it is of.
    """

    scratch: Path
    experiment: Experiment
    filters: Mapping[str, Any]

    def goes_on(self) -> bool:
        """Whether the same command has begun before, with the same code, and has not ended."""
        if not self._mark.exists() or self.first_new_task():
            return False
        if self._mark.read_text() == code_digest():
            return True
        logger.warning(
            "An earlier run of these settings was stopped, but the code has changed since: it is "
            "made anew. (--only-missing-outputs goes on from what is there all the same.)"
        )
        return False

    def first_new_task(self) -> int | None:
        """Where a run began that has added tasks to others, and has not ended.

        It goes on with other code, too, since the tasks before it are not to be made anew.
        """
        mark = self._mark.read_text() if self._mark.exists() else ""
        return int(mark.removeprefix(_GROWS)) if mark.startswith(_GROWS) else None

    def begin(self, first_new_task: int | None = None) -> None:
        """Mark it as begun; what was stopped of other settings cannot go on any more."""
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        for mark in self._mark.parent.iterdir():
            if not mark.name.startswith(self._settings):
                mark.unlink()
        text = f"{_GROWS}{first_new_task}" if first_new_task else code_digest()
        replace_file(self._mark, text.encode())

    @property
    def is_left(self) -> bool:
        """Whether it has begun and not ended, with whatever code."""
        return self._mark.exists()

    def end(self) -> None:
        """Mark it as ended."""
        self._mark.unlink(missing_ok=True)

    @property
    def _settings(self) -> str:
        return digest(json.dumps(self.experiment.identity(), sort_keys=True))[:12]

    @property
    def _mark(self) -> Path:
        chosen = [(name, sorted(self.filters.get(name) or ())) for name in FILTERS]
        return self.scratch / "unfinished" / f"{self._settings}-{digest(chosen)[:12]}"


@dataclass
class Lock:
    """Keeps a second run from the same outputs; the system releases it when the process ends."""

    _lock: BaseFileLock | None = field(default=None, init=False)

    @contextmanager
    def acquired(self, path: Path, run: str) -> Iterator[None]:
        """Take the lock at `path`, giving back the one held; keep it unless what is inside fails.

        Raises:
            RefusedError: if another process has it.
        """
        self.release()
        path.parent.mkdir(parents=True, exist_ok=True)
        holder, lock = _holder(path), file_lock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            process = holder.read_text().strip() if holder.exists() else "unknown"
            raise RefusedError(
                f"Process {process} is making {run} (it holds {path}). Wait until it has ended, "
                "or keep both: --params=variant=<name of this run>."
            ) from error
        except OSError as error:
            if not lacks_locks(error, path):
                raise
        self._lock = lock
        try:
            replace_file(holder, f"{os.getpid()}\n".encode())
            yield
        except BaseException:
            self.release()
            raise

    @property
    def held(self) -> bool:
        """Whether this process has the lock."""
        return self._lock is not None

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._lock is not None:
            _holder(Path(self._lock.lock_file)).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


def _holder(lock: Path) -> Path:
    """Says which process holds the lock; a file of its own, since Windows lets nobody read that."""
    return lock.with_name(f"{lock.name}_holder")
