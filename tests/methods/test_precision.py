"""What must hold of GPPDM (docs/method.md) in every precision and combination of options.

Weights that are kept are float32; what is compared is what they make of float32 tokens.
"""

import itertools

import pytest
import torch
from tests.methods.test_gppdm import moves, tokens_of
from tests.reference.tiny import differences, gppdm, images_of, learn

from gppdm_pipeline.algorithm.classifier.network import cross_entropy
from gppdm_pipeline.algorithm.context import CPU, Context, autocast
from gppdm_pipeline.algorithm.diffusion.projection import input_moments
from gppdm_pipeline.methods import learn_task

TASKS = ((5, 2), (0,))
STEPS = {"steps": 6, "learning_rate": 3e-2}
NONE = {"weight_decay": 0.0, "gradient_clip": 1e6, "ema_decay": 0.0, "distillation": 0.0}
LOOPS = {
    "decay": {**NONE, "weight_decay": 0.3},
    "clip": {**NONE, "gradient_clip": 0.1},
    "average": {**NONE, "ema_decay": 0.8},
    "all": {
        "weight_decay": 0.3,
        "gradient_clip": 0.1,
        "ema_decay": 0.8,
        "distillation": 0.5,
        "label_dropout": 0.2,
    },
}
ROUTES = ("concat", "tokens", "both", "none")
LAYERS = (("q",), ("k",), ("v",), ("out",), ("k", "v"), ("q", "k", "v", "out"))
PRECISIONS = ("float32", "bfloat16")
FEW = [
    *((route, LAYERS[-1], "bfloat16", "all") for route in ROUTES),
    *(("both", layers, "bfloat16", "all") for layers in LAYERS[:-1]),
    *(("both", LAYERS[-1], precision, loop) for precision in PRECISIONS for loop in LOOPS),
]
ALL = list(itertools.product(ROUTES, LAYERS, PRECISIONS, LOOPS))


def two_tasks(method, precision):
    states = learn(method, TASKS[:1], precision=precision)
    train = images_of(*TASKS[1])
    context = Context(0, 2, precision=precision)
    return states[1], learn_task(method, states[1], train, train, context)


def check(route, layers, precision, loop):
    method = gppdm(
        denoiser={**STEPS, **LOOPS[loop]},
        prototypes={"route": route},
        projection={"layers": layers, "energy_q": 0.9, "energy_out": 0.9},
    )
    before, after = two_tasks(method, precision)
    tokens = tokens_of(before, before.classes)
    assert torch.equal(tokens, tokens_of(after, before.classes))  # nor do old prototypes move
    for kind, part in (("k", "to_k"), ("v", "to_v")):
        if kind in layers:
            assert max(moves(before, after, lambda _: tokens, part).values()) <= 1e-5
    for name, basis in before.bases.items():
        start, end = (s.denoiser.tensors[f"{name}.weight"].double() for s in (before, after))
        kept = basis.double()
        assert ((end - start) @ kept).norm() <= 1e-5 * (start @ kept).norm()
        assert (kept.T @ kept - torch.eye(kept.shape[1])).abs().max() <= 1e-6
        assert torch.equal(after.bases[name][:, : kept.shape[1]], basis)
    if "v" in layers:  # what is new can be learnt
        new = tokens_of(after, (0,))
        assert min(moves(before, after, lambda _: new, "to_v").values()) > 1e-3
    if route != "none":
        start, end = (getattr(after.condition, part)[0] for part in ("starts", "prototypes"))
        assert not torch.equal(start, end)


@pytest.mark.parametrize(("route", "layers", "precision", "loop"), FEW)
def test_what_must_hold(route, layers, precision, loop):
    check(route, layers, precision, loop)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "layers", "precision", "loop"), [case for case in ALL if case not in FEW]
)
def test_what_must_hold_of_every_other_combination(route, layers, precision, loop):
    check(route, layers, precision, loop)


def test_same_seed_same_bits_in_bfloat16_and_others_in_float32():
    method = gppdm(denoiser=STEPS)
    one, again = (two_tasks(method, "bfloat16")[1] for _ in range(2))
    assert differences(one, again) == []
    assert "denoiser/conv_in.weight" in differences(one, two_tasks(method, "float32")[1])
    tensors = [*one.denoiser.tensors.values(), *one.classifier.tensors.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_losses_and_bases_are_not_rounded():
    network, x = torch.nn.Linear(8, 3), torch.randn(5, 8)
    with autocast(CPU, "bfloat16"):
        loss = cross_entropy(network, x, torch.tensor([0, 1, 2, 0, 1]))
        moments = input_moments({"a": network}, lambda: network(x))["a"]
        assert network(x).dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    exact = x.double().T @ x.double()
    torch.testing.assert_close(moments, exact, rtol=1e-12, atol=1e-12)
