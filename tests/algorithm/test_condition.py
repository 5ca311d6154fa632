import numpy as np
import pytest
import torch

from gppdm_pipeline.algorithm.condition.table import (
    ConditionTable,
    check_token_side,
    label_codes,
    make_token_map,
    prototype_tokens,
)
from gppdm_pipeline.algorithm.state import Condition

SHAPE, SIDE, DIM = (6, 4, 3), 2, 16
CLASSES = (7, 2, 5)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(learnable=1, concatenates=True, side=SIDE, **options):
    generator = torch.Generator().manual_seed(0)
    codes = label_codes(DIM, seeded(0))
    condition = Condition(
        {k: codes[k] for k in CLASSES},
        make_token_map(SHAPE, side, DIM, seeded(0)),
        {k: torch.randn(3, 6, 4, generator=generator) for k in CLASSES},
    )
    return ConditionTable(condition, CLASSES, learnable, concatenates, **options), condition


def test_rows_are_classes():
    conditions, condition = table()
    tokens, _, image = conditions(torch.tensor([2, 0])).of(slice(None))
    assert tokens.shape == (2, 1 + SIDE**2, DIM)
    for place, label in enumerate((5, 7)):
        assert torch.equal(tokens[place, 0], condition.embeddings[label])
        assert torch.equal(image[place], condition.prototypes[label])
    expected = prototype_tokens(image, condition.token_map)
    torch.testing.assert_close(tokens[:, 1:], expected)


def test_routes():
    tokens, _, image = table(concatenates=False, side=0)[0](torch.tensor([1]))
    assert tokens.shape == (1, 1, DIM)
    assert image is None


def test_null_condition_is_zero_and_so_are_its_keys():
    conditions, condition = table()
    rows, kept = torch.tensor([0, 1, 2]), torch.tensor([True, False, False])
    tokens, _, image = conditions(rows, kept).of(slice(None))
    assert not tokens[1:].any()
    assert not image[1:].any()
    assert not torch.nn.functional.linear(tokens[1:], torch.randn(8, DIM)).any()
    assert torch.equal(image[0], condition.prototypes[7])
    assert tokens[0].any(dim=1).all()


@pytest.mark.parametrize("concatenates", [False, True])
@pytest.mark.parametrize("side", [0, SIDE])
def test_a_null_condition_may_keep_the_prototype(concatenates, side):
    conditions, _ = table(concatenates=concatenates, side=side, null_keeps_prototype=True)
    rows, kept = torch.tensor([0, 1, 2]), torch.tensor([True, False, False])
    tokens, _, image = conditions(rows, kept).of(slice(None))
    whole, _, whole_image = conditions(rows).of(slice(None))
    assert torch.equal(tokens[0], whole[0])
    assert not tokens[1:, 0].any()
    assert torch.equal(tokens[:, 1:], whole[:, 1:])
    assert image is None if not concatenates else torch.equal(image, whole_image)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("rows", [[2, 0, 2, 1, 2], [2, 1]])
@pytest.mark.parametrize("kept", [None, [True, False, True, False, False]])
def test_shared_tokens_are_those_of_each_image(rows, kept, keeps):
    conditions, condition = table(null_keeps_prototype=keeps)
    kept = None if kept is None else torch.tensor(kept[: len(rows)])
    tokens, which, image = conditions(torch.tensor(rows), kept)
    crowded = len(CLASSES) > len(rows)
    known = len(rows) if crowded else len(CLASSES)
    nulls = 0 if kept is None else known if keeps else 1
    assert len(tokens) == known + nulls
    for place, row in enumerate(rows):
        label = CLASSES[row]
        prototype = condition.prototypes[label][None]
        parts = condition.embeddings[label][None], prototype_tokens(prototype, conditions.token_map)
        expected = torch.cat([parts[0], parts[1][0]])
        if kept is not None and not kept[place]:
            expected = expected.clone()
            expected[: 1 if keeps else None] = 0
        torch.testing.assert_close(tokens[which[place]], expected)
        shown = kept is None or keeps or kept[place]
        torch.testing.assert_close(image[place], prototype[0] * bool(shown))


def test_old_tokens_do_not_move_whatever_is_learnt():
    conditions, _ = table()
    old = torch.tensor([0, 1])
    before = [part.detach().clone() for part in conditions(old)]
    new_before = conditions(torch.tensor([2])).tokens
    optimiser = torch.optim.AdamW(conditions.parameters(), lr=1.0, weight_decay=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        tokens, _, image = conditions(torch.tensor([0, 1, 2]))
        (tokens.square().sum() + image.square().sum()).backward()
        optimiser.step()
    after = conditions(old)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(conditions(torch.tensor([2])).tokens, new_before)


def test_gradient_goes_to_the_classes_in_the_batch():
    conditions, _ = table(learnable=2)
    conditions(torch.tensor([0, 2, 2])).of(slice(None)).tokens.square().sum().backward()
    received = conditions.new_prototypes.grad.flatten(1).any(dim=1)
    assert received.tolist() == [False, True]  # classes 2 and 5


def test_prototype_tokens_against_a_loop():
    prototypes = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(1))
    token_map = make_token_map(SHAPE, SIDE, DIM, seeded(0))
    tokens = prototype_tokens(prototypes, token_map).numpy()
    for b in range(2):
        for row in range(SIDE):
            for column in range(SIDE):
                place = row * SIDE + column
                patch = prototypes[b, :, row * 3 : row * 3 + 3, column * 2 : column * 2 + 2]
                expected = token_map[place].double() @ patch.reshape(-1).double()
                np.testing.assert_allclose(tokens[b, place], expected, atol=1e-5)


def test_token_map_is_fixed_and_of_unit_scale():
    token_map = make_token_map((16, 16, 3), 2, 64, seeded(3))
    assert torch.equal(token_map, make_token_map((16, 16, 3), 2, 64, seeded(3)))
    assert not torch.equal(token_map, make_token_map((16, 16, 3), 2, 64, seeded(4)))
    assert token_map.shape == (4, 64, 192)
    patches = torch.randn(500, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert prototype_tokens(patches, token_map).std() == pytest.approx(1, abs=0.05)
    assert (token_map[0] * token_map[1]).sum(1).abs().max() < 0.5  # no patch is mapped as another


def test_label_codes_are_orthonormal():
    codes = label_codes(32, seeded(1))
    assert codes.dtype == torch.float32
    gram = codes.double() @ codes.double().T / 32
    assert (gram - torch.eye(32)).abs().max() <= 1e-6
    assert torch.equal(codes, label_codes(32, seeded(1)))
    assert not torch.equal(codes, label_codes(32, seeded(2)))


def test_patches_that_do_not_fit():
    with pytest.raises(ValueError, match=r"6x4 cannot be cut into 3x3 patches; .*token_side"):
        check_token_side((6, 4, 3), 3)
