"""What a space changes in the preset of a benchmark: conf/base/spaces."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tests.reference import tiny_autoencoder, tiny_encoder

from gppdm_pipeline.configuration.experiment import resolve
from gppdm_pipeline.configuration.layers import ConfigurationError, Layer, flatten
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.run.loader import ExperimentLoader
from gppdm_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"


def layers_of(folder):
    read = ((file.stem, yaml.safe_load(file.read_text())) for file in folder.glob("*.yml"))
    return {name: Layer(values[name], lambda _, n=name: f"{n}.yml") for name, values in read}


BENCHMARKS, SPACES = layers_of(CONF / "base/benchmarks"), layers_of(CONF / "base/spaces")
SHAPES = {"features": (1, 1, 1280), "latents": (4, 4, 32)}


@pytest.fixture(autouse=True)
def _encoder(monkeypatch, tmp_path):
    tiny_encoder.install(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An autoencoder, and as many folders of classes as presets expect that find them there."""
    root = tmp_path_factory.mktemp("spaces")
    tiny_autoencoder.taef2(root / "taef2")
    for count in (5, 200):
        for number in range(count):
            (root / f"{count}/train/{number:03d}").mkdir(parents=True)
    return root


def resolved(folders, benchmark, space, more="", presets=SPACES):
    counts = {"my_images": 5, "tiny_imagenet": 200}
    params = f"benchmark={benchmark},space.name={space}{more}"
    if benchmark in counts:
        params += f",stream.source.folder={folders / str(counts[benchmark])}"
    if space == "latents":
        params += f",space.autoencoder=taef2,space.weights={folders / 'taef2'}"
    defaults = yaml.safe_load((CONF / "base/parameters.yml").read_text())
    layers = [
        Layer(defaults, lambda _: "parameters.yml"),
        Layer(parse(params), lambda _: "--params"),
    ]
    return resolve(BENCHMARKS, layers, presets)


OF_IMAGES = {"denoiser.channels", "denoiser.layers_per_block", "classifier.width"}
OF_BENCHMARKS = {
    "features": {"denoiser.condition_dim", "redraw_images", "replay.batch_size", *OF_IMAGES},
    "latents": {"denoiser.condition_dim", "redraw_images", "replay.batch_size"},
}
"""What may differ: what the number of classes decides, and what does not count there."""


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("benchmark", sorted({*BENCHMARKS} - {"imagenet64_t10", "imagenet64_t5"}))
def test_every_method_can_learn_every_benchmark_in_every_space(folders, benchmark, space):
    for method in METHODS:
        chosen = resolved(folders, benchmark, space, f",method={method}")
        if (method, space) == ("analytic", "features"):
            with pytest.raises(ValueError, match="vectors of 1280 numbers"):
                chosen.learner.check(SHAPES[space], len(chosen.stream.class_names))
            continue
        chosen.learner.check(SHAPES[space], len(chosen.stream.class_names))
    # What was measured on CIFAR-100 is what every benchmark gets.
    one, other = (
        flatten(resolved(folders, name, space).learner.model_dump())
        for name in (benchmark, "cifar100_t5")
    )
    assert {key for key in one if one[key] != other[key]} <= OF_BENCHMARKS[space]


def test_the_numbers_are_between_the_benchmark_and_what_the_user_says(folders):
    features = resolved(folders, "cifar100_t5", "features").learner
    assert (features.memory, features.denoiser.steps, features.denoiser.condition_dim) == (
        "adapters",
        300,
        512,  # of the benchmark
    )
    given = ",generator.denoiser.steps=7,gppdm.memory=shared,classifier.steps=9"
    asked = resolved(folders, "cifar100_t5", "features", given).learner
    assert (asked.denoiser.steps, asked.memory, asked.classifier.steps) == (7, "shared", 9)
    # The section of a method in the benchmark's file is below `generator` in the space's.
    assert "steps" in BENCHMARKS["my_images"].values["gppdm"]["denoiser"]
    assert resolved(folders, "my_images", "features").learner.denoiser.steps == 300
    pixels = resolved(folders, "my_images", "pixels")
    assert pixels == resolved(folders, "my_images", "pixels", presets={})


def test_a_setting_that_is_wrong_names_the_file_of_the_space(tmp_path, folders):
    wrong = {"features": Layer({"generator": {"denoiser": {"step": 1}}}, lambda _: "features.yml")}
    with pytest.raises(
        ConfigurationError, match=r"denoiser.step = 1 \(features.yml\).*denoiser.steps\?"
    ):
        resolved(folders, "digits", "features", presets=wrong)
    shutil.copytree(CONF, tmp_path / "conf")
    file = tmp_path / "conf/base/spaces/features.yml"
    file.write_text(re.sub(r"steps: \d+", "steps: 0", file.read_text()))

    def loaded(space):
        params = {"space": {"name": space}}
        return ExperimentLoader(
            str(tmp_path / "conf"), runtime_params=params, **CONFIG_LOADER_ARGS
        ).experiment

    with pytest.raises(Exception, match=r"steps = 0 \(conf/base/spaces/features.yml"):
        loaded("features")
    assert loaded("pixels").space.name == "pixels"
    shutil.rmtree(tmp_path / "conf/base/spaces")  # a configuration that is older
    assert loaded("features").learner.classifier.steps == 300
