"""What every method promises. A new method adds a line to SETTINGS."""

import copy
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.reference.tiny import (
    CLASSIFIER,
    DENOISER,
    GPPDM,
    PARTS,
    differences,
    images_of,
    learn,
)

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import METHODS, Method, learn_task, method_class

SETTINGS = {
    "analytic": {"name": "analytic", "filters": 2},
    "cpdm": {"name": "cpdm", **PARTS},
    "ddgr": {"name": "ddgr", **PARTS},
    "diffusion_replay": {"name": "diffusion_replay", **PARTS},
    "ewc": {"name": "ewc", "classifier": CLASSIFIER},
    "exemplar": {"name": "exemplar", "classifier": CLASSIFIER, "images": 2},
    "finetune": {"name": "finetune", "classifier": CLASSIFIER},
    "gaussian_replay": {
        "name": "gaussian_replay",
        "classifier": CLASSIFIER,
        "replay": {"images_per_class": 3},
    },
    "gdumb": {"name": "gdumb", "classifier": CLASSIFIER, "images": 2},
    "gppdm": GPPDM,
    "joint": {"name": "joint", "classifier": CLASSIFIER},
    "lwf": {"name": "lwf", "classifier": CLASSIFIER},
    "nearest_mean": {"name": "nearest_mean"},
    "ranpac": {"name": "ranpac", "features": 12},
    "slda": {"name": "slda"},
    "vae_replay": {
        "name": "vae_replay",
        "classifier": CLASSIFIER,
        "vae": {"width": 8, "latent_dim": 2, "steps": 3, "batch_size": 6},
        "replay": {"images_per_class": 3},
    },
}
# Of methods above, with what is off by default.
VARIANTS = {
    "gppdm, distilled and guided": {
        **GPPDM,
        "texture": True,
        "soft_labels": 0.5,
        "redraw": 0.3,
        "condition": {"null_keeps_prototype": True},
        "denoiser": {**DENOISER, "distillation": 0.8, "label_dropout": 0.2},
        "replay": {**PARTS["replay"], "guidance": 1.0, "guidance_interval": (0.3, 3.0)},
    },
    "gppdm, adapters": {**GPPDM, "memory": "adapters", "adapters": {"rank": 2, "batch_size": 8}},
    "cpdm, sums": {"name": "cpdm", **PARTS, "analytic": {"filters": 2}},
    "ddgr, adapters": {
        "name": "ddgr",
        **PARTS,
        "memory": "adapters",
        "adapters": {"rank": 2, "batch_size": 8},
    },
    "exemplar, distilled": {
        "name": "exemplar",
        "classifier": CLASSIFIER,
        "images": 2,
        "distillation": 1.0,
    },
    "gaussian_replay, two layers": {
        "name": "gaussian_replay",
        "classifier": {**CLASSIFIER, "head": "two_layer"},
        "replay": {"images_per_class": 3},
    },
    "gppdm, four bits": {
        **GPPDM,
        "memory": "adapters",
        "adapters": {"rank": "full", "bits": 4, "batch_size": 8, "attention": False},
        "denoiser": {**DENOISER, "optimiser": "muon", "heads": 2},
    },
    "gppdm, moved by Muon": {**GPPDM, "denoiser": {**DENOISER, "optimiser": "muon", "heads": 2}},
}
# The method that CONTRIBUTING.md adds as an example: its file, and its lines in the two lists.
PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
CODE, IN_METHODS, IN_SETTINGS = re.findall("```python\n(.*?)```", PAGE, flags=re.DOTALL)
EXAMPLE = eval(f"{{{IN_SETTINGS}}}", {"CLASSIFIER": CLASSIFIER})
COMPUTED = (
    "analytic",
    "nearest_mean",
    "ranpac",
    "slda",
)  # from sums: there is no loop to be stopped in
UNSEEDED = ("analytic", "nearest_mean", "slda")  # or seeded in the first task alone
TASKS = ((9, 2), (5,), (2, 0))  # class 2 comes back


class Forbidden(list):
    """Earlier images that must not be looked at, not even whether there are any."""

    def _fail(self, *_):
        raise AssertionError("looked at images of earlier tasks")

    __bool__ = __contains__ = __getitem__ = __iter__ = __len__ = __reversed__ = _fail


@pytest.fixture(scope="module", autouse=True)
def _example():
    """The example, added to the methods as CONTRIBUTING.md says."""
    (name,) = EXAMPLE
    module = sys.modules[name] = ModuleType(name)
    exec(CODE, vars(module))
    METHODS.update(eval(f"{{{IN_METHODS}}}", vars(module)))
    yield
    del METHODS[name], sys.modules[name]


def test_every_method_is_tested():
    assert SETTINGS.keys() | EXAMPLE.keys() == METHODS.keys()


@pytest.fixture(scope="module", params=sorted(SETTINGS | VARIANTS | EXAMPLE))
def settings(request):
    return (SETTINGS | VARIANTS | EXAMPLE)[request.param]


@pytest.fixture(scope="module")
def method(settings):
    return Method.model_validate(settings)


@pytest.fixture(scope="module")
def states(method):
    """Before the first task and after each."""
    return learn(method, TASKS)


def earlier(method, task):
    """What `method` may be given in `task` (from 1)."""
    return [images_of(*classes) for classes in TASKS[: task - 1] if method.reads_earlier_images]


def next_task(method, state, seed=0, given=None):
    """Task 2."""
    train = images_of(*TASKS[1])
    given = earlier(method, 2) if given is None else given
    return learn_task(method, state, train, train, Context(seed, 2), given)


def test_classes_grow(method, states):
    assert [state.classes for state in states] == [(), (2, 9), (2, 9, 5), (2, 9, 5, 0)]
    for task, state in enumerate(states[1:], start=1):
        assert state.tasks == tuple(tuple(sorted(classes)) for classes in TASKS[:task])
        logits = predict_logits(state, images_of(9, 2).images, Context(0, task))
        assert logits.shape == (12, len(state.classes))
        assert np.isfinite(logits).all()
        draws = "moments" in state.extras and method.name not in COMPUTED
        generates = state.denoiser is not None or "vae" in state.extras or draws
        assert generates is method.has_generator


def test_the_given_state_is_left_as_it_was(method, states):
    kept = copy.deepcopy(states[1])
    state, train, context = states[1], images_of(*TASKS[1]), Context(0, 2)
    replay, _ = method.synthesise_replay(state, context, earlier(method, 2))
    assert differences(state, kept) == []
    for verb in (
        lambda given: method.train_generator(given, train, replay, context),
        lambda given: method.train_classifier(given, train, train, replay, context),
    )[:: 1 if method.generator_first else -1]:
        before = copy.deepcopy(state)
        after, log = verb(state)
        assert differences(state, before) == []
        assert all(np.isfinite(value) for value in log.metrics.values())
        state = after
    assert differences(states[1], kept) == []
    assert differences(state, states[2]) == []  # so learn_task does no more than its verbs
    assert differences(state, kept) != []


@pytest.mark.parametrize("task", [1, 2, 3])
def test_replay_is_of_old_classes_and_as_much_as_asked(method, states, task):
    given = earlier(method, task)
    replay, _ = method.synthesise_replay(states[task - 1], Context(0, task), given)
    old = states[task - 1].classes
    assert set(replay.classes) <= set(old)
    counts = {label: int((replay.labels == label).sum()) for label in old}
    if method.reads_earlier_images:
        assert counts == {
            label: sum((part.labels == label).sum() for part in given) for label in old
        }
    elif method.keeps_images:
        assert counts == dict.fromkeys(old, method.images)
    elif method.has_generator:
        assert counts == dict.fromkeys(old, method.replay.images_per_class)
    else:  # nothing, or as much of each
        assert counts == dict.fromkeys(old, getattr(method, "copies", 0))


def test_same_seed_same_bits(method, states):
    torch.manual_seed(12345)
    np.random.seed(12345)
    again = learn(method, TASKS[:2])
    assert differences(again[2], states[2]) == []
    other = next_task(method, states[1], seed=1)
    changed = any(name.startswith("classifier/") for name in differences(other, states[2]))
    assert changed is (method.name not in UNSEEDED)


def test_a_run_that_was_interrupted_ends_the_same(method, states, tmp_path):
    save_state(states[1], tmp_path / "state")
    resumed = next_task(method, load_state(tmp_path / "state"))
    assert differences(resumed, states[2]) == []


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_task_that_was_stopped_anywhere_goes_on_to_the_same_bits(method, states, tmp_path, every):
    train, given = images_of(*TASKS[1]), earlier(method, 2)
    whole, left = CheckpointFolder(tmp_path / "whole", "key", every=0), []

    def learn_with(checkpoints):
        context = Context(0, 2, checkpoints=checkpoints)
        return learn_task(method, states[1], train, train, context, given)

    def copied(loop):
        """What a kill after each offer leaves."""
        inner = whole(loop)

        def offer(take, now=False):
            inner.offer(take, now)
            left.append((loop, shutil.copytree(whole.folder, tmp_path / str(len(left)))))

        return SimpleNamespace(latest=inner.latest, parts=inner.parts, offer=offer)

    assert differences(learn_with(copied), states[2]) == []
    for _, folder in left[::every]:
        resumed = learn_with(CheckpointFolder(folder, "key", every=3600))
        assert differences(resumed, states[2]) == []
    loops = {loop for loop, _ in left}
    assert not left if method.name in COMPUTED else len(left) > len(loops) >= 1


def test_earlier_images_are_read_only_by_methods_that_say_so(method, states):
    if method.reads_earlier_images:
        with pytest.raises(AssertionError, match="earlier tasks"):
            next_task(method, states[1], given=Forbidden())
    else:
        assert differences(next_task(method, states[1], given=Forbidden()), states[2]) == []


def test_a_task_of_one_class_and_no_validation(method):
    train = images_of(4)
    state = learn_task(
        method, LearnerState.empty(), train, LabelledImages.empty((8, 8, 1)), Context(0, 1)
    )
    assert state.classes == (4,)


def test_a_task_that_skips_one_is_refused(method, states):
    train = images_of(1)
    with pytest.raises(ValueError, match="does not follow a state after tasks"):
        method.train_classifier(states[1], train, train, train, Context(0, 3))


def test_images_are_kept_only_by_methods_that_say_so(method, states):
    real = {image.tobytes() for task in TASKS for image in images_of(*task).images}
    for state in states[1:]:
        assert (state.kept is not None) is method.keeps_images
        if method.keeps_images:
            assert state.kept.classes == tuple(sorted(state.classes))
            assert {image.tobytes() for image in state.kept.images} <= real
            without = replace(state, kept=None)
            images = state.kept.images.nbytes + state.kept.labels.nbytes
            assert state.bytes() == without.bytes() + images
            assert images == len(state.kept) * (64 + 8)


def test_settings_are_dispatched_by_name(method, settings):
    assert type(method) is METHODS[method.name]
    assert METHODS[method.name].model_validate(settings) == method
    assert Method.model_validate(method) is method
    assert Method.model_validate(method.model_dump()) == method
    assert Method.model_validate_json(method.model_dump_json()) == method
    assert method_class(method.name) is type(method)


def test_settings_cannot_change(method):
    with pytest.raises(ValidationError, match="frozen"):
        method.name = "another"


@pytest.mark.parametrize(
    ("change", "location", "kind"),
    [
        ({"stepps": 3}, ("stepps",), "extra_forbidden"),
        ({"classifier": {"widht": 8}}, ("classifier", "widht"), "extra_forbidden"),
        ({"classifier": {"steps": 0}}, ("classifier", "steps"), "greater_than_equal"),
        ({"classifier": {"learning_rate": 2}}, ("classifier", "learning_rate"), "less_than_equal"),
        ({"classifier": {"start": "anwe"}}, ("classifier", "start"), "literal_error"),
    ],
)
def test_wrong_settings_are_named(settings, change, location, kind):
    with pytest.raises(ValidationError) as error:
        Method.model_validate({**settings, **change})
    [first] = error.value.errors()
    assert first["loc"] == location
    assert first["type"] == kind


@pytest.mark.parametrize("name", ["gpdm", "GPPDM", "finetun", "jont"])
def test_the_nearest_name_is_suggested(name):
    near = {"gpdm": "gppdm", "GPPDM": "gppdm", "finetun": "finetune", "jont": "joint"}[name]
    with pytest.raises(ValidationError, match=rf"method is '{name}'; allowed are .*{near}'\?"):
        Method.model_validate({"name": name})


@pytest.mark.parametrize(
    "settings", [{}, {"name": 3}, {"name": None}, {"name": "xyzzy"}, "gppdm", 1]
)
def test_settings_without_a_known_name(settings):
    with pytest.raises(ValidationError, match=r"allowed are .*gppdm|valid dictionary or instance"):
        Method.model_validate(settings)
