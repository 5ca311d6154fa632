"""Runs behind a URL: another machine goes on with them, and neither loses what it has made."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import yaml
from tests.pipelines.test_stop_and_go_on import result, stop_at_offer
from tests.reference.runs import contents, run
from tests.reference.tiny import Stopped

from gppdm_pipeline.catalog.datasets import JsonDataset
from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.locks import locked
from gppdm_pipeline.run.away import Away, StorageError, UnreachableError
from gppdm_pipeline.run.loader import ExperimentLoader
from gppdm_pipeline.run.storage import Storage, StorageConfig

RUN = "digits/gppdm/seed_0"
IMAGES, REPORT = f"03_primary/{RUN}/task_01/train.npz", f"08_reporting/{RUN}/metrics.json"
STATE, WEIGHTS = (f"06_models/{RUN}/task_01/state/{name}" for name in ("state.json", "weights"))
MARK, LOCK = f".checkpoints/{RUN}/unfinished/mark", f".checkpoints/{RUN}/lock"
FILES = {IMAGES: "images", REPORT: "report", STATE: "state", WEIGHTS: "weights", MARK: "begun"}
LIST = f".copies/{RUN}.json"


@pytest.fixture
def away(tmp_path):
    """Where the copies are."""
    return tmp_path / "away"


@pytest.fixture
def at(tmp_path, away, monkeypatch):
    """Go to a machine; the storage as a process there sees it."""

    def going(machine, **changes):
        (tmp_path / machine).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / machine)
        return Storage(StorageConfig(**{"url": away.as_uri(), **changes}), RUN)

    return going


def make(files=FILES):
    """What a run has made on the machine that we are at."""
    for name, text in files.items():
        file = Path("data") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def there_is():
    """On the machine that we are at, but for what is of it alone."""
    files = contents(Path("data"))
    own = {LOCK, f".checkpoints/{RUN}/in_step.json"}
    return {name: text.decode() for name, text in files.items() if name not in own}


def test_another_machine_gets_what_one_has_made(at, away):
    first = at("first")
    make({**FILES, LOCK: "", f"06_models/{RUN}/task_01/.state.7/half": "unfinished"})
    first.send()
    names = {name for name in contents(away) if not name.startswith(".copies/")}
    assert names == {*FILES}
    at("second").fetch()
    assert there_is() == FILES


def test_changes_and_removals_go_both_ways(at):
    first = at("first")
    make()
    first.send()
    second = at("second")
    second.fetch()
    changed = {REPORT: "another report", f"06_models/{RUN}/task_02/state/state.json": "state"}
    make(changed)
    (Path("data") / IMAGES).unlink()
    second.send()
    at("first").fetch()
    expected = {**FILES, **changed}
    del expected[IMAGES]
    assert there_is() == expected
    make({REPORT: "a third"})
    at("first").send()
    at("second").fetch()
    assert there_is() == {**expected, REPORT: "a third"}


def test_what_was_changed_on_both_is_refused_and_stays(at):
    at("first")
    make()
    at("first").send()
    at("second").fetch()
    make({REPORT: "of the second"})
    at("second").send()
    first = at("first")
    make({REPORT: "of the first", f"08_reporting/{RUN}/audit.json": "new"})
    with pytest.raises(StorageError, match=f"changed here and, from another machine.*{REPORT}"):
        first.fetch()
    assert there_is()[REPORT] == "of the first"
    shutil.rmtree("data")
    at("first").fetch()
    assert there_is()[REPORT] == "of the second"


def test_what_is_new_here_is_no_hindrance(at):
    at("first")
    make()
    at("first").send()
    at("second").fetch()
    make({REPORT: "of the second"})
    at("second").send()
    first, audit = at("first"), f"08_reporting/{RUN}/audit.json"
    make({audit: "new"})
    first.fetch()
    first.send()
    at("second").fetch()
    assert there_is() == {**FILES, REPORT: "of the second", audit: "new"}


def test_two_machines_do_not_write_at_once(at):
    at("first")
    make()
    at("first").send()
    second = at("second")
    second.fetch()
    at("first")
    make({REPORT: "of the first"})
    at("first").send()
    at("second")
    make({REPORT: "of the second"})
    with pytest.raises(StorageError, match="another machine writes this run"):
        second.try_to_send()
    at("third").fetch()
    assert there_is()[REPORT] == "of the first"


def test_what_is_lost_here_comes_again_and_what_is_lost_there_too(at, away):
    first = at("first")
    make()
    first.send()
    (Path("data") / WEIGHTS).unlink()
    first.fetch()
    assert there_is() == FILES
    shutil.rmtree(away)
    first = at("first")
    first.fetch()
    assert there_is() == FILES
    first.send()
    at("second").fetch()
    assert there_is() == FILES


@pytest.mark.parametrize("kill", range(4))
def test_a_machine_that_is_lost_while_it_sends_leaves_whole_states(at, kill, monkeypatch, caplog):
    """Of files that are replaced; new ones are not listed yet."""
    first = at("first")
    make()
    first.send()
    new = {WEIGHTS: "other", STATE: "states", REPORT: "longer", f"{STATE}.2": "new"}
    make(new)
    put, done = Away.put, []

    def killed(*given):
        if len(done) == kill:
            raise Stopped
        done.append(given[2])
        put(*given)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Away, "put", killed)
        at("first").send()
    at("second").fetch()
    found = there_is()
    assert {found.get(REPORT), found[IMAGES]} <= {"report", "images", None}
    states = {found.get(STATE), found.get(WEIGHTS)}
    assert states == ({"state", "weights"} if not {STATE, WEIGHTS} & {*done} else {None})
    assert ("is not as it was sent" in caplog.text) == bool({*done} & {*FILES})
    first = at("first")
    first.fetch()
    first.send()
    shutil.rmtree(Path("../second"))
    at("second").fetch()
    assert there_is() == {**FILES, **new}


def test_the_steps_of_a_budget_go_along_and_those_that_are_here_stay(at):
    budget = "06_models/digits/gppdm/budget.json"
    at("first")
    make({**FILES, budget: "of the first"})
    at("first").send()
    at("second").fetch()
    assert there_is() == {**FILES, budget: "of the first"}
    third = at("third")
    make({budget: "of the third"})
    third.fetch()
    assert there_is() == {**FILES, budget: "of the third"}


def test_layers_stay_that_are_left_out(at, away):
    storage = at("first", leave_out=("03_primary",))
    make()
    storage.send()
    assert not (away / IMAGES).exists()
    assert (away / WEIGHTS).exists()


def test_a_list_cannot_name_other_files(at, away):
    (away / LIST).parent.mkdir(parents=True)
    for name in (f"06_models/{RUN}/../../../../x", "01_raw/x", "/06_models/a/b/budget.json"):
        (away / LIST).write_text(json.dumps({name: "0"}))
        with pytest.raises(StorageError, match="which is not of the run"):
            at("first").fetch()


def test_what_cannot_be_reached_is_told_and_sent_later(at, away, caplog):
    away.write_text("a file where a folder should be")
    storage = at("first")
    make()
    with pytest.raises(UnreachableError, match=r"storage\.yml.*the same command then goes on"):
        storage.send()
    storage.try_to_send()
    assert "sends it later" in caplog.text
    away.unlink()
    storage.try_to_send()
    at("second").fetch()
    assert there_is() == FILES


def test_a_run_that_is_being_made_here_is_left_alone(at):
    at("first")
    make()
    at("first").send()
    second = at("second")
    lock = Path("data") / LOCK
    lock.parent.mkdir(parents=True)
    with locked(lock):
        second.fetch()
        assert not there_is()
    second.fetch()
    assert there_is() == FILES


def test_urls_that_nothing_reads_and_unknown_keys(project):
    with pytest.raises(ConfigurationError, match=r"url = wasm://x \(storage.yml\).*another kind"):
        Storage(StorageConfig(url="wasm://x"), RUN)
    Path("conf/local").mkdir(exist_ok=True)
    Path("conf/local/storage.yml").write_text("uri: s3://x\nleave_out: [06_models]\n")
    given = {"base_env": "base", "default_run_env": "local"}
    loader = ExperimentLoader("conf", **given, **CONFIG)
    with pytest.raises(ConfigurationError) as told:
        Storage.of(loader)
    assert "uri = s3://x (storage.yml): unknown key; did you mean url?" in str(told.value)
    assert "leave_out" in str(told.value)
    with pytest.raises(Exception, match=r"have a copy kept there: url in conf/local/storage\.yml"):
        JsonDataset(filepath="s3://bucket/file.json")


CONFIG = {
    "config_patterns": {
        "benchmarks": ["benchmarks/*"],
        "spaces": ["spaces/*"],
        "storage": ["storage*"],
    },
    "merge_strategy": {"storage": "soft"},
}


@pytest.fixture
def bucket(request, tmp_path_factory, monkeypatch):
    """A URL that a run can be kept behind, of a folder or of an S3 server on this machine."""
    if request.param == "file":
        yield tmp_path_factory.mktemp("away").as_uri()
        return
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/runs"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def without_dates(files):
    return {key: content for key, content in files.items() if key[1] != "retention.json"}


@pytest.mark.filterwarnings("ignore:datetime.datetime.utc")
@pytest.mark.parametrize(
    "bucket", ["file", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_a_run_goes_on_on_another_machine(bucket, project, tmp_path_factory, monkeypatch, caplog):
    """It is stopped within the second task's classifier, whose checkpoint goes with it."""
    name = "digits/finetune/seed_0"
    given = {"method": "finetune", "checkpoint_seconds": 0, "retention": "release"}
    Path("conf/local").mkdir(exist_ok=True)
    settings = yaml.safe_dump({"url": bucket})
    Path("conf/local/storage.yml").write_text(settings)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_offer(patch, 15)
        run(given)
    shutil.rmtree("data")
    other = tmp_path_factory.mktemp("other")
    shutil.copytree("conf", other / "conf")
    shutil.copy("mlflow.db", other)
    monkeypatch.chdir(other)
    with caplog.at_level(logging.INFO, "gppdm_pipeline"):
        run(given)
    assert "Going on with what was stopped." in caplog.text
    assert "goes on after" in caplog.text
    found = without_dates(result(name))
    Path("conf/local/storage.yml").unlink()
    run({**given, "variant": "whole"})
    assert without_dates(result("digits/finetune-whole/seed_0")) == found
    assert len(found) > 20
    files = Away(bucket)
    report = f"08_reporting/{name}/metrics.json"
    assert files.read(report) == Path("data", report).read_bytes()
    assert files.read(f"08_reporting/{name}/retention.json")
    assert files.read(f"03_primary/{name}/task_01/train.npz") is None
