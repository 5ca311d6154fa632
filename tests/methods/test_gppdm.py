"""What must hold of GPPDM, over whole tasks and in the state that is kept (averaged weights)."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.reference import gpm
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.methods import gppdm as module
from gppdm_pipeline.methods import learn_task

TASKS = ((5, 2), (0,), (7,))
# As much movement as a few steps give, and averages that differ from the last weights.
LIVELY = {"steps": 20, "learning_rate": 3e-2, "weight_decay": 0.2, "ema_decay": 0.8}


@pytest.fixture(scope="module")
def states():
    return learn(gppdm(denoiser=LIVELY), TASKS)


def tokens_of(state, classes):
    """All condition tokens of some classes, float64 [d, n]."""
    tokens = ConditionTable(state.condition, classes, 0, False)(torch.arange(len(classes))).tokens
    return tokens.detach().flatten(0, 1).double().T


def weights_of(state, *kinds):
    """Name -> float64 [out, in], of the cross-attention layers of these kinds."""
    return {
        name.removesuffix(".weight"): tensor.double()
        for name, tensor in state.denoiser.tensors.items()
        if any(name.endswith(f"attn2.{kind}.weight") for kind in kinds)
    }


def moves(before, after, inputs_of, *kinds):
    """Relative change of W x, the largest over the inputs x, for each layer."""
    later = weights_of(after, *kinds)
    found = {}
    for name, weight in weights_of(before, *kinds).items():
        x = inputs_of(name)
        found[name] = float(
            ((later[name] - weight) @ x).norm(dim=0).div((weight @ x).norm(dim=0)).max()
        )
    assert found
    return found


@pytest.mark.parametrize("task", [2, 3])
def test_old_keys_and_values_stay(states, task):
    before, after = states[task - 1], states[task]
    for old in before.classes:  # those of task 1 too, two tasks later
        tokens = tokens_of(before, [old])
        assert torch.equal(tokens, tokens_of(after, [old]))
        changes = moves(before, after, lambda _, x=tokens: x, "to_k", "to_v")
        assert len(changes) == 8
        assert max(changes.values()) <= 1e-5
    new = tokens_of(after, [label for label in after.classes if label not in before.classes])
    assert min(moves(before, after, lambda _: new, "to_k", "to_v").values()) > 1e-2


def test_first_keys_and_values_stay_to_the_end(states):
    tokens = tokens_of(states[1], states[1].classes)
    changes = moves(states[1], states[3], lambda _: tokens, "to_k", "to_v")
    assert max(changes.values()) <= 1e-5


@pytest.mark.parametrize("task", [2, 3])
def test_queries_and_outputs_stay_on_their_bases(states, task):
    before, after = states[task - 1], states[task]
    changes = moves(before, after, lambda name: before.bases[name].double(), "to_q", "to_out.0")
    assert len(changes) == 8
    assert max(changes.values()) <= 1e-5
    moved = moves(before, after, lambda name: torch.eye(16).double(), "to_q", "to_out.0")
    assert min(moved.values()) > 1e-2


def test_without_projection_old_keys_and_values_move():
    free = learn(gppdm(denoiser=LIVELY, projection={"layers": ()}), TASKS[:2])
    tokens = tokens_of(free[1], free[1].classes)
    assert min(moves(free[1], free[2], lambda _: tokens, "to_k", "to_v").values()) > 1e-2


def test_bases_grow_and_lose_nothing(states):
    for before, after in itertools.pairwise(states[1:]):
        assert before.bases.keys() == after.bases.keys()
        for name, basis in after.bases.items():
            old = before.bases[name]
            assert torch.equal(basis[:, : old.shape[1]], old)
            gram = basis.double().T @ basis.double()
            assert (gram - torch.eye(len(gram))).abs().max() <= 1e-6
    for name, basis in states[-1].bases.items():
        if name.endswith(("to_k", "to_v")):
            assert basis.shape == (32, 20)
            tokens = tokens_of(states[-1], states[-1].classes)
            lost = tokens - basis.double() @ (basis.double().T @ tokens)
            assert (lost.norm(dim=0) / tokens.norm(dim=0)).max() <= 1e-5
            assert gpm.held_share(basis, tokens) >= 1 - 1e-6


def test_old_prototypes_are_frozen_and_new_ones_learn(states):
    for before, after in itertools.pairwise(states):
        old = before.condition.prototypes if before.condition else {}
        assert after.condition.prototypes.keys() == set(after.classes)
        for label, prototype in after.condition.prototypes.items():
            start = after.condition.starts[label]
            if label in old:
                assert torch.equal(prototype, old[label])
                assert torch.equal(start, before.condition.starts[label])
                assert torch.equal(
                    after.condition.embeddings[label], before.condition.embeddings[label]
                )
            else:
                assert (prototype - start).abs().mean() > 1e-3
    assert torch.equal(states[1].condition.token_map, states[3].condition.token_map)


def test_a_returning_class_keeps_its_prototype_and_its_keys():
    states = learn(gppdm(denoiser=LIVELY), [(5, 2), (2,)])
    before, after = states[1:]
    assert torch.equal(before.condition.prototypes[2], after.condition.prototypes[2])
    tokens = tokens_of(before, (5, 2))
    assert max(moves(before, after, lambda _: tokens, "to_k", "to_v").values()) <= 1e-5
    assert all(torch.equal(basis, after.bases[name]) for name, basis in before.bases.items())


def test_everything_of_a_class_follows_it_under_any_class_order(states):
    permuted = learn(gppdm(denoiser=LIVELY), [(7,), (2, 0), (5,)])[-1].condition
    plain = states[-1].condition
    assert torch.equal(plain.token_map, permuted.token_map)
    for label in (0, 2, 5, 7):
        assert torch.equal(plain.embeddings[label], permuted.embeddings[label])
        assert torch.equal(plain.starts[label], permuted.starts[label])
        mean = images_of(label).images.mean(0)[None, ..., 0] / 127.5 - 1
        np.testing.assert_allclose(permuted.starts[label], mean, atol=1e-6)
        distances = {
            other: float((permuted.prototypes[label] - start).norm())
            for other, start in plain.starts.items()
        }
        assert min(distances, key=distances.get) == label


@pytest.fixture
def seen(monkeypatch):
    """The images that each classifier is trained on, and the state that it starts from."""
    calls, fit = [], module.fit_classifier

    def spy(state, config, train, *rest, **more):
        calls.append((state, train))
        return fit(state, config, train, *rest, **more)

    monkeypatch.setattr(module, "fit_classifier", spy)
    return calls


def test_generator_first(states, seen):
    """All classes are drawn from the new generator; no real image is among them."""
    method = gppdm(denoiser=LIVELY)
    train = images_of(*TASKS[1])
    after = learn_task(method, states[1], train, train, Context(0, 2))
    [(state, images)] = seen
    assert torch.equal(
        state.denoiser.tensors["conv_in.weight"], after.denoiser.tensors["conv_in.weight"]
    )
    assert {label: (images.labels == label).sum() for label in images.classes} == {0: 3, 2: 3, 5: 3}
    assert not {image.tobytes() for image in images.images} & {x.tobytes() for x in train.images}


def test_classifier_first(seen):
    """As published: this task's images and replay, before the generator has learnt."""
    method = gppdm(order="classifier_first")
    states = learn(method, TASKS[:2])
    assert not method.generator_first
    assert seen[0][0].denoiser is None
    state, images = seen[1]
    assert torch.equal(
        state.denoiser.tensors["conv_in.weight"], states[1].denoiser.tensors["conv_in.weight"]
    )
    replay, _ = method.synthesise_replay(states[1], Context(0, 2))
    train = images_of(*TASKS[1])
    assert images.labels.tolist() == [*train.labels, *replay.labels]
    np.testing.assert_array_equal(images.images, [*train.images, *replay.images])


def test_orders_give_other_generators_the_same_data(states):
    """Generator and bases do not depend on the classifier, so not on the order either."""
    published = learn(gppdm(denoiser=LIVELY, order="classifier_first"), TASKS)[-1]
    for name, tensor in states[-1].denoiser.tensors.items():
        assert torch.equal(tensor, published.denoiser.tensors[name]), name


@pytest.mark.parametrize("start", ["most_confident", "least_confident"])
def test_starts_that_ask_the_classifier(start):
    method = gppdm(order="classifier_first", prototypes={"start": start})
    state = learn(method, TASKS[:2])[-1]
    for label, tensor in state.condition.starts.items():
        pixels = ((tensor + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert any((pixels == image).all() for image in images_of(label).images)


@pytest.mark.parametrize("start", ["most_confident", "least_confident"])
def test_starts_that_ask_the_classifier_need_one(start):
    text = (
        rf"prototypes.start is '{start}', which asks a classifier .* order is 'generator_first'; "
        r"use order: classifier_first, or prototypes.start: class_mean or noise"
    )
    with pytest.raises(ValidationError, match=text):
        gppdm(prototypes={"start": start})


def test_null_conditions_with_prototypes_leave_old_keys_and_values(states):
    method = gppdm(denoiser={**LIVELY, "label_dropout": 0.5}, condition={"null_keeps_prototype": 1})
    before, after = learn(method, TASKS[:2])[1:]
    tokens = tokens_of(before, before.classes)
    assert max(moves(before, after, lambda _: tokens, "to_k", "to_v").values()) <= 1e-5


@pytest.mark.parametrize("layers", [("k", "v"), ("v",), ()])
@pytest.mark.parametrize("route", ["both", "none"])
def test_drift_of_old_keys_and_values_is_logged(layers, route):
    """For every method with a diffusion generator, whatever is projected."""
    method = gppdm(denoiser=LIVELY, prototypes={"route": route}, projection={"layers": layers})
    before, train = learn(method, TASKS[:1])[-1], images_of(*TASKS[1])
    replay, _ = method.synthesise_replay(before, Context(0, 2))
    after, log = method.train_generator(before, train, replay, Context(0, 2))
    drift = {name: value for name, value in log.metrics.items() if "_drift/" in name}
    tokens = tokens_of(before, before.classes)
    weights = [weights_of(state, "to_k", "to_v") for state in (before, after)]
    assert len(drift) == len(weights[0]) == 8
    for name, weight in weights[0].items():
        kind = "key" if name.endswith("to_k") else "value"
        moved, start = (weights[1][name] - weight) @ tokens, weight @ tokens
        expected = (moved.square().sum() / start.square().sum()).sqrt()
        assert drift[f"{kind}_drift/{name}"] == pytest.approx(float(expected), rel=1e-6)
        if name[-1] in layers:
            assert expected <= 1e-5
        else:
            assert expected > 1e-3


def test_ranks_and_losses_are_logged(states):
    method, train = gppdm(denoiser=LIVELY), images_of(*TASKS[0])
    _, log = method.train_generator(
        LearnerState.empty(), train, train.of_classes([]), Context(0, 1)
    )
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    assert log.metrics[f"basis_rank/{name}"] == 10
    assert log.metrics[f"basis_free/{name}"] == 1
    assert [step for step, _ in log.curves["denoiser_loss"]] == [10, 20]
    assert not any("_drift/" in name for name in log.metrics)  # nothing is old yet


@pytest.mark.parametrize("route", ["concat", "tokens", "none"])
def test_every_route_keeps_old_keys_and_values(route):
    states = learn(gppdm(denoiser=LIVELY, prototypes={"route": route}), TASKS[:2])
    tokens = tokens_of(states[1], states[1].classes)
    assert tokens.shape[1] == (10 if route == "tokens" else 2)
    changes = moves(states[1], states[2], lambda _: tokens, "to_k", "to_v")
    assert max(changes.values()) <= 1e-5


def test_guidance_needs_the_null_condition():
    with pytest.raises(ValidationError, match=r"(?s)guidance is 1, .*use denoiser.label_dropout"):
        gppdm(replay={"guidance": 1.0}, denoiser={"label_dropout": 0.0})


@pytest.mark.parametrize(("setting", "off"), [("texture", "false"), ("redraw", "0")])
def test_what_is_for_generated_images(setting, off):
    match = f"{setting} is set, .*use order: generator_first, or {setting}: {off}"
    with pytest.raises(ValidationError, match=match):
        gppdm(order="classifier_first", **{setting: 0.5 if setting == "redraw" else True})


@pytest.mark.parametrize("most", [3, 5])
def test_new_classes_are_this_tasks_images_drawn_anew(monkeypatch, most):
    """With all but no noise they are these images, other ones each, as many as are asked for."""
    seen = []

    def fit(state, config, images, *rest, **more):
        seen.append(images)
        return state, None

    settings = gppdm(redraw=1 - 1e-9, redraw_images=most, denoiser={"steps": 40})
    first = learn(gppdm(), [(5, 2)])[1]
    train, context = images_of(0), Context(0, 2)
    replay, _ = settings.synthesise_replay(first, context)
    state, _ = settings.train_generator(first, train, replay, context)
    monkeypatch.setattr(module, "fit_classifier", fit)
    settings.train_classifier(state, train, train, replay, context)
    (images,) = seen
    assert sorted(images.labels.tolist()) == [0] * most + [2, 2, 2, 5, 5, 5]
    given, drawn = (x.images.astype(int) for x in (train, images.of_classes([0])))
    far = np.abs(drawn[:, None] - given[None]).mean((2, 3, 4))
    assert len(set(far.argmin(1))) == most
    assert far.min(1).max() < 12  # other images of the class are 27 away
