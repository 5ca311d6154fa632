"""Which images a buffer keeps: herding or random choice, each in the order of their use.

A buffer holds, for each class, images from the most to the least wanted, so that it shrinks by
dropping the last ones (Rebuffi et al. 2017, iCaRL, arXiv 1611.07725, algorithms 4 and 5).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import given_to_head
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

Choice = Literal["herding", "random"]


def choose_exemplars(
    state: LearnerState, images: LabelledImages, count: int, choice: Choice, context: Context
) -> LabelledImages:
    """Up to `count` images of each class, the most wanted first.

    Args:
        state: its classifier gives the features for herding.
        images: to choose from.
        count: for each class, at least 1.
        choice: herding, or at random.
        context: seed, task, device.
    """
    chosen = []
    for label in images.classes:
        members = np.flatnonzero(images.labels == label)
        if choice == "herding":
            order = herding(features(state, images.select(members).images, context), count)
        else:
            generator = context.generator(f"exemplars {label}")
            order = torch.randperm(len(members), generator=generator, device=context.device)
        chosen.append(members[order[:count].cpu().numpy()])
    return images.select(np.concatenate(chosen))


def herding(vectors: Tensor, count: int) -> Tensor:
    """Vectors whose mean stays closest to the mean of all, chosen one by one.

    Rebuffi et al. 2017, algorithm 4: p_k = argmin_x |mu - (phi(x) + sum_j<k phi(p_j)) / k|.

    Args:
        vectors: phi, float32 [n, d].
        count: how many to choose, at most n are.

    Returns:
        int64 [min(count, n)], indices in the order of choice, each once.
    """
    mean, total = vectors.mean(0), torch.zeros_like(vectors[0])
    free = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    order = []
    for k in range(1, min(count, len(vectors)) + 1):
        distances = (mean - (vectors + total) / k).norm(dim=1).masked_fill(~free, torch.inf)
        best = int(distances.argmin())
        free[best] = False
        total = total + vectors[best]
        order.append(best)
    return torch.tensor(order, device=vectors.device)


def features(state: LearnerState, images: NDArray[Any], context: Context) -> Tensor:
    """What the classifier's head is given, of unit length: float32 [n, d]."""
    return torch.nn.functional.normalize(given_to_head(state, images, context), dim=1)
