"""EWC and LwF as they are written: loops over numbers, plain Python floats."""

from __future__ import annotations

import math

import torch


def ewc_penalty(theta, anchor, importance):
    """F (theta - theta*)^2 / 2, number by number; what the anchor lacks is free."""
    total = 0.0
    for name, old in anchor.items():
        rows = theta[name].reshape(len(theta[name]), -1).tolist()
        pairs = zip(old.reshape(len(old), -1), importance[name].reshape(len(old), -1), strict=True)
        for row, (old_row, weights) in zip(rows, pairs, strict=False):
            for value, star, weight in zip(row, old_row.tolist(), weights.tolist(), strict=True):
                total += weight * (value - star) ** 2 / 2
    return total


def softmax(logits, temperature=1.0):
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def lwf_loss(student, teacher, labels, current, weight, temperature):
    """lambda_o L_old + L_new, nested lists; `current` are the outputs of this task."""
    new = old = 0.0
    for logits, said, label in zip(student, teacher, labels, strict=True):
        among = softmax([logits[column] for column in current])
        new -= math.log(among[current.index(label)])
        softened = softmax(logits[: len(said)], temperature)
        for p, q in zip(softmax(said, temperature), softened, strict=True):
            old -= p * math.log(q)
    return (new + weight * old) / len(student)


def fisher(network, images, labels):
    """Mean squared gradient of log p(label | image), an image at a time."""
    total = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        network.zero_grad()
        network(image[None]).log_softmax(1)[0, label].backward()
        for name, parameter in network.named_parameters():
            total[name] += parameter.grad.square()
    return {name: value / len(images) for name, value in total.items()}
