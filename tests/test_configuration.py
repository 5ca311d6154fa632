from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import yaml

from gppdm_pipeline.configuration.experiment import Experiment, resolve
from gppdm_pipeline.configuration.layers import ConfigurationError, Layer, flatten
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.streams.errors import SourceError

CONF = Path(__file__).parents[1] / "conf" / "base"
PRESET = {
    "stream": {"source": {"reader": "sklearn_digits"}, "classes_per_task": 2},
    "classifier": {"steps": 100},
    "joint": {"classifier": {"steps": 200}},
}
DEFAULTS = {"benchmark": "digits", "method": "finetune", "seed": 0, "variant": None}


def experiment(**params: object) -> Experiment:
    return resolve(
        {"digits": Layer(PRESET, lambda _: "digits.yml")},
        [Layer(DEFAULTS, lambda _: "parameters.yml"), Layer(params, lambda _: "--params")],
    )


def test_last_layer_wins_and_the_method_over_what_is_shared():
    assert experiment().learner.classifier.steps == 100
    assert experiment(method="joint").learner.classifier.steps == 200
    assert experiment(method="joint", classifier={"steps": 7}).learner.classifier.steps == 7
    assert experiment(finetune={"classifier": {"steps": 8}}).learner.classifier.steps == 8


def test_methods_with_a_diffusion_model_share_their_generator():
    preset = {
        **PRESET,
        "generator": {"redraw": 0.3, "denoiser": {"steps": 5, "channels": [8, 16]}},
        "cpdm": {"denoiser": {"steps": 6}},
    }

    def learner(method, **params):
        layers = [Layer({**DEFAULTS, "method": method}, str), Layer(params, str)]
        return resolve({"digits": Layer(preset, str)}, layers).learner

    assert [learner(name).denoiser.steps for name in ("gppdm", "cpdm", "ddgr")] == [5, 6, 5]
    assert learner("cpdm").denoiser.channels == (8, 16)  # what its section does not say
    assert learner("diffusion_replay").redraw == 0.3  # ddgr has none
    assert learner("cpdm", generator={"denoiser": {"steps": 7}}).denoiser.steps == 7
    both = {"generator": {"denoiser": {"steps": 7}}, "gppdm": {"denoiser": {"steps": 8}}}
    assert [learner(name, **both).denoiser.steps for name in ("gppdm", "ddgr")] == [8, 7]
    solver = {"replay": {"sigma_max": 40}}  # which ddgr refuses
    assert learner("gppdm", generator=solver).replay.sigma_max == 40
    with pytest.raises(
        ConfigurationError, match=r"generator .*ddgr draws by the ancestral sampler"
    ):
        learner("ddgr", generator=solver)
    assert learner("vae_replay") == learner("vae_replay", generator=None)


def test_numbers_may_be_strings():
    values = {"learning_rate": "1e-3", "steps": "20"}
    chosen = experiment(classifier=values, seed="3")
    assert chosen.learner.classifier.learning_rate == 1e-3
    assert chosen.learner.classifier.steps == 20
    assert chosen.seed == 3


def test_an_empty_section_is_no_setting():
    assert experiment(finetune=None).learner == experiment().learner


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"benchmark": "digit"},
            "benchmark = digit (--params): there is no such benchmark; did you mean digits? "
            "Allowed: digits.",
        ),
        (
            {"method": "joit"},
            "there is no such method; did you mean joint? Allowed: analytic,",
        ),
        ({"sed": 1}, "sed = 1 (--params): unknown key; did you mean seed? Allowed: analytic,"),
        (
            {"steps": 1},
            "unknown key; did you mean classifier.steps? Allowed: analytic, benchmark, budget",
        ),
        (
            {"classifier": {"step": 1}},
            "classifier.step = 1 (--params): unknown key; did you mean classifier.steps? Allowed: ",
        ),
        (
            {"stream": {"source": {"test_fracton": 1}}},
            "did you mean stream.source.test_fraction? Allowed: colour, fit, pad_value, reader, ",
        ),
        ({"classifier": {"steps": 0}}, "classifier.steps = 0 (--params): must be greater than or"),
        (
            {"classifier": {"start": "anow"}},
            "classifier.start = anow (--params): must be 'previous' or 'anew'; did you mean anew?",
        ),
        ({"seed": -1}, "seed = -1 (--params): must be greater than or equal to 0."),
        ({"device": "gpu"}, "device = gpu (--params): must be 'auto', 'cpu', 'cuda' or 'mps'"),
        ({"variant": "../x"}, "variant = ../x (--params): must begin with a letter"),
        ({"stream": {"classes_per_task": 3}}, "3 classes a task do not divide the source's 10"),
        ({"stream": 3}, "stream = 3 (--params): must be a valid dictionary"),
        ({"stream": {"source": {"reader": "idx"}}}, "stream.source.folder is not set."),
        ({"stream": {"source": {"reader": "npy"}}}, "'npz', 'parquet', 'image_folder', 'core50'"),
        ({"stream": {"source": {"reader": "idx", "folder": True}}}, "must be a path: put true"),
        (
            {"stream": {"classes_per_task": 0}},
            "stream.classes_per_task = 0 (--params): must be greater than 0 or must be a list.",
        ),
        (
            {"generator": {"denoiser": {"stepps": 3}}},
            "generator.denoiser.stepps = 3 (--params): unknown key; did you mean "
            "generator.denoiser.steps? Allowed: batch_size, blocks, channels, ",
        ),
        (
            {"generator": {"denoisr": {}}},
            "generator.denoisr (--params): unknown key; did you mean generator.denoiser? Allowed: "
            "adapters, analytic, condition, ",
        ),
        ({"denoiser": {"steps": 3}}, "denoiser (--params): unknown key; did you mean generator.de"),
        ({"generator": {"denoiser": {"steps": 0}}}, "generator.denoiser.steps = 0 (--params): mus"),
        ({"generator": 3}, "generator = 3 (--params): must be a valid dictionary"),
        ({"generator": {"classifier": {}}}, "generator.classifier (--params): unknown key"),
        (
            {"method": "gppdm", "generator": {"redraw": 0.5, "order": "classifier_first"}},
            "generator (--params): redraw is set, but order is 'classifier_first'",
        ),
        # Those of a method that is not the selected one
        ({"joint": {"clasifier": {}}}, "joint.clasifier (--params): unknown key; did you mean"),
        ({"joint": {"classifier": {"steps": 0}}}, "joint.classifier.steps = 0 (--params)"),
        ({"joint": 3}, "joint = 3 (--params): must be a valid dictionary"),
    ],
)
def test_bad_settings_are_named_with_their_place_and_repair(params, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        experiment(**params)
    assert len(str(caught.value).splitlines()) <= 2  # not once for each method that shares it


def test_a_stream_told_in_another_way_takes_the_place_of_the_presets():
    tasks = [["0", "1", "2"], ["3", "4", "5", "6", "7", "8", "9"]]
    chosen = experiment(stream={"tasks": tasks}).stream
    assert (chosen.classes_per_task, chosen.number_of_tasks) == (None, 2)
    again = experiment(stream={"repetition": {"experiences": 7, "probability": 0.5},
                               "returning_images": "divide"})  # fmt: skip
    assert again.number_of_tasks == 7
    assert experiment(stream={"first_classes": "half", "classes_per_task": 1}).number_of_tasks == 6
    # Within one layer nothing is taken back.
    with pytest.raises(ConfigurationError, match=r"stream \(--params\): how classes come must be"):
        experiment(stream={"tasks": tasks, "classes_per_task": 2})
    with pytest.raises(ConfigurationError, match=r"tasks = .* \(--params\): .*mean '9'"):
        experiment(stream={"tasks": [["0"], ["99"]]})


def test_labels_of_a_run_that_is_there_are_kept():
    names = "0123456789"
    assert experiment().numbered(names) == experiment()
    assert experiment().numbered(names[:4]) == experiment()  # the others come behind as it is
    kept = experiment().numbered("31")
    assert kept.stream.class_names == tuple("3102456789")
    assert kept.record()["classes"] == list("3102456789")
    assert kept.numbered("3102456789") == kept
    assert experiment().numbered(["0", "gone"]) == experiment()


def test_names_by_which_labels_are_made_follow_the_labels(tmp_path):
    condition = {"embeddings": "file", "file": str(tmp_path / "e.npz")}
    asks = experiment(method="gppdm", gppdm={"condition": condition})
    assert asks.learner.condition.class_names == tuple("0123456789")
    assert asks.numbered("31").learner.condition.class_names == tuple("3102456789")
    written = experiment(
        method="gppdm", gppdm={"condition": condition}, stream={"numbering": [*"9876543210"]}
    )
    assert written.learner.condition.class_names == tuple("9876543210")


def test_where_images_lie_is_no_part_of_what_a_run_is():
    def of(folder, **more):
        names = [*"0123456789"]
        source = {"reader": "image_folder", "folder": folder, "class_names": names, **more}
        return experiment(stream={"source": source})

    here, there = of("/one/place"), of("another")
    assert here.record() == there.record()
    assert here.fingerprint() == there.fingerprint()
    assert here.places() == {"stream.source.folder": Path("/one/place")}
    assert of("another", test_fraction=0.3).record() != there.record()


def test_a_file_of_labels_is_told_by_its_content(tmp_path):
    def of(file):
        condition = {"embeddings": "file", "file": str(file)}
        return experiment(method="gppdm", gppdm={"condition": condition}).record()

    one, other = tmp_path / "e.npz", tmp_path / "elsewhere.npz"
    one.write_bytes(b"some")
    other.write_bytes(b"some")
    assert of(one) == of(other)
    other.write_bytes(b"more")
    assert of(one) != of(other)
    assert of(tmp_path / "gone.npz")["gppdm"]["condition"]["file"] == str(tmp_path / "gone.npz")


@pytest.mark.parametrize("name", ["a/b", "{a}", "a[1]", "..", "", "x" * 101])
@pytest.mark.parametrize("key", ["variant", "benchmark"])
def test_names_that_cannot_be_those_of_folders_are_refused(key, name):
    preset = {name if key == "benchmark" else "digits": Layer(PRESET, lambda _: "digits.yml")}
    with pytest.raises(ConfigurationError, match=f"{key} = "):
        resolve(preset, [Layer({**DEFAULTS, key: name}, lambda _: "parameters.yml")])


def test_all_problems_are_told_each_once():
    with pytest.raises(ConfigurationError) as caught:
        experiment(seed=-1, classifier={"steps": 0, "width": 9})
    assert len(str(caught.value).splitlines()) == 4


def test_the_place_of_a_preset_is_named():
    with pytest.raises(ConfigurationError, match=r"classifier.steps = 0 \(digits.yml\)"):
        resolve(
            {"digits": Layer({**PRESET, "classifier": {"steps": 0}}, lambda _: "digits.yml")},
            [Layer(DEFAULTS, lambda _: "parameters.yml")],
        )


def test_class_names_reach_a_method_that_asks():
    names = tuple("0123456789")
    asks = experiment(method="cpdm", cpdm={"condition": {"embeddings": "encoder"}})
    assert asks.learner.condition.class_names == names
    assert asks.identity()["cpdm"]["condition"]["class_names"] == list(names)
    assert experiment(method="cpdm").learner.condition.class_names == ()


def test_a_preset_of_another_reader_leaves_nothing_behind():
    file = CONF / "benchmarks/cifar100_t5.yml"
    preset = Layer(yaml.safe_load(file.read_text())["cifar100_t5"], str)
    source = {"reader": "idx", "folder": "x", "class_names": list(range(100))}
    layers = [Layer({**DEFAULTS, "benchmark": "c", "stream": {"source": source}}, lambda _: "")]
    assert resolve({"c": preset}, layers).stream.source.class_names[7] == "7"
    layers = [Layer({**DEFAULTS, "benchmark": "c", "stream": {"source": {"reader": "cifar"}}}, str)]
    assert resolve({"c": preset}, layers).stream.source.class_names[7] == "beetle"


def test_run_folder():
    assert experiment(seed=2).run == "digits/finetune/seed_2"
    assert experiment(variant="wide").run == "digits/finetune-wide/seed_0"


def test_flatten_holds_every_setting_by_the_users_key():
    flat = experiment(device="cpu").flatten()
    assert flat["classifier.steps"] == 100
    assert flat["stream.classes_per_task"] == 2
    assert flat["stream.source.test_fraction"] == 0.2
    assert flat["device"] == "cpu"
    assert flat["number_of_tasks"] == 5
    assert not any(isinstance(value, dict) for value in flat.values())


def test_settings_resolve_to_the_experiment_they_came_from():
    first = experiment(method="joint", seed=4, classifier={"steps": 3})
    assert experiment(**first.settings()) == first


def test_identity_and_fingerprint():
    assert experiment(device="cpu").identity() == experiment(overwrite=True).identity()
    assert experiment(seed=1).identity() != experiment().identity()
    assert experiment(seed=1).fingerprint() == experiment(device="cpu").fingerprint()
    assert experiment(classifier={"steps": 1}).fingerprint() != experiment().fingerprint()


@pytest.mark.parametrize("word", ["no", "null", "2024-05-01", "~"])
@pytest.mark.parametrize(
    "stream",
    [
        "source: {{reader: idx, folder: x, class_names: [a, {word}]}}",
        "source: {{reader: idx, folder: x, class_names: [a, b]}}\ntasks: [[a], [{word}]]",
        "source: {{reader: idx, folder: x, class_names: [a, b]}}\nclass_order: [{word}, a]",
    ],
)
def test_words_that_yaml_reads_as_other_than_text_are_to_be_quoted(stream, word):
    values = yaml.safe_load(stream.format(word=word))
    with pytest.raises(ConfigurationError, match="put the name in quotes"):
        experiment(stream=values)


def test_names_that_yaml_reads_as_other_numbers_are_told(tmp_path):
    source = {"reader": "idx", "folder": str(tmp_path), "class_names": ["010", "1.10"]}
    order = yaml.safe_load("[010, 1.10]")
    with pytest.raises(ConfigurationError, match=r"unknown '8' .*YAML reads 010 as 8.*quotes"):
        experiment(stream={"source": source, "class_order": order})


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """As many folders of classes as the presets expect that take their names from there."""
    root = tmp_path_factory.mktemp("classes")
    for count in (5, 200, 1000):
        for number in range(count):
            (root / f"{count}/train/class_{number:03d}").mkdir(parents=True)
    counts = {"my_images": 5, "tiny_imagenet": 200, "imagenet64_t5": 1000, "imagenet64_t10": 1000}
    return {name: {"folder": str(root / str(count))} for name, count in counts.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("file", sorted((CONF / "benchmarks").iterdir()), ids=lambda f: f.stem)
def test_shipped_presets_are_valid(file, method, class_folders):
    presets = yaml.safe_load(file.read_text())
    assert list(presets) == [file.stem]
    parameters = yaml.safe_load((CONF / "parameters.yml").read_text())
    top = {**parameters, "benchmark": file.stem, "method": method}
    layers = [Layer({**top, "stream": {"source": class_folders.get(file.stem, {})}}, str)]
    chosen = resolve({file.stem: Layer(presets[file.stem], str)}, layers)
    assert chosen.number_of_tasks > 1
    del parameters["evaluation"]  # which decides nothing, and is no parameter of the run
    assert parameters.pop("space") == {}  # as the preset says
    besides = {"budget", "overwrite", "checkpoint_seconds", "retention", "retention_of_test"}
    assert set(flatten(parameters)) - besides <= set(chosen.flatten())


@pytest.mark.parametrize("file", sorted((CONF / "benchmarks").iterdir()), ids=lambda f: f.stem)
def test_presets_have_a_section_of_a_method_only_where_it_differs(file, class_folders):
    ((name, preset),) = yaml.safe_load(file.read_text()).items()

    def learner(method, preset):
        given = {"benchmark": name, "method": method, "stream": {"source": class_folders.get(name)}}
        return resolve({name: Layer(preset, str)}, [Layer(given, str)]).learner

    for method in METHODS.keys() & preset.keys():
        without = {key: value for key, value in preset.items() if key != method}
        with contextlib.suppress(ConfigurationError):  # digits' solver is not of ddgr
            assert learner(method, without) != learner(method, preset)


def test_a_setting_has_one_name_for_all_methods():
    both = [experiment(method=method).flatten() for method in ("gppdm", "cpdm")]
    assert both[0]["denoiser.steps"] == both[1]["denoiser.steps"] == 600
    assert set(both[1]) < set(both[0])
    assert all(values["classifier.steps"] == 100 for values in both)


def test_the_reference_settings_are_valid():
    file = CONF.parent / "cpdm_reference" / "parameters.yml"
    values = yaml.safe_load(file.read_text())
    assert experiment(**values).learner.denoiser.condition_dim == 768


@pytest.mark.parametrize(
    ("file", "message"), [(2024, "^2024: cannot be read"), ("~nobody.is.so/x", "a user who is not")]
)
def test_a_path_is_what_was_typed(file, message):
    with pytest.raises(SourceError, match=message):
        experiment(stream={"source": {"reader": "npz", "file": file}})
