"""What the denoiser is told of a class: its label token, its prototype as tokens or an image.

Notation: b images a batch; (c, h, w) = channels, height, width of an image; d = width of a token;
p = patches of a prototype. Everything between a frozen prototype and the keys and values is fixed,
so that the tokens of an old class can never move (Doan et al. 2024, arXiv 2312.06710).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gppdm_pipeline.algorithm.state import Condition


class Conditions(NamedTuple):
    """What the denoiser is told of each image of a batch.

    Attributes:
        tokens: float32 [m, 1 + patches, d], of each class once.
        which: int64 [b], the tokens of each image; None: each has its own, m = b.
        images: prototypes, float32 [b, c, h, w], if they concatenate.
    """

    tokens: Tensor
    which: Tensor | None
    images: Tensor | None

    def of(self, rows: Tensor | slice) -> Conditions:
        """Those of some images, each with tokens of its own."""
        tokens = self.tokens if self.which is None else self.tokens[self.which]
        return Conditions(tokens[rows], None, None if self.images is None else self.images[rows])


class ConditionTable(nn.Module):
    """The condition of every class, ready to be gathered by index.

    The prototypes of old classes are a buffer, those of current classes a parameter: a batch
    sends gradient to the prototype of every current class in it, in every step.

    Args:
        condition: of old and new classes.
        classes: the rows of the table; `learnable` of them, the last, may learn.
        learnable: number of current classes.
        concatenates: whether the prototype is also given as an image.
        null_keeps_prototype: whether the null condition is without label alone.
    """

    embeddings: Tensor
    token_map: Tensor
    old_prototypes: Tensor
    turns: Tensor | None

    def __init__(
        self,
        condition: Condition,
        classes: Sequence[int],
        learnable: int,
        concatenates: bool,
        null_keeps_prototype: bool = False,
    ) -> None:
        super().__init__()
        self.concatenates = concatenates
        self.null_keeps_prototype = null_keeps_prototype
        self.register_buffer("embeddings", torch.stack([condition.embeddings[k] for k in classes]))
        self.register_buffer("token_map", condition.token_map)
        self.register_buffer("turns", _turns(condition, classes))
        prototypes = torch.stack([condition.prototypes[k] for k in classes])
        old = len(classes) - learnable
        self.register_buffer("old_prototypes", prototypes[:old])
        self.new_prototypes = nn.Parameter(prototypes[old:].clone())

    def forward(self, rows: Tensor, kept: Tensor | None = None) -> Conditions:
        """Gather conditions, with the tokens of a class once for all its images.

        Args:
            rows: int64 [b].
            kept: bool [b]; False gives the null condition: zeros in place of the label and, unless
                it keeps it, the prototype (keys and values of zeros are zero whatever the weights,
                so they need no basis).
        """
        prototypes = torch.cat([self.old_prototypes, self.new_prototypes])
        labels, shown, turns, which = self.embeddings, prototypes, self.turns, rows
        if len(labels) > len(rows):  # most classes are not in the batch
            labels, shown = labels[rows], prototypes[rows]
            turns = None if turns is None else turns[rows]
            which = torch.arange(len(rows), device=rows.device)
        tokens = labels[:, None]
        if len(self.token_map):
            tokens = torch.cat([tokens, prototype_tokens(shown, self.token_map, turns)], dim=1)
        image = prototypes[rows] if self.concatenates else None
        if kept is None:
            return Conditions(tokens, which, image)
        if self.null_keeps_prototype:  # a null condition for each class
            without = tokens.clone()
            without[:, 0] = 0
            return Conditions(torch.cat([tokens, without]), which + len(tokens) * ~kept, image)
        image = None if image is None else image * kept[:, None, None, None]
        null = torch.zeros_like(tokens[:1])
        return Conditions(torch.cat([tokens, null]), which.where(kept, len(tokens)), image)


def prototype_tokens(prototypes: Tensor, token_map: Tensor, turns: Tensor | None = None) -> Tensor:
    """Patches of prototypes through the fixed linear map; of vectors, parts of equal length.

    Args:
        prototypes: float32 [b, c, h, w].
        token_map: float32 [p, d, c * (h w / p)], one map per patch position.
        turns: int [b, d], as of `make_turn`, by which tokens are turned behind it; None: they are
            not.

    Returns:
        float32 [b, p, d].
    """
    if turns is not None:
        tokens, turns = prototype_tokens(prototypes, token_map), turns[:, None]
        return tokens.gather(2, turns.abs().long().sub(1).expand_as(tokens)) * turns.sign()
    side = math.isqrt(len(token_map))
    height, width = prototypes.shape[2] // side, prototypes.shape[3] // side
    if prototypes.shape[2:] == (1, 1):
        patches = prototypes.flatten(1).unflatten(1, (len(token_map), -1)).transpose(1, 2)
        return torch.einsum("bfp,pdf->bpd", patches, token_map)
    patches = nn.functional.unfold(prototypes, (height, width), stride=(height, width))
    return torch.einsum("bfp,pdf->bpd", patches, token_map)


def make_token_map(
    image_shape: tuple[int, int, int], side: int, dim: int, generator: torch.Generator
) -> Tensor:
    """A fixed random map from side x side patches of a prototype to tokens of unit scale.

    Args:
        image_shape: (height, width, channels).
        side: 0 for no token at all.
        dim: d.
        generator: on the CPU; the same for every task of a run.

    Returns:
        float32 [side**2, dim, c * h/side * w/side].
    """
    height, width, channels = image_shape
    features = height * width * channels // side**2 if side else 0
    noise = torch.randn(side**2, dim, features, generator=generator)
    return noise / math.sqrt(max(features, 1))


def make_turn(dim: int, generator: torch.Generator) -> Tensor:
    """A random signed permutation of a token's entries: an isometry, and small to keep.

    Class means look alike, and so do their tokens behind one map. Two vectors of which each goes
    through a permutation with signs of its own have a mean cosine of 0, with a standard deviation
    of 1 / sqrt(d).

    Args:
        dim: d.
        generator: on the CPU.

    Returns:
        int32 [d], each of 1 to d once, some of them negative: entry i of a turned token is entry
        |turn[i]| (from 1) of the token, with the sign of turn[i].
    """
    signs = torch.randint(0, 2, (dim,), generator=generator) * 2 - 1
    return ((torch.randperm(dim, generator=generator) + 1) * signs).int()


def _turns(condition: Condition, classes: Sequence[int]) -> Tensor | None:
    """Of each class, int32 [classes, d]; nothing is done to those that have none."""
    if not condition.turns:
        return None
    none = torch.arange(1, condition.token_map.shape[1] + 1, dtype=torch.int32)
    return torch.stack([condition.turns.get(label, none) for label in classes])


def check_token_side(image_shape: tuple[int, int, int], side: int) -> None:
    """Whether a prototype can be cut into side x side patches, or a vector into as many parts.

    Raises:
        ValueError: if `side` does not divide height and width, or its square a vector's length.
    """
    height, width, numbers = image_shape
    if height == width == 1:
        if numbers % side**2:
            raise ValueError(
                f"prototypes of {numbers} numbers cannot be cut into {side**2} parts; choose "
                "prototypes.token_side so that its square divides them"
            )
        return
    if height % side or width % side:
        raise ValueError(
            f"prototypes of {height}x{width} cannot be cut into {side}x{side} patches; choose "
            "prototypes.token_side so that it divides both sides"
        )


def label_codes(dim: int, generator: torch.Generator) -> Tensor:
    """Orthonormal codes, one a class by its index, scaled so that entries have unit variance.

    Args:
        dim: d.
        generator: on the CPU; the same for every task of a run.

    Returns:
        float32 [dim, dim]; row k is the label token of class k, whatever the class order.
    """
    orthogonal, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    codes: Tensor = orthogonal * math.sqrt(dim)
    return codes.float()
