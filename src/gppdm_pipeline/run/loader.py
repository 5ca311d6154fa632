"""The project's configuration: Kedro's files and --params, resolved to an experiment."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import yaml
from fsspec.implementations.local import LocalFileSystem
from kedro.config import MissingConfigException, OmegaConfigLoader

from gppdm_pipeline import pipeline_registry
from gppdm_pipeline.catalog.datasets import encoded
from gppdm_pipeline.configuration.experiment import Experiment, resolve
from gppdm_pipeline.configuration.layers import ConfigurationError, Layer, has
from gppdm_pipeline.configuration.space_choice import space_of
from gppdm_pipeline.configuration.uses import USES
from gppdm_pipeline.environment import ignore_known_warnings
from gppdm_pipeline.pipelines.continual.pipeline import task_name
from gppdm_pipeline.spaces.space import COPY
from gppdm_pipeline.streams.sources import SourceError

_KINDS = ("benchmarks", "spaces", "parameters")
_parsed: dict[Any, dict[str, dict[str, Any]]] = {}
"""What the files last read come to: parsing them takes a fifth of a tiny run."""


class _Literally(LocalFileSystem):  # type: ignore[misc]
    """Local files, where brackets in the path of the configuration itself are no pattern."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = Path(root).as_posix()

    def glob(self, path: str, **_: Any) -> list[str]:
        pattern = glob.escape(self._root) + path.removeprefix(self._root)
        return sorted(map(os.path.abspath, glob.glob(pattern, recursive=True)))


class ExperimentLoader(OmegaConfigLoader):
    """Kedro's loader, whose parameters are those of a validated experiment.

    It makes its experiment the one that the pipelines are built for. A hook could do the same, but
    kedro-viz runs no hooks.

    Attributes:
        experiment: what files and command line say.
        first_new_task: where the run begins, if it adds tasks to others that are there.
    """

    experiment: Experiment
    first_new_task: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Kedro's.

        Raises:
            ClickException: if there is no configuration, or it is not valid. Click prints an
                exception of its own without a traceback: the message says it all.
        """
        ignore_known_warnings()
        super().__init__(*args, **kwargs)
        self.use(self._resolved(self.runtime_params or {}))

    @staticmethod
    def _initialise_filesystem_and_protocol(conf_source: str) -> tuple[Any, str]:
        files, protocol = OmegaConfigLoader._initialise_filesystem_and_protocol(conf_source)
        return (_Literally(conf_source) if protocol == "file" else files), protocol

    def experiment_with(
        self, params: Mapping[str, Any], record_of: Callable[[Experiment], Mapping[str, Any]]
    ) -> Experiment:
        """What `--params` would make of the files, of which this loader was made without any.

        Args:
            params: as on the command line.
            record_of: what the run of an experiment has left, as of `begun`.

        Raises:
            ClickException: as of a new loader.
        """
        assert not self.runtime_params
        experiment = self._resolved(params)
        return self._begun(experiment, params, record_of(experiment))

    def begun(self, record: Mapping[str, Any]) -> Experiment:
        """The experiment, in the space that its run has begun in, if that was left to be chosen.

        Args:
            record: what the run that goes on has left; may be empty.

        Raises:
            ClickException: as of a new loader, or if there is no such encoder here.
        """
        return self._begun(self.experiment, self.runtime_params or {}, record)

    def _begun(
        self, experiment: Experiment, params: Mapping[str, Any], record: Mapping[str, Any]
    ) -> Experiment:
        space = space_of(record)
        if experiment.space_choice is None or space in (None, experiment.space.name):
            return experiment
        return self._resolved(params, space)

    def use(self, experiment: Experiment) -> None:
        """Make it the one that parameters, catalog and pipelines are of."""
        folder = f"data/06_models/{experiment.run}/{COPY}"
        space = experiment.space.at(Path(folder)) if experiment.space.trains else experiment.space
        self.experiment = experiment.model_copy(update={"space": space})
        self["parameters"] = _parameters(self.experiment)
        names = {
            "run": self.experiment.run,
            "autoencoder": folder,
            "benchmark": self.experiment.benchmark,
            "checkpoint_seconds": self.experiment.checkpoint_seconds,
            "configuration": encoded(self.experiment.record()),
        }
        self["globals"] = {**self["globals"], **names}
        pipeline_registry.use(self.experiment)

    def _resolved(self, params: Mapping[str, Any], begun: str | None = None) -> Experiment:
        try:
            presets, spaces, written = self._read
            layers = [written, Layer(params, lambda _: "--params")]
            return resolve(presets, layers, spaces, begun)
        except (ConfigurationError, SourceError) as error:  # names of classes come from files
            raise click.ClickException(str(error)) from error

    @cached_property
    def _read(self) -> tuple[dict[str, Layer], dict[str, Layer], Layer]:
        """Presets of benchmarks and of spaces by name, and parameters."""
        written = self._written()
        parameters = written["parameters"]
        variant = parameters.get("variant")
        if isinstance(variant, float | int) and "variant" not in (self.runtime_params or {}):
            raise ConfigurationError(
                f"variant = {variant} ({self._file_of('parameters')(('variant',))}): YAML reads a "
                "number, and 010 as 8: write the name in quotes, as '010'."
            )
        presets, spaces = (
            {
                name: Layer(preset or {}, self._file_of(kind, (name,)))
                for name, preset in written[kind].items()
            }
            for kind in ("benchmarks", "spaces")
        )
        return presets, spaces, Layer(parameters, self._file_of("parameters"))

    def _written(self) -> dict[str, dict[str, Any]]:
        """Presets and parameters as the files have them; the same files are parsed once."""
        files = {name: file.read_bytes() for kind in _KINDS for name, file in self._files(kind)}
        if not files or any(b"${" in text for text in files.values()):
            return self._parse()  # of an archive, or what --params may have a part in
        key = (self.env, tuple(files.items()))
        if key not in _parsed:
            given, self.runtime_params = self.runtime_params, {}  # Kedro merges them into both
            try:
                found = self._parse()
            finally:
                self.runtime_params = given
            _parsed.clear()
            _parsed[key] = found
        return deepcopy(_parsed[key])

    def _parse(self) -> dict[str, dict[str, Any]]:
        try:
            spaces = self["spaces"]
        except MissingConfigException:  # a configuration that is older
            spaces = {}
        try:
            return {kind: spaces if kind == "spaces" else self[kind] for kind in _KINDS}
        except MissingConfigException as error:
            for folder in (Path(self.conf_source), Path(self.conf_source) / self.base_env):
                if folder.is_dir():
                    os.listdir(folder)  # refused, it says why there is none
            raise ConfigurationError(
                f"There is no configuration in {self.conf_source}: run the command in the "
                "project's folder, or name the project's conf folder with --conf-source."
            ) from error

    def _files(self, kind: str) -> Iterator[tuple[str, Path]]:
        """Those that hold settings of this kind, with their names; the environment's first."""
        source = Path(self.conf_source)
        for environment in (self.env or self.default_run_env, self.base_env):
            for pattern in self.config_patterns[kind]:
                for file in filter(Path.is_file, (source / environment).glob(pattern)):
                    yield f"{source.name}/{file.relative_to(source)}", file

    def _file_of(self, kind: str, prefix: tuple[str, ...] = ()) -> Callable[[tuple[str, ...]], str]:
        """Which file holds a setting; read again for a message only."""

        def locate(path: tuple[str, ...]) -> str:
            for name, file in self._files(kind):
                if has(yaml.safe_load(file.read_text()), prefix + path):
                    return name
            return str(self.conf_source)

        return locate


def _parameters(experiment: Experiment) -> dict[str, Any]:
    """What nodes can ask for, as plain values; Kedro validates them again by type hints."""
    total = experiment.number_of_tasks
    shared = {"total": total, "precision": experiment.precision}
    tasks = {task_name(n): {"task": {"number": n, **shared}} for n in range(1, total + 1)}
    return {
        "seed": experiment.seed,
        "device": experiment.device,
        "stream": experiment.stream.model_dump(mode="json"),
        "learner": experiment.learner.model_dump(mode="json"),
        "evaluation": experiment.evaluation.model_dump(mode="json"),
        "space": experiment.space.model_dump(mode="json"),
        "configuration": experiment.settings(),
        "budget": experiment.fit.model_dump(mode="json") if experiment.fit else {},
        "space_choice": experiment.space_choice or "",
        **{name: getattr(experiment, name).model_dump(mode="json") for name in USES},
        **tasks,
    }
