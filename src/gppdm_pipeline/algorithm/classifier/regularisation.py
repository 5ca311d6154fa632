"""What holds a classifier near the one before: its outputs (LwF) or its weights (EWC).

Notation: b images; k_old, k classes before and with the current task; theta the weights, theta*
those after the task before, F their importance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gppdm_pipeline.algorithm.classifier.network import Loss, as_seen, build_classifier
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.fitting.graphs import rows_where
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

IMPORTANCE_BATCH = 64

Softmax = Literal["current", "all"]
"""Among which classes those of a task are learnt: its own, or all seen."""


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Li & Hoiem 2017 (LwF, arXiv 1606.09282), eq. 2 and 3: cross-entropy of softened outputs.

    Args:
        student: logits float32 [b, k] with k >= k_old.
        teacher: logits float32 [b, k_old].
        temperature: T; probabilities are those of logits / T.

    Returns:
        - sum_i teacher_i log student_i over the old classes, float32 [b].
    """
    old = student[:, : teacher.shape[1]]
    targets = (teacher / temperature).softmax(1)
    return nn.functional.cross_entropy(old / temperature, targets, reduction="none")


def with_distillation(before: Weights, weight: float, temperature: float, columns: Tensor) -> Loss:
    """Cross-entropy, and distillation on all images from the classifier before.

    lambda_o L_old + L_new of figure 2 of LwF (Li & Hoiem 2017, arXiv 1606.09282).

    Args:
        before: weights of the classifier before, whose outputs are the first of the new one's.
        weight: lambda_o.
        temperature: T.
        columns: int64 [m], the outputs that compete in the cross-entropy, on the training's device.
    """
    teacher = build_classifier(before).to(columns.device)

    def both(network: nn.Module, x: Tensor, outputs: Tensor) -> Tensor:
        with torch.no_grad():
            said = teacher(x)
        logits = network(x)
        learnt = cross_entropy_among(logits, outputs, columns)
        return learnt + weight * distillation(logits, said, temperature).mean()

    return both


def with_soft_labels(
    before: Weights, weight: float, temperature: float, device: torch.device
) -> Loss:
    """Cross-entropy, and distillation on images of old classes from the classifier before.

    Its outputs say of replayed images what their labels do not: which other class they are like
    (van de Ven & Tolias 2018, arXiv 1809.10635, "distillation"; eq. 3 of Hinton et al. 2015, arXiv
    1503.02531, whose factor T^2 keeps both terms' gradients comparable).

    Args:
        before: weights of the classifier before, whose outputs are the first of the new one's.
        weight: of the distillation.
        temperature: T.
        device: of the training.
    """
    teacher = build_classifier(before).to(device)
    known = teacher.head.out_features

    def both(network: nn.Module, x: Tensor, outputs: Tensor) -> Tensor:
        logits = network(x)
        loss = nn.functional.cross_entropy(logits, outputs)
        replayed = outputs < known
        old = rows_where(replayed)
        if not len(old):
            return loss
        with torch.no_grad():
            said = teacher(x[old])
        distilled = distillation(logits[old], said, temperature)
        total: Tensor = loss + weight * temperature**2 * (distilled * replayed[old]).sum() / len(x)
        return total

    return both


def competing_outputs(state: LearnerState, softmax: Softmax, device: torch.device) -> Tensor:
    """Among which outputs the current task's classes are learnt: int64 [m], ascending."""
    classes = state.classes if softmax == "all" else state.tasks[-1]
    return torch.tensor(sorted(state.classes.index(label) for label in classes), device=device)


def cross_entropy_among(logits: Tensor, outputs: Tensor, columns: Tensor) -> Tensor:
    """Cross-entropy of the softmax over some outputs.

    Args:
        logits: float32 [b, k].
        outputs: int64 [b], each one of `columns`.
        columns: int64 [m].
    """
    place = torch.zeros(logits.shape[1], dtype=torch.long, device=logits.device)
    place[columns] = torch.arange(len(columns), device=logits.device)
    return nn.functional.cross_entropy(logits[:, columns], place[outputs])


def quadratic_penalty(
    network: nn.Module, anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """F (theta - theta*)^2 / 2: Kirkpatrick et al. 2017 (EWC, arXiv 1612.00796), eq. 3 over lambda.

    Args:
        network: theta; parameters may have more rows than the anchor's, which stay free.
        anchor: theta*, by the name of the parameter, on the network's device.
        importance: F, by the name of the parameter, on the network's device.
    """
    terms = [
        (importance[name] * (parameter[: len(anchor[name])] - anchor[name]).square()).sum()
        for name, parameter in network.named_parameters()
    ]
    return torch.stack(terms).sum() / 2


def fisher_diagonal(
    weights: Weights, images: LabelledImages, count: int, context: Context
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: E_x E_y~p(y|x) (d log p(y|x) / d theta)^2.

    The expectation over y is taken over the classifier's own outputs by one draw an image.

    Args:
        weights: the classifier's.
        images: x.
        count: how many of them are drawn, without replacement; all if there are fewer.
        context: seed, task, device.

    Returns:
        By the name of the parameter, of its shape, on the CPU.
    """
    network = build_classifier(weights).to(context.device)
    generator = context.generator("importance")
    chosen = torch.randperm(len(images), generator=generator, device=context.device)[:count]
    drawn = as_seen(images.images[chosen.cpu().numpy()], weights.config, context)
    x = to_unit_range(drawn, context.device)
    y = torch.multinomial(network(x).softmax(1), 1, generator=generator).squeeze(1)
    parameters = {name: tensor.detach() for name, tensor in network.named_parameters()}

    def log_likelihood(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, values, image[None])
        return -nn.functional.cross_entropy(logits, label[None])

    gradients = vmap(grad(log_likelihood), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    for part in torch.arange(len(x), device=x.device).split(IMPORTANCE_BATCH):
        for name, gradient in gradients(parameters, x[part], y[part]).items():
            total[name] += gradient.square().sum(0)
    return {name: (tensor / len(x)).cpu() for name, tensor in total.items()}
