"""When images go: the whole graph is walked through with files, and nothing is learnt.

Each node's images have to be there when it runs, wherever the run was stopped before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.runner import SequentialRunner
from tests.reference.tiny import Stopped, images_of

from gppdm_pipeline.catalog.datasets import JsonDataset, OnDisk
from gppdm_pipeline.catalog.retention import ReleasableImages, Retention
from gppdm_pipeline.configuration.experiment import resolve
from gppdm_pipeline.configuration.layers import ConfigurationError, Layer
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.pipelines.continual import create_pipeline
from gppdm_pipeline.run.command import RefusedError
from gppdm_pipeline.run.releasing import (
    Releasing,
    check_means,
    check_retention,
    release_prepared,
    released_if_refused,
)

ROOT = Path(__file__).parents[2]
RELEASE = {"retention": "release"}
PARTS = ("train", "validation", "test", "replay")
BESIDE = (
    *("report.drift", "report.replay", "report.nearest_pairs", "report.page"),
    *("audit.page", "inspection.images"),
)
IMAGES = images_of(0, per_class=1)


def experiment(**params):
    conf = ROOT / "conf/base"
    preset = yaml.safe_load((conf / "benchmarks/digits.yml").read_text())["digits"]
    asked = {"benchmark": "digits", "method": "gppdm", **params}
    return resolve({"digits": Layer(preset, str)}, [Layer(asked, str)])


def stop_at_release(patch, moment, number):
    """Stop at the so-manieth release: before it is signed off, or before the file goes."""
    seen = []

    def count():
        seen.append(None)
        if len(seen) == number:
            raise Stopped

    if moment == "sign_off":
        sign_off = Retention.sign_off
        patch.setattr(Retention, "sign_off", lambda *given: (count(), sign_off(*given)))
        return
    unlink = Path.unlink

    def unlinking(path, missing_ok=False):
        if path.name in ("train.npz", "validation.npz", "replay.npz"):
            count()
        unlink(path, missing_ok)

    patch.setattr(Path, "unlink", unlinking)


class Walk:
    """A run of two tasks in `folder`."""

    def __init__(self, folder, method="joint", **params):
        stream = {"classes_per_task": [5, 5]}
        self.experiment = experiment(method=method, stream=stream, **{**RELEASE, **params})
        of_all = {"releases": True, "shows_real": self.experiment.shows_real_images}
        self.pipeline = create_pipeline(self.experiment.learner, 2, **of_all)
        names = {*self.pipeline.datasets(), *BESIDE}
        self.catalog = DataCatalog({name: self._dataset(folder / "data", name) for name in names})
        self.retention = Retention(folder / "data/retention.json")

    def _dataset(self, folder, name):
        kind = name.rpartition(".")[2]
        if kind in PARTS and name.startswith("task_"):
            retention = {"filepath": str(folder / "retention.json")}
            path = str(folder / name.replace(".", "/")) + ".npz"
            return ReleasableImages(filepath=path, retention=retention)
        in_memory = ("params:", "scratch", "oracles", "task_00", "assessment.oracle", "comparison.")
        if name.startswith(in_memory):
            return MemoryDataset()
        return JsonDataset(filepath=str(folder / f"{name}.json"))

    def run(self, only_missing=False, stop=None):
        releasing = Releasing(self.experiment, self.pipeline, self.catalog)
        releasing.begin(self.pipeline, only_missing)
        nodes = self.pipeline.nodes
        if only_missing:
            runner = SequentialRunner()
            nodes = runner._filter_pipeline_for_missing_outputs(self.pipeline, self.catalog).nodes
        for number, node in enumerate(nodes):
            if number == stop:
                raise Stopped
            for name in node.inputs:
                dataset = self.catalog[name]
                if isinstance(dataset, OnDisk):
                    assert dataset.path.exists(), f"{node.name} lacks {name}"
            for name in node.outputs:
                if isinstance(dataset := self.catalog[name], OnDisk):
                    dataset.save(IMAGES if isinstance(dataset, ReleasableImages) else {})
                releasing.saved(name)
            releasing.release()
        releasing.end()
        return [node.name for node in nodes]

    def left(self):
        found = (name for name in self.pipeline.datasets() if name.rpartition(".")[2] in PARTS)
        of_disk = ((name, self.catalog[name]) for name in found)
        return {
            name
            for name, dataset in of_disk
            if isinstance(dataset, ReleasableImages) and dataset.path.exists()
        }


TESTS = {"task_01.test", "task_02.test"}


def test_images_go_when_their_task_is_done(tmp_path):
    walk = Walk(tmp_path, "gppdm")
    walk.run()
    assert walk.left() == TESTS | {"task_01.replay", "task_02.replay"}  # drawn, not real
    assert len(walk.retention.entries) == 4
    assert walk.run(only_missing=True) == []


def test_what_an_earlier_run_has_left_is_no_reason_to_let_go(tmp_path):
    walk = Walk(tmp_path)
    walk.run()
    assert walk.left() == TESTS
    walk.run()  # anew: every node finds its images
    assert walk.left() == TESTS
    entries = walk.retention.entries
    assert len(entries) == 2 * 6
    assert [bool(each["read_again"]) for each in entries] == [True] * 6 + [False] * 6


def test_test_images_go_after_the_report(tmp_path):
    walk = Walk(tmp_path, "gppdm", retention="keep", retention_of_test="release")
    walk.run()
    kept = {f"task_0{t}.{part}" for t in (1, 2) for part in ("train", "validation", "replay")}
    assert walk.left() == kept


def test_with_keep_nothing_goes(tmp_path):
    walk = Walk(tmp_path, retention="keep")
    for name in BESIDE:
        walk.catalog[name].save({})
    walk.run()
    assert len(walk.left()) == 8
    assert not walk.retention.path.exists()
    assert all(walk.catalog[name].path.exists() for name in BESIDE)


def test_pictures_and_pages_with_real_images_go_before_they_are_made_again(tmp_path):
    Walk(tmp_path, "gppdm", retention="keep").run()
    walk = Walk(tmp_path, "gppdm")
    for name in BESIDE:
        walk.catalog[name].save({})
    of_shorter = [f"before_task_02/{name}.json" for name in ("report.page", "report.drift")]
    others = [tmp_path / "data" / name for name in (*of_shorter, ".report.drift.json.new")]
    others[0].parent.mkdir()
    for file in others:
        file.write_text("{}")
    done = walk.run(only_missing=True)
    assert not any(file.exists() for file in others)
    assert {"report.draw_drift", "report.draw_replay", "report.write_page"} <= set(done)
    assert not {name for name in done if ".train_" in name and "oracle" not in name}
    gone = set(BESIDE) - {"report.page"}
    assert not any(walk.catalog[name].path.exists() for name in gone)
    assert walk.left() == TESTS | {"task_01.replay", "task_02.replay"}


@pytest.mark.parametrize("method", ["joint", "vae_replay"])
def test_wherever_it_is_stopped_nothing_is_lost_that_it_needs(method, tmp_path):
    count = len(Walk(tmp_path / "whole", method).pipeline.nodes)
    whole = Walk(tmp_path / "whole", method)
    whole.run()
    for stop in range(1, count, 1 if method == "joint" else 4):
        walk = Walk(tmp_path / str(stop), method)
        with pytest.raises(Stopped):
            walk.run(stop=stop)
        walk.run(only_missing=True)
        assert walk.left() == whole.left(), stop


@pytest.mark.parametrize("moment", ["sign_off", "unlink"])
def test_a_release_that_was_stopped_is_made_up_for(moment, tmp_path, monkeypatch):
    for number in range(1, 7):
        walk = Walk(tmp_path / str(number))
        with monkeypatch.context() as patch:
            stop_at_release(patch, moment, number)
            with pytest.raises(Stopped):
                walk.run()
        walk.run(only_missing=True)
        assert walk.left() == TESTS
        assert {Path(each["what"]).name for each in walk.retention.entries} == {
            "train.npz",
            "validation.npz",
            "replay.npz",
        }


@pytest.mark.parametrize(
    ("params", "environment", "told"),
    [
        ({"method": "exemplar"}, {}, "keeps real images in its states"),
        (
            {
                "method": "gppdm",
                "gppdm": {
                    "order": "classifier_first",
                    "redraw": 0,
                    "prototypes": {"start": "most_confident"},
                },
            },
            {},
            "gppdm.prototypes.start is most_confident",
        ),
        ({"method": "gppdm"}, {"DVC_STAGE": "learn@task_01"}, "DVC keeps"),
    ],
)
def test_what_cannot_be_kept_is_not_promised(params, environment, told):
    check_retention(experiment(**params), environment)
    with pytest.raises(RefusedError, match=f"(?s)^retention is release, but .*{told}"):
        check_retention(experiment(**params, **RELEASE), environment)


def test_other_methods_may_release_and_it_changes_no_setting():
    for method, kind in METHODS.items():
        if not kind.keeps_images:
            check_retention(experiment(method=method, **RELEASE), {})
    keep, release = experiment(method="joint"), experiment(method="joint", **RELEASE)
    assert keep.identity() == release.identity()
    with pytest.raises(ConfigurationError, match=r"retention.*keep"):
        experiment(method="joint", retention="forget")


def test_with_keep_the_graph_is_as_it_was():
    for name, kind in METHODS.items():
        keep = {node.name: node for node in create_pipeline(kind(), 2).nodes}
        gone = create_pipeline(kind(), 2, releases=True, shows_real=False).nodes
        changed = {node.name for node in gone if node.name not in keep or node != keep[node.name]}
        drawn = {"report.draw_drift", "report.draw_replay", "report.write_page"}
        measured = {"task_01.measure_privacy", "task_02.measure_privacy", "report.summarise"}
        assert changed == measured | (drawn if kind().has_generator else set()), name
        assert not any("privacy" in output for node in keep.values() for output in node.outputs)


def test_an_entry_stands_until_the_images_are_read_again(tmp_path):
    folder = tmp_path / "data/03_primary/a"
    folder.mkdir(parents=True)
    images = images_of(0, 1)
    file = tmp_path / "data/08_reporting/retention.json"
    dataset = ReleasableImages(
        filepath=str(folder / "train.npz"), retention={"filepath": str(file)}
    )
    assert not dataset.exists()
    dataset.save(images)
    content = dataset.path.read_bytes()
    dataset.dispose()
    assert not dataset.path.exists()
    assert dataset.released
    assert dataset.exists()
    with pytest.raises(DatasetError, match=r"was released .* needs its images"):
        dataset.load()
    (entry,) = dataset.retention.entries
    assert entry["what"] == "data/03_primary/a/train.npz"
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert (entry["bytes"], entry["by_label"]) == (len(content), {"0": 6, "1": 6})
    dataset.retention.read_again([dataset.path])
    assert not dataset.exists()
    assert dataset.retention.entries[0]["read_again"]
    dataset.save(images)
    dataset.dispose()
    assert len(dataset.retention.entries) == 2
    assert dataset.released


def test_kedro_lets_go_of_a_data_set_without_removing_it(tmp_path):
    """Kedro calls `release` of each data set that a run needs no more."""
    given = {"filepath": str(tmp_path / "retention.json")}
    dataset = ReleasableImages(filepath=str(tmp_path / "train.npz"), retention=given)
    dataset.save(images_of(0))
    dataset.release()
    assert dataset.path.exists()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A stream of images in a file, of which class b has one for training, and an empty cache."""
    monkeypatch.setenv("GPPDM_CACHE", str(tmp_path / "cache"))
    arrays = {}
    for split, counts in (("train", (4, 1)), ("test", (2, 2))):
        labels = np.repeat([0, 1], counts)
        shape = (len(labels), 8, 8)
        arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(tmp_path / "images.npz", **arrays)
    source = {"reader": "npz", "file": str(tmp_path / "images.npz"), "class_names": ["a", "b"]}
    return {"source": source, "classes_per_task": 1}


def prepared(folder):
    return sorted(each.name.rpartition("-")[0] for each in (folder / "cache").glob("npz-*"))


def test_what_is_prepared_of_the_source_with_other_settings_goes_too(files, tmp_path):
    fewer = {**files, "source": {**files["source"], "train_per_class": 2}}
    for stream in (files, fewer):
        for split in ("train", "test"):
            experiment(stream=stream).stream.read(split)
    assert prepared(tmp_path) == ["npz-test", "npz-train", "npz-train"]
    for lock in (tmp_path / "cache").glob(".*.lock"):
        lock.unlink()
    release_prepared(experiment(stream=files))
    assert len(prepared(tmp_path)) == 3
    assert not [*(tmp_path / "cache").glob(".*.lock")]  # none is taken where nothing goes
    retention = Retention(tmp_path / "data/retention.json")
    release_prepared(experiment(stream=files, **RELEASE), retention)
    assert prepared(tmp_path) == ["npz-test"]
    assert len(retention.entries) == 2


def test_a_run_that_is_refused_leaves_nothing_prepared_and_no_record(files, tmp_path):
    retention = Retention(tmp_path / "retention.json")
    releasing = experiment(stream=files, **RELEASE)
    with pytest.raises(RefusedError), released_if_refused(releasing, retention):
        releasing.stream.read("train")
        assert prepared(tmp_path) == ["npz-train"]
        raise RefusedError
    assert prepared(tmp_path) == []
    assert not retention.path.exists()


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"method": "gppdm"}, True),
        ({"method": "nearest_mean"}, True),
        ({"method": "diffusion_replay", "diffusion_replay": {"replay": {"gaussians": 0.5}}}, True),
        ({"method": "gppdm", "gppdm": {"prototypes": {"start": "noise"}}}, False),
        ({"method": "vae_replay"}, False),
        ({"method": "gppdm", "retention": "keep"}, False),
    ],
)
def test_the_mean_of_one_image_is_not_kept(params, kept, files):
    asked = experiment(**{"stream": files, **RELEASE, **params})
    pipeline = create_pipeline(asked.learner, 2)
    if not kept:
        check_means(asked, pipeline)
        return
    with pytest.raises(RefusedError, match=r"learns class 'b' from one image.*retention to keep"):
        check_means(asked, pipeline)


@pytest.mark.parametrize(
    ("params", "numbers"),
    [
        ({"method": "analytic", "analytic": {"filters": 2}}, 64),
        ({"method": "ranpac", "ranpac": {"features": 7}}, 7),
        ({"method": "cpdm", "cpdm": {"analytic": {"filters": 1}}}, 32),
    ],
)
def test_sums_over_few_images_are_not_kept(params, numbers, files):
    asked = experiment(**{"stream": {**files, "classes_per_task": 2}, **RELEASE, **params})
    pipeline = create_pipeline(asked.learner, 1)
    told = f"task 1 has 5 images, and sums of {numbers} numbers.*fewer than {5 * numbers}"
    with pytest.raises(RefusedError, match=told):
        check_means(asked, pipeline)
    check_means(asked.model_copy(update={"retention": "keep"}), pipeline)


def test_sums_over_enough_images_are_kept(files):
    ranpac = {"method": "ranpac", "ranpac": {"features": 1}}
    asked = experiment(**{"stream": {**files, "classes_per_task": 2}, **RELEASE, **ranpac})
    check_means(asked, create_pipeline(asked.learner, 1))
