"""Runs behind a URL: what is here of a run and what is there are kept in step.

A run works on files of this machine: locks, mapped images, renames that are whole or not there, and
the removal of real images need a file system. Behind the URL is a copy, which goes on elsewhere.

<url>/<layer>/<run>/...      as below data/
<url>/.copies/<run>.json     which files that are, and their SHA-256: written last

What was here and there when both were the same is kept beside the run's checkpoints. By that it is
known which of the two has changed since; if both have, neither is lost: the run is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import Literal

from filelock import Timeout
from kedro.config import MissingConfigException

from gppdm_pipeline.algorithm.disk.states import MANIFEST
from gppdm_pipeline.algorithm.disk.writing import replace_file
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.configuration.layers import Layer, Problems
from gppdm_pipeline.locks import file_lock
from gppdm_pipeline.run.away import Away, Files, StorageError, UnreachableError
from gppdm_pipeline.run.budget import FILE as BUDGET
from gppdm_pipeline.run.loader import ExperimentLoader

logger = logging.getLogger(__name__)

DATA = Path("data")
_SCRATCH, _MODELS = ".checkpoints", "06_models"
_LAYERS = (_SCRATCH, "03_primary", "05_model_input", _MODELS, "07_model_output", "08_reporting")
_IN_STEP = "in_step.json"
_OF_THIS_MACHINE = {"lock", "lock_holder", _IN_STEP}


class StorageConfig(Config):
    """conf/<environment>/storage.yml."""

    url: str | None = None
    leave_out: tuple[Literal["03_primary", "05_model_input", "07_model_output"], ...] = ()


class Storage:
    """The copy of one run behind a URL; without a URL, nothing happens."""

    def __init__(self, config: StorageConfig, run: str) -> None:
        """Connect to nothing yet.

        Args:
            config: as in storage.yml.
            run: its folder's name in each layer.

        Raises:
            ConfigurationError: if nothing reads such a URL.
        """
        self._run, self._left_out = run, config.leave_out
        self._shared = f"{_MODELS}/{PurePosixPath(run).parent}/{BUDGET}"  # the one here stays
        self._away = Away(config.url) if config.url else None
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}

    @classmethod
    def of(cls, loader: ExperimentLoader) -> Storage:
        """That of the loader's experiment.

        Raises:
            ConfigurationError: naming the file and the key that is not valid.
        """
        try:
            written = loader["storage"]
        except MissingConfigException:  # a configuration that is older
            written = {}
        problems = Problems([Layer(written, lambda _: "storage.yml")])
        config = problems.validate(StorageConfig, written)
        problems.check()
        assert config is not None
        return cls(config, loader.experiment.run)

    def fetch(self) -> None:
        """Take what has changed there since both were in step; what is gone there goes here, too.

        Nothing happens while another process makes this run here.

        Raises:
            StorageError: if something has changed here, too, naming it.
        """
        if self._away is None:
            return
        self._scratch.mkdir(parents=True, exist_ok=True)
        lock = file_lock(self._scratch / "lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            return
        try:
            self._fetch(self._away)
        finally:
            lock.release()

    def _fetch(self, away: Away) -> None:
        there, last, here = self._listed(away), self._in_step(away), self._here()
        last = last if there else {}  # what is not there at all was not removed by a run
        moved = there != last
        if moved:
            self._check_unchanged(here, there, last, away)
            for file in last.keys() - there.keys():
                (DATA / file).unlink(missing_ok=True)
        missing = [
            file
            for file in there
            if file not in here or (moved and here[file] != there[file] and file != self._shared)
        ]
        broken = [file for file in missing if not away.get(file, there[file], DATA / file)]
        for file in broken:
            _drop(file, there)
        if missing:
            logger.info("%s: %d files from %s", self._run, len(missing), away.url)
        self._remember(there, away)

    def _check_unchanged(self, here: Files, there: Files, last: Files, away: Away) -> None:
        known = {f for f in here if (f in there or f in last) and f != self._shared}
        both = sorted(f for f in known if here[f] not in (there.get(f), last.get(f)))
        if both:
            raise StorageError(
                f"{self._run} was changed here and, from another machine, in {away.url}: "
                f"{', '.join(both[:3])}{' ...' if both[3:] else ''}. To take what is there, remove "
                f"what is here ({DATA}/*/{self._run}, {self._scratch}); or keep both: "
                "--params=variant=<name of this run>."
            )

    def send(self) -> None:
        """Make what is there what is here; what is gone here goes there, too.

        Raises:
            UnreachableError: if that cannot be done now.
            StorageError: if another machine has written there since `fetch`.
        """
        if self._away is None:
            return
        away, here, last = self._away, self._here(), self._in_step(self._away)
        if here == last:
            return
        if self._listed(away) != last:
            raise StorageError(
                f"{self._run}: another machine writes this run in {away.url}. Let one of them end; "
                "the same command then takes what that one has made, and goes on."
            )
        for file in here:
            if last.get(file) != here[file]:
                away.put(DATA / file, file)
        for file in last.keys() - here.keys():
            away.remove(file)
        new = self._scratch / ".list.new"
        replace_file(new, json.dumps(here, indent=1).encode())
        away.replace(new, self._list)
        new.unlink()
        self._remember(here, away)

    def try_to_send(self) -> None:
        """As `send`; what cannot be sent now is told, and sent with what comes next."""
        try:
            self.send()
        except UnreachableError as error:
            logger.warning("%s The run goes on, and sends it later.", error)

    @property
    def _scratch(self) -> Path:
        return DATA / _SCRATCH / self._run

    def _here(self) -> Files:
        """What is sent of the run."""
        layers = [layer for layer in _LAYERS if layer not in self._left_out]
        folders = [DATA / layer / self._run for layer in layers]
        found = [
            file
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
            and not (file.name in _OF_THIS_MACHINE and file.parent == self._scratch)
        ]
        found += [DATA / self._shared] if (DATA / self._shared).exists() else []
        return {file.relative_to(DATA).as_posix(): self._hash(file) for file in sorted(found)}

    def _hash(self, file: Path) -> str:
        """Of its content, which is read again only if it looks changed."""
        stat = file.stat()
        looks = stat.st_size, stat.st_mtime_ns
        known = self._hashes.get(file)
        if known is None or known[0] != looks:
            with file.open("rb") as content:
                known = looks, hashlib.file_digest(content, "sha256").hexdigest()
            self._hashes[file] = known
        return known[1]

    @property
    def _list(self) -> str:
        return f".copies/{self._run}.json"

    def _listed(self, away: Away) -> Files:
        """What is there of the run; nothing, if it has never been sent."""
        there = away.read(self._list)
        files: Files = {} if there is None else json.loads(there)
        inside = tuple(f"{layer}/{self._run}/" for layer in _LAYERS)
        for file in files:
            if ".." in PurePosixPath(file).parts or not (
                file.startswith(inside) or file == self._shared
            ):
                raise StorageError(
                    f"{away.url}/{self._list} names {file}, which is not of the run."
                )
        return files

    def _in_step(self, away: Away) -> Files:
        """What was here and there when both were the same, as far as is known."""
        file = self._scratch / _IN_STEP
        try:
            record = json.loads(file.read_text())
            return dict(record["files"]) if record["url"] == away.url else {}
        except (FileNotFoundError, ValueError, KeyError):
            return {}

    def _remember(self, files: Files, away: Away) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        record = json.dumps({"url": away.url, "files": files})
        replace_file(self._scratch / _IN_STEP, record.encode())


def _drop(file: str, there: Files) -> None:
    """Let a file that did not come whole be made anew, with all of the state that it is of."""
    (DATA / file).unlink(missing_ok=True)
    for folder in PurePosixPath(file).parents:
        if f"{folder}/{MANIFEST}" in there:
            shutil.rmtree(DATA / folder, ignore_errors=True)
