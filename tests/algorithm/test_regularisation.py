"""LwF and EWC against reference/regularisation.py."""

import pytest
import torch
from tests.reference import regularisation as reference
from tests.reference.tiny import SHAPE, images_of, learn

from gppdm_pipeline.algorithm.classifier.growth import tensors_of
from gppdm_pipeline.algorithm.classifier.network import (
    build_classifier,
)
from gppdm_pipeline.algorithm.classifier.networks import SmallConvNet
from gppdm_pipeline.algorithm.classifier.regularisation import (
    competing_outputs,
    fisher_diagonal,
    quadratic_penalty,
    with_distillation,
    with_soft_labels,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.state import Weights
from gppdm_pipeline.methods import Method

SMALL = {"width": 8, "steps": 2, "batch_size": 4}
LONGER = {"width": 8, "steps": 40, "batch_size": 8}


def network_of(classes, seed):
    torch.manual_seed(seed)
    network = SmallConvNet(SHAPE, 8, classes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def state_with(network, *tasks):
    state = learn(Method.model_validate({"name": "finetune", "classifier": SMALL}), tasks)[-1]
    config = {"image_shape": list(SHAPE), "width": 8, "classes": len(state.classes)}
    object.__setattr__(state, "classifier", Weights(config, tensors_of(network)))
    return state


@pytest.mark.parametrize("grown", [0, 2])
def test_ewc_penalty(grown):
    before, now = network_of(3, 0), network_of(3 + grown, 1)
    anchor = tensors_of(before)
    importance = {name: torch.rand_like(value) for name, value in anchor.items()}
    expected = reference.ewc_penalty(tensors_of(now), anchor, importance)
    assert quadratic_penalty(now, anchor, importance).item() == pytest.approx(expected, rel=1e-5)
    assert quadratic_penalty(before, anchor, importance).item() == 0


def test_ewc_penalty_pulls_back_to_the_anchor():
    before, now = network_of(3, 0), network_of(4, 1)
    anchor = tensors_of(before)
    importance = {name: torch.rand_like(value) for name, value in anchor.items()}
    quadratic_penalty(now, anchor, importance).backward()
    for name, parameter in now.named_parameters():
        old = len(anchor[name])
        expected = importance[name] * (parameter[:old] - anchor[name])
        torch.testing.assert_close(parameter.grad[:old], expected.detach())
        assert not parameter.grad[old:].any()


def test_fisher_diagonal(monkeypatch):
    network, images = network_of(4, 0), images_of(1, 2, 3, per_class=30)
    weights = Weights({"image_shape": list(SHAPE), "width": 8, "classes": 4}, tensors_of(network))
    drawn = []
    multinomial = torch.multinomial

    def spy(*args, **options):
        drawn.append(multinomial(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "multinomial", spy)
    context = Context(0, 2)
    found = fisher_diagonal(weights, images, 70, context)
    order = torch.randperm(90, generator=context.generator("importance"))[:70]
    x = to_unit_range(images.images[order.numpy()], context.device)
    expected = reference.fisher(network, x, drawn[0].squeeze(1))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
    assert len(set(drawn[0].flatten().tolist())) > 1


@pytest.mark.parametrize(
    ("softmax", "task", "columns"),
    [("current", (7, 1), [1, 3]), ("all", (7, 1), [0, 1, 2, 3]), ("current", (9,), [3])],
)
def test_distillation(softmax, task, columns):
    """A class that comes back (1) competes where its output is."""
    tasks = ((0, 1, 5), task)
    teacher, student = network_of(3, 0), network_of(4, 1)
    before, state = state_with(teacher, tasks[0]), state_with(student, *tasks)
    competing = competing_outputs(state, softmax, torch.device("cpu"))
    objective = with_distillation(before.classifier, 0.7, 3.0, competing)
    data = images_of(*task)
    x = to_unit_range(data.images, torch.device("cpu"))
    outputs = [state.classes.index(label) for label in data.labels]
    expected = reference.lwf_loss(
        student(x).tolist(), teacher(x).tolist(), outputs, columns, 0.7, 3.0
    )
    found = objective(student, x, torch.tensor(outputs)).item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "lwf", "weight": 100, "softmax": "all"},
        {"name": "exemplar", "images": 1, "distillation": 100},
    ],
)
def test_distillation_holds_the_old_outputs(settings):
    data = images_of(5)
    x = to_unit_range(data.images, torch.device("cpu"))
    moved = {}
    key = "weight" if "weight" in settings else "distillation"
    for weight in (0, 100):
        settings = {**settings, key: weight, "classifier": LONGER}
        states = learn(Method.model_validate(settings), ((0, 1), (5,)))
        old, new = (build_classifier(state.classifier)(x)[:, :2] for state in states[1:])
        moved[weight] = float((old.softmax(1) - new.softmax(1)).abs().mean())
    assert moved[100] < moved[0] / 3


def test_ewc_adds_up_importance():
    """Online: F of all tasks so far, of which `decay` fades the earlier ones."""
    kept = {}
    for decay in (0, 0.5, 1):
        settings = {"name": "ewc", "decay": decay, "classifier": SMALL}
        states = learn(Method.model_validate(settings), ((0, 1), (5,)))
        kept[decay] = [state.extras["importance"].tensors for state in states[1:]]
    for name, first in kept[0][0].items():
        old = len(first)
        alone, half, both = (kept[decay][1][name] for decay in (0, 0.5, 1))
        torch.testing.assert_close(both[:old], alone[:old] + first)
        torch.testing.assert_close(half[:old], alone[:old] + first / 2)
        torch.testing.assert_close(both[old:], alone[old:])


def test_ewc_holds_the_weights():
    moved = {}
    for weight in (0, 1e4):
        settings = {"name": "ewc", "weight": weight, "softmax": "all", "classifier": LONGER}
        states = learn(Method.model_validate(settings), ((0, 1), (5,)))
        importance = states[1].extras["importance"].tensors
        now, anchor = (build_classifier(state.classifier) for state in states[:0:-1])
        moved[weight] = quadratic_penalty(now, tensors_of(anchor), importance).item()
    assert moved[1e4] < moved[0] / 3


@pytest.mark.usefixtures("asks_all")
def test_soft_labels():
    """Cross-entropy of all, and T^2 times that of old classes' softened outputs, on old images."""
    before, now, x = network_of(2, 0), network_of(4, 1), torch.rand(6, 1, 8, 8)
    outputs = torch.tensor([0, 3, 1, 2, 1, 0])
    config = {"image_shape": list(SHAPE), "width": 8, "classes": 2}
    objective = with_soft_labels(
        Weights(config, tensors_of(before)),
        weight=0.7,
        temperature=3.0,
        device=torch.device("cpu"),
    )
    logits, said = now(x), before(x)
    expected = sum(
        -logits[i].log_softmax(0)[outputs[i]]
        - (
            0.7 * 9 * ((said[i] / 3).softmax(0) * (logits[i, :2] / 3).log_softmax(0)).sum()
            if outputs[i] < 2
            else 0
        )
        for i in range(6)
    )
    passes = []
    now.register_forward_hook(lambda *_: passes.append(1))
    torch.testing.assert_close(objective(now, x, outputs), expected / 6)
    assert len(passes) == 1
    new = objective(now, x, torch.tensor([2, 3, 2, 3, 2, 3]))
    torch.testing.assert_close(
        new, torch.nn.functional.cross_entropy(logits, torch.tensor([2, 3, 2, 3, 2, 3]))
    )
