"""Adapters: the trunk does not move, and what an adapter says is what it has learnt."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from tests.reference.tiny import SHAPE, gppdm, images_of
from torch import nn

from gppdm_pipeline.algorithm.context import Context, autocast
from gppdm_pipeline.algorithm.diffusion.adapters import (
    AdapterConfig,
    adapter_of,
    adapter_shapes,
    attach,
    merged,
)
from gppdm_pipeline.algorithm.diffusion.network import (
    DenoiserConfig,
    build_unet,
    unet_config,
)
from gppdm_pipeline.algorithm.fitting.average import Average
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.muon import Muon
from gppdm_pipeline.algorithm.generator import learn
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

RANK = 3
KINDS = {
    "low": AdapterConfig(rank=RANK),
    "full": AdapterConfig(rank="full"),
    "four bits": AdapterConfig(rank="full", bits=4),
    "low, no attention": AdapterConfig(rank=RANK, attention=False),
    "no attention": AdapterConfig(rank="full", bits=4, attention=False),
}


def muon(parameters):
    matrices = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "matrices": True}, {"params": rest, "matrices": False}]
    return Muon(groups, lr=0.02, weight_decay=0.3)


OPTIMISERS = {
    "muon": muon,
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
}


@pytest.fixture(scope="module")
def trunk():
    config = DenoiserConfig(channels=(8, 16), condition_dim=16, heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**unet_config(config, (8, 8, 1), True))
    return Weights(
        {name: value for name, value in unet.config.items() if not name.startswith("_")},
        {name: value.detach().clone() for name, value in unet.state_dict().items()},
    )


def inputs():
    generator = torch.Generator().manual_seed(1)
    x, tokens = (torch.randn(shape, generator=generator) for shape in ((4, 2, 8, 8), (4, 3, 16)))
    return x, torch.tensor([0, 300, 600, 999]), tokens


def said(unet):
    with torch.no_grad():
        return unet(*inputs(), return_dict=False)[0]


def trained(trunk, kind, optimiser="adamw", start=None, steps=4, precision="float32"):
    """A network whose adapter has learnt, with its averaged parameters."""
    unet = build_unet(trunk)
    attach(unet, KINDS[kind], torch.Generator().manual_seed(2), start)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    move, average = OPTIMISERS[optimiser](parameters), Average(parameters, 0.5)
    for _ in range(steps):
        move.zero_grad()
        with autocast(torch.device("cpu"), precision):
            loss = (unet(*inputs(), return_dict=False)[0].float() - 1).square().mean()
        loss.backward()
        move.step()
        average.update()
    average.apply()
    return unet


def test_it_begins_as_the_trunk(trunk):
    unet = build_unet(trunk)
    before = said(unet)
    attach(unet, KINDS["low"], torch.Generator().manual_seed(2))
    assert torch.equal(said(unet), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_adapter_learns(trunk, kind, optimiser, precision):
    before = {name: tensor.clone() for name, tensor in trunk.tensors.items()}
    unet = trained(trunk, kind, optimiser, precision=precision)
    adapter = adapter_of(unet, trunk, KINDS[kind])
    assert trunk.tensors.keys() == before.keys()
    assert all(torch.equal(trunk.tensors[name], tensor) for name, tensor in before.items())
    for name, module in unet.named_modules():
        if name.endswith(".parametrizations.weight.0"):
            layer = name.removesuffix(".parametrizations.weight.0")
            assert torch.equal(module.start, before[f"{layer}.weight"])
    assert merged(trunk, None) is trunk
    moved = merged(trunk, adapter).tensors
    still = [name for name, tensor in before.items() if torch.equal(moved[name], tensor)]
    # A bias in front of a softmax or a norm over its channel alone has no effect; here none is so.
    blocks = [name for name in before if ".attentions." in name]
    assert blocks
    assert still == ([] if KINDS[kind].attention else blocks)


@pytest.mark.parametrize(("kind", "off"), [("low", 0.01), ("full", 0.01), ("four bits", 0.1)])
def test_merged_weights_say_what_was_learnt(trunk, kind, off):
    unet = trained(trunk, kind)
    alone = build_unet(merged(trunk, adapter_of(unet, trunk, KINDS[kind])))
    moved = (said(alone) - said(build_unet(trunk))).abs().max()
    # float16 has 11 bits: of what was learnt, no more than a hundredth may be off.
    assert (said(alone) - said(unet)).abs().max() <= off * moved
    assert moved > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_has_the_tensors_that_are_expected_of_it(trunk, kind):
    adapter = adapter_of(trained(trunk, kind), trunk, KINDS[kind])
    shapes = {name: list(tensor.shape) for name, tensor in adapter.tensors.items()}
    assert adapter_shapes(build_unet(trunk), adapter.config) == shapes
    kinds = {tensor.dtype for tensor in adapter.tensors.values()}
    assert kinds == {torch.float16, *([torch.uint8] if KINDS[kind].bits == 4 else [])}


def test_layers_that_meet_pixels_or_the_noise_level_are_kept_in_16_bits(trunk):
    adapter = adapter_of(trained(trunk, "four bits"), trunk, KINDS["four bits"])
    whole = {n for n, t in adapter.tensors.items() if t.dtype == torch.float16 and t.ndim > 1}
    ends = {f"conv_{end}.weight" for end in ("in", "out")}
    assert whole == ends | {f"time_embedding.linear_{i}.weight" for i in (1, 2)}


def test_an_update_has_the_rank_asked_for(trunk):
    adapter = adapter_of(trained(trunk, "low"), trunk, KINDS["low"])
    for name, tensor in merged(trunk, adapter).tensors.items():
        if tensor.ndim > 1:
            update = (tensor - trunk.tensors[name]).flatten(1).double()
            values = torch.linalg.svdvals(update)
            # Beyond the rank is what float32 rounds off W_0 + B A: 1e-7 of weights up to about 1.
            assert (values[RANK:] <= 1e-6).all(), name
            assert values[0] > 1e-4, name
    factors = {name: tensor for name, tensor in adapter.tensors.items() if tensor.ndim > 1}
    assert {name.rpartition(".")[2] for name in factors} == {"up", "down"}
    assert factors["conv_out.up"].shape == (1, 1)  # no more than the matrix has


def test_what_learns_is_of_unit_size_and_what_is_kept_is_the_factor_itself(trunk):
    unet = build_unet(trunk)
    attach(unet, KINDS["low"], torch.Generator().manual_seed(0))
    kept = adapter_of(unet, trunk, KINDS["low"]).tensors
    for name, layer in unet.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        learning = dict(layer.named_parameters())["parametrizations.weight.original1"]
        assert 0.5 < learning.abs().max() <= 1
        expected = (learning / learning.shape[1] ** 0.5).half()
        assert torch.equal(kept[f"{name}.down"], expected)


def test_one_adapter_begins_where_another_ended(trunk):
    for key, kind in KINDS.items():
        first = adapter_of(trained(trunk, key), trunk, kind)
        unet = build_unet(trunk)
        attach(unet, kind, torch.Generator().manual_seed(3), first)
        again = adapter_of(unet, trunk, kind)
        assert again.tensors.keys() == first.tensors.keys()
        for name, tensor in first.tensors.items():
            # W_0 + d - W_0 is d but for the rounding of W_0, and that of d to float16 once more.
            torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-3, atol=1e-6)


def test_only_layers_and_vectors_have_weights(trunk):
    """Else an adapter would have to say what it does to a matrix that is no layer's."""
    unet = build_unet(trunk)
    layers = {n for n, m in unet.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    others = [
        name
        for name, parameter in unet.named_parameters()
        if parameter.ndim > 1 and name.rpartition(".")[0] not in layers
    ]
    assert not others


@pytest.mark.parametrize(("last", "told"), [(0.5, True), (0.2, False)])
def test_a_generator_that_has_not_learnt_is_told(last, told, monkeypatch, caplog):
    def trained(objective, moving, labels, budget, context, stage):
        curve = [(10 * i, last if i > 8 else 0.3) for i in range(1, 11)]
        return StageLog({}, {"denoiser_loss": curve})

    monkeypatch.setattr(learn, "fit", trained)
    state = LearnerState.empty()
    for task, labels in ((1, (0, 1)), (2, (2, 3))):
        given = images_of(*labels), LabelledImages.empty(SHAPE), Context(0, task)
        state, _ = gppdm(memory="adapters").train_generator(state, *given)
    expected = ["generator of task 1 has not learnt", "generator of task 2 has not learnt"]
    assert [text in caplog.text for text in expected] == [told, told]


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [({}, None), ({"attention": True}, None), ({"attention": False}, False)],
)
def test_a_setting_that_came_later_is_recorded_only_where_it_says_something_else(
    settings, recorded
):
    record = AdapterConfig(**settings).model_dump(mode="json")
    assert record.get("attention") is recorded
    with pytest.raises(ValidationError, match="frozen"):
        AdapterConfig().rank = 8
