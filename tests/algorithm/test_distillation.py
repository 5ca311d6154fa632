"""Generative distillation: what the targets are, for which images, and of which denoiser."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tests.reference.tiny import differences, gppdm, images_of, learn
from torch import nn

from gppdm_pipeline.algorithm.condition.table import Conditions
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.process import Noisy
from gppdm_pipeline.algorithm.generator import learn as generator_training
from gppdm_pipeline.algorithm.generator.objective import Teacher
from gppdm_pipeline.methods import learn_task

TASKS = ((5, 2), (0,))


class Says(nn.Module):
    """In place of a denoiser: a sum of all that it is told, of which it takes note."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, tau, conditions):
        tokens, which, prototypes = conditions
        assert which is None
        self.calls.append(len(x))
        told = tau + tokens.sum((1, 2)) + (0 if prototypes is None else prototypes.sum((1, 2, 3)))
        return x + told[:, None, None, None]


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("concatenates", [False, True])
def test_targets_of_replayed_images_are_what_the_teacher_says(weight, concatenates, asks_all):
    x, noise, prototypes = torch.randn(3, 5, 1, 4, 4)
    tau, tokens = torch.tensor([1, 999, 3, 500, 7]), torch.randn(5, 2, 3)
    tokens[3] = 0  # without condition
    images = prototypes if concatenates else None
    which = torch.tensor([4, 1, 0, 3, 2])  # an image's tokens
    taught = torch.tensor([True, False, False, True, True])
    teacher = Teacher(Says(), weight)
    conditions = Conditions(tokens[which.argsort()], which, images)
    targets = teacher.targets(Noisy(x, tau, noise), conditions, taught)
    assert teacher.denoiser.calls == [5 if asks_all else 3]
    for i in range(5):
        expected = noise[i]
        if taught[i]:
            told = tau[i] + tokens[i].sum() + (prototypes[i].sum() if concatenates else 0)
            expected = (1 - weight) * noise[i] + weight * (x[i] + told)
        torch.testing.assert_close(targets[i], expected, rtol=1e-5, atol=1e-4)


def test_the_teacher_is_not_asked_about_real_images():
    noise = torch.randn(2, 1, 4, 4)
    teacher, conditions = Teacher(Says(), 1.0), Conditions(torch.randn(2, 1, 3), None, None)
    batch = Noisy(noise, torch.tensor([0, 5]), noise)
    assert teacher.targets(batch, conditions, torch.tensor([False, False])) is noise
    assert teacher.denoiser.calls == []


def test_the_gradient_is_that_of_both_losses():
    x, noise, answer = torch.randn(3, 6, dtype=torch.float64)
    output = x.clone().requires_grad_()
    (output - noise.lerp(answer, 0.3)).square().mean().backward()
    apart = x.clone().requires_grad_()
    (0.7 * (apart - noise).square().mean() + 0.3 * (apart - answer).square().mean()).backward()
    torch.testing.assert_close(output.grad, apart.grad)


@pytest.fixture(scope="module")
def states():
    return learn(gppdm(denoiser={"distillation": 1.0}), TASKS)


def test_it_begins_with_the_second_task(states):
    plain = learn(gppdm(denoiser={"distillation": 0.0}), TASKS)
    assert differences(states[1], plain[1]) == []
    changed = [name for name in differences(states[2], plain[2]) if name.startswith("denoiser/")]
    assert changed


@pytest.fixture
def objectives(monkeypatch):
    """Those that are minimised, each with the weights of its teacher when it begins."""
    fit, seen = generator_training.fit, []

    def spy(objective, *given):
        unet = objective._teacher.denoiser.unet
        seen.append((objective, {k: v.clone() for k, v in unet.state_dict().items()}))
        return fit(objective, *given)

    monkeypatch.setattr(generator_training, "fit", spy)
    return seen


def test_the_teacher_is_the_denoiser_of_the_task_before(states, objectives):
    train = images_of(*TASKS[1])
    method = gppdm(denoiser={"distillation": 0.5})
    learn_task(method, states[1], train, train, Context(0, 2))
    [(objective, before)] = objectives
    teacher, denoiser = objective._teacher, objective._denoiser
    after = teacher.denoiser.unet.state_dict()
    for name, tensor in states[1].denoiser.tensors.items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(tensor, after[name])  # it does not learn
    assert not torch.equal(after["conv_in.weight"], denoiser.unet.state_dict()["conv_in.weight"])
    assert teacher.weight == 0.5
    examples = objective._examples
    assert torch.equal(examples.replayed, examples.rows < 2)  # the rows of old classes come first


def test_real_images_of_a_class_that_comes_back_are_not_distilled(states, objectives):
    train = images_of(2, 7)
    learn_task(gppdm(denoiser={"distillation": 1.0}), states[1], train, train, Context(0, 2))
    [(objective, _)] = objectives
    _, rows, replayed = objective._examples
    assert replayed.tolist() == [False] * 12 + [True] * 6
    assert rows.tolist() == [0] * 6 + [2] * 6 + [0] * 3 + [1] * 3  # class 2 is row 0 of (2, 5, 7)


def test_where_batches_are_of_new_classes_alone_it_has_nothing_to_teach(states, asks_all):
    """Nor does it matter what replay shows."""
    replay, train = images_of(5, 2), images_of(*TASKS[1])
    learnt = [
        gppdm(denoiser={"distillation": weight, "new_share": 1.0}).train_generator(
            states[1], train, replace(replay, images=images), Context(0, 2)
        )[0]
        for weight, images in ((0.0, replay.images), (1.0, 255 - replay.images))
    ]
    assert differences(*learnt) == []
    assert differences(learnt[0], states[1])


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_weights_are_shares(weight):
    with pytest.raises(ValidationError, match=r"denoiser.distillation"):
        gppdm(denoiser={"distillation": weight})
