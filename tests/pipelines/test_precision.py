"""The precision that the user sets is the one that stages compute in, and checkpoints are of."""

from types import SimpleNamespace

import pytest
from tests.reference.tiny import gppdm

from gppdm_pipeline.algorithm.disk.checkpoints import no_checkpoints
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration.experiment import resolve
from gppdm_pipeline.configuration.layers import ConfigurationError, Layer
from gppdm_pipeline.pipelines.continual import nodes
from gppdm_pipeline.run.loader import _parameters

PRESET = {"stream": {"source": {"reader": "sklearn_digits"}, "classes_per_task": 5}}


def experiment(**params):
    layer = {"benchmark": "digits", "method": "gppdm", **params}
    return resolve({"digits": Layer(PRESET, str)}, [Layer(layer, lambda _: "--params")])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_reaches_the_stages(monkeypatch, precision):
    chosen = experiment(precision=precision)
    task = nodes.Task(**_parameters(chosen)["task_02"]["task"])
    assert task.context(0, "cpu").precision == precision
    given, seen = [], []

    def synthesise_replay(self, state, context, earlier):
        seen.append(context.precision)
        return None, SimpleNamespace(metrics={}, curves={})

    def checkpoints(number, stage, *values):
        given.extend(values)
        return no_checkpoints

    method = gppdm()
    monkeypatch.setattr(type(method), "synthesise_replay", synthesise_replay)
    scratch = SimpleNamespace(checkpoints=checkpoints, drawn=None)
    nodes.synthesise_replay(method, 0, "cpu", task, scratch, LearnerState.empty())
    assert seen == [precision]
    assert precision in given


def test_it_decides_the_result():
    one, other = experiment(), experiment(precision="bfloat16")
    assert one.identity() == {**other.identity(), "precision": "float32"}
    assert one.fingerprint() != other.fingerprint()


def test_others_are_refused():
    text = "precision = half .--params.: must be 'float32' or 'bfloat16'"
    with pytest.raises(ConfigurationError, match=text):
        experiment(precision="half")
