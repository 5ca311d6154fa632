"""What a budget comes to: `fixed + factor x training` seconds."""

import pytest
import yaml

from gppdm_pipeline.configuration.budget import (
    LEAST,
    Fit,
    fitting,
    seconds_of,
    training_steps,
    with_steps,
)
from gppdm_pipeline.configuration.choices import Choices
from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.methods import METHODS, Method

KEYS = {
    **{name: {"classifier.steps", "denoiser.steps"} for name in ("gppdm", "cpdm", "ddgr")},
    "diffusion_replay": {"classifier.steps", "denoiser.steps"},
    "vae_replay": {"classifier.steps", "vae.steps"},
}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_a_time_is_read(text, seconds):
    assert seconds_of(text) == seconds
    assert Choices(benchmark="a", method="b", budget=text).budget == text


@pytest.mark.parametrize("text", ["20", "20 minutes", "0m", "m", "-5m", "1d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="must be a time such as 90s, 20m or 2h, or none"):
        Choices(benchmark="a", method="b", budget=text)


@pytest.mark.parametrize("written", ["budget: none", "budget: null", "budget:", "{}"])
def test_no_budget_is_written_in_several_ways(written):
    values = yaml.safe_load(written)
    assert Choices(benchmark="a", method="b", **values).budget is None


@pytest.mark.parametrize("name", METHODS)
def test_trainings_of_every_method_share_one_factor(name):
    learner = Method.model_validate({"name": name, "classifier": {"steps": 400}})
    steps = training_steps(learner)
    assert set(steps) == KEYS.get(name, {"classifier.steps"})
    fit = fitting("20m", learner, training=2000.0, fixed=200.0, device="cpu")
    assert fit.factor == pytest.approx(0.5)
    assert fit.steps == {key: round(count / 2) for key, count in steps.items()}
    changed = with_steps(learner, fit.steps)
    assert training_steps(changed) == fit.steps
    assert with_steps(changed, steps) == learner  # and nothing else
    assert "classifier.steps 200" in fit.told() and "0.50 times" in fit.told()


def test_a_budget_may_be_more_than_the_settings_take():
    fit = fitting("1h", METHODS["finetune"](), training=900.0, fixed=0.0, device="cpu")
    assert fit.steps == {"classifier.steps": 4 * METHODS["finetune"]().classifier.steps}
    assert Fit.model_validate_json(fit.model_dump_json()) == fit


@pytest.mark.parametrize(("training", "fixed"), [(3000.0, 30.0), (100.0, 90.0)])
def test_too_small_a_budget_is_refused_with_one_that_does(training, fixed):
    learner = METHODS["finetune"]()
    with pytest.raises(ConfigurationError, match="budget = 60s: too short") as error:
        fitting("60s", learner, training, fixed, "cpu")
    enough = str(error.value).partition("Give budget=")[2].split()[0]
    assert fitting(enough, learner, training, fixed, "cpu").factor >= LEAST


def test_a_method_that_trains_nothing_is_told_so():
    with pytest.raises(ConfigurationError, match="nearest_mean trains nothing"):
        fitting("20m", METHODS["nearest_mean"](), 0.0, 60.0, "cpu")
