"""Each class's prototype tokens through an isometry of their own (`prototypes.tokens: turned`)."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from tests.reference import gpm
from tests.reference.tiny import differences, gppdm, images_of, learn

from gppdm_pipeline.algorithm.condition.table import ConditionTable, make_turn, prototype_tokens
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import learn_task
from gppdm_pipeline.serving.conditions import Conditions

TASKS = ((5, 2), (0,), (2, 7))  # class 2 comes back
LIVELY = {"steps": 20, "learning_rate": 3e-2, "weight_decay": 0.2, "ema_decay": 0.8}
TURNED = {"prototypes": {"route": "tokens", "tokens": "turned"}}
DIM = 384


def turned(**changes):
    return gppdm(**TURNED, **changes)


def tokens_of(state, label):
    """Of its prototype, [patches, d]."""
    table = ConditionTable(state.condition, (label,), 0, False)
    return table(torch.tensor([0])).tokens[0, 1:].detach()


@pytest.fixture(scope="module")
def states():
    return learn(turned(denoiser=LIVELY), TASKS)


@pytest.mark.parametrize("rows", [[2], [1, 0, 1, 2, 0]])
def test_tokens_are_those_of_their_class_whatever_is_asked_for_with_it(states, rows):
    condition, classes = states[-1].condition, (5, 2, 0)
    named = {"embedding": condition.embeddings, "prototype": condition.prototypes}
    named["turn"] = condition.turns
    tensors = {f"{kind}.{k}": of[k] for kind, of in named.items() for k in classes}
    tensors["token_map"] = condition.token_map
    published = Conditions(tensors, classes, {"concatenates": False}, CPU)
    for table in (ConditionTable(condition, classes, 0, False), partial(published, kept=None)):
        tokens, which, _ = table(torch.tensor(rows))
        for row, of_row in zip(rows, tokens[which], strict=True):
            expected = tokens_of(states[-1], classes[row])
            torch.testing.assert_close(of_row[1:].detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 9, 384])
def test_a_turn_is_an_isometry(dim):
    turn = make_turn(dim, torch.Generator().manual_seed(4))
    assert turn.dtype == torch.int32
    assert turn.abs().sort().values.tolist() == list(range(1, dim + 1))
    assert dim < 9 or 0 < (turn > 0).sum() < dim
    prototypes = torch.randn(dim, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    token_map = torch.randn(4, dim, 4, generator=torch.Generator().manual_seed(1))
    plain = prototype_tokens(prototypes, token_map)
    found = prototype_tokens(prototypes, token_map, turn.expand(dim, dim))
    matrix = torch.zeros(dim, dim)
    for i, entry in enumerate(turn.tolist()):
        matrix[i, abs(entry) - 1] = 1 if entry > 0 else -1
    assert torch.equal(found, plain @ matrix.T)
    assert torch.equal(matrix @ matrix.T, torch.eye(dim))


def digits_with(tokens):
    """The condition of all digits, a task each, before anything is trained."""
    images, labels = load_digits(return_X_y=True)
    grey = (images / 16 * 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    settings = gppdm(
        prototypes={"route": "tokens", "tokens": tokens}, denoiser={"condition_dim": DIM}
    )
    state = LearnerState.empty()
    for number, label in enumerate((8, 1, 2, 3, 4, 5, 6, 7, 0, 9), start=1):
        of_class = LabelledImages(grey, labels).of_classes([label])
        state = state.begin(number, (label,), (8, 8, 1))
        state = add_classes(state, of_class, settings, Context(0, number))
    return state


def test_tokens_of_classes_are_no_longer_collinear_and_new_ones_lie_outside_the_span_of_old_ones():
    cosines, outside = {}, {}
    for tokens in ("plain", "turned"):
        state = digits_with(tokens)
        shown = torch.stack([tokens_of(state, label) for label in state.classes])
        units = torch.nn.functional.normalize(shown, dim=2)
        among = torch.einsum("apd,bpd->pab", units, units).abs()  # of the same patch
        pairs = torch.triu_indices(10, 10, offset=1)
        cosines[tokens] = float(among[:, pairs[0], pairs[1]].mean())
        basis = torch.linalg.qr(shown[:9].flatten(0, 1).T)[0]
        outside[tokens] = 1 - gpm.held_share(basis, shown[9].T)
    expected = (2 / np.pi / DIM) ** 0.5  # of directions drawn at random
    assert cosines["turned"] == pytest.approx(expected, rel=0.2)
    assert cosines["plain"] > 10 * expected
    assert outside["turned"] == pytest.approx(1 - 36 / DIM, abs=0.02)
    assert outside["plain"] < 0.1


def test_a_turn_is_of_seed_and_class_and_stays(states):
    again = learn(turned(denoiser=LIVELY), ((7,), (0, 5)))[-1].condition.turns
    turns = states[-1].condition.turns
    assert turns.keys() == {5, 2, 0, 7}
    assert again.keys() == {7, 0, 5}
    assert all(torch.equal(turns[label], again[label]) for label in again)
    assert not torch.equal(turns[5], turns[2])
    other = learn(turned(), ((5,),), seed=1)[-1].condition.turns
    assert not torch.equal(turns[5], other[5])
    for before, after in pairwise(states[1:]):
        assert before.condition.turns.keys() == set(before.classes)
        for label in before.classes:
            assert torch.equal(tokens_of(before, label), tokens_of(after, label))


def test_keys_and_values_of_old_classes_stay(states):
    before, after = states[1:3]
    weights = [name for name in after.denoiser.tensors if "attn2.to_k" in name or "2.to_v" in name]
    assert len(weights) == 8
    for name in weights:
        moved = after.denoiser.tensors[name] - before.denoiser.tensors[name]
        for label, stays in ((5, True), (0, False)):
            tokens = tokens_of(after, label)
            change = (tokens @ moved.T).norm() / (tokens @ after.denoiser.tensors[name].T).norm()
            assert (change < 1e-5) if stays else (change > 1e-2)


def test_a_state_keeps_them_on_disk_and_goes_on_with_them(states, tmp_path):
    save_state(states[2], tmp_path)
    read = load_state(tmp_path)
    assert differences(read, states[2]) == []
    train = images_of(*TASKS[2])
    after = learn_task(turned(denoiser=LIVELY), read, train, train, Context(0, 3))
    assert differences(after, states[3]) == []
    bare = replace(states[2], condition=replace(states[2].condition, turns={}))
    assert states[2].bytes() - bare.bytes() == 3 * 4 * 32  # three classes, 32 numbers of 32 bits


def test_old_classes_of_a_state_without_them_stay_as_they_are():
    plain = learn(gppdm(prototypes={"route": "tokens"}), TASKS[:1])[-1]
    train = images_of(0)
    after = learn_task(turned(), plain, train, train, Context(0, 2))
    assert after.condition.turns.keys() == {0}
    together = ConditionTable(after.condition, (5, 2, 0), 0, False)(torch.arange(3)).tokens
    for row, label in enumerate((5, 2)):
        torch.testing.assert_close(together[row, 1:], tokens_of(plain, label))
    torch.testing.assert_close(together[2, 1:], tokens_of(after, 0))


def test_plain_tokens_leave_no_trace():
    method = gppdm(prototypes={"route": "tokens", "tokens": "plain"})
    assert "tokens" not in method.model_dump(mode="json")["prototypes"]
    assert learn(method, TASKS[:1])[-1].condition.turns == {}
    assert turned().model_dump(mode="json")["prototypes"]["tokens"] == "turned"


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("rows", [[2, 0, 2, 1, 2], [2, 1]])
def test_tokens_of_images_and_null_conditions_are_those_of_each_class(states, rows, keeps):
    condition, classes = states[-1].condition, (5, 0, 7)
    table = ConditionTable(condition, classes, 1, False, null_keeps_prototype=keeps)
    kept = torch.tensor([True, False, False, True, True])[: len(rows)]
    tokens = table(torch.tensor(rows), kept).of(slice(None)).tokens
    for place, row in enumerate(rows):
        expected = tokens_of(states[-1], classes[row])
        if not kept[place]:
            assert not tokens[place, 0].any()
            expected = expected if keeps else torch.zeros_like(expected)
        torch.testing.assert_close(tokens[place, 1:], expected)


def test_replay_that_is_kept_is_known_by_them(tmp_path):
    method = turned(memory="adapters")
    state = learn(method, ((5,),))[-1]
    kept = Context(0, 2, drawn=Scratch(tmp_path, 3600).drawn)
    first = method.synthesise_replay(state, kept)[0].images
    swapped = replace(state.condition, turns={5: make_turn(32, torch.Generator())})
    other = replace(state, condition=swapped)
    second = method.synthesise_replay(other, kept)[0].images
    assert np.array_equal(second, method.synthesise_replay(other, Context(0, 2))[0].images)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("route", ["none", "concat"])
def test_there_must_be_tokens_to_turn(route):
    with pytest.raises(ValidationError, match=f"tokens is 'turned', but .* is '{route}'"):
        gppdm(prototypes={"route": route, "tokens": "turned"})


def test_unknown_values_are_refused():
    with pytest.raises(ValidationError, match="'plain' or 'turned'"):
        gppdm(prototypes={"tokens": "whitened"})
