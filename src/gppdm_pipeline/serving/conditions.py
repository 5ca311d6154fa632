"""What the pipeline beside this file tells its U-Net of classes, and what it begins to draw at.

Notation: b images; m conditions of t tokens of width d; (c, h, w) = channels, height, width.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class SharedConditions:
    """A processor of diffusers' `Attention` that makes keys and values once for each condition."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
        which: Tensor | None = None,
    ) -> Tensor:
        """Float32 [b, n, width] -> likewise; conditions [m, t, d], which: int64 [b]."""
        own = encoder_hidden_states is None
        fed = hidden_states if own else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(fed), attn.to_v(fed)
        if which is not None and not own:
            key, value = key[which], value[which]
        heads = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        output: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return output


class Conditions:
    """What the U-Net is told of classes: a label token, a prototype as tokens, image or both."""

    def __init__(
        self, tensors: dict[str, Tensor], labels: Sequence[int], settings: Any, device: torch.device
    ) -> None:
        self._labels = torch.stack([tensors[f"embedding.{k}"] for k in labels]).to(device)
        self._prototypes = torch.stack([tensors[f"prototype.{k}"] for k in labels]).to(device)
        self._token_map = tensors["token_map"].to(device)
        none = torch.arange(1, self._labels.shape[1] + 1, dtype=torch.int32)
        turns = torch.stack([tensors.get(f"turn.{k}", none) for k in labels])
        self._turns = turns.to(device) if any(f"turn.{k}" in tensors for k in labels) else None
        self._settings = settings

    def __call__(self, rows: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Int64 [b], bool [b] -> tokens [m, t, d], which of them [b], images [b, c, h, w].

        Where `kept` is false, that of no class.
        """
        labels, shown, turns, which = self._labels, self._prototypes, self._turns, rows
        if len(labels) > len(rows):
            labels, shown = labels[rows], shown[rows]
            turns = None if turns is None else turns[rows]
            which = torch.arange(len(rows), device=rows.device)
        tokens = labels[:, None]
        if len(self._token_map):
            tokens = torch.cat([tokens, self._of_patches(shown, turns)], dim=1)
        image = self._prototypes[rows] if self._settings["concatenates"] else None
        if kept is None:
            return tokens, which, image
        if self._settings["null_keeps_prototype"]:
            without = tokens.clone()
            without[:, 0] = 0
            return torch.cat([tokens, without]), which + len(tokens) * ~kept, image
        image = None if image is None else image * kept[:, None, None, None]
        null = torch.zeros_like(tokens[:1])
        return torch.cat([tokens, null]), which.where(kept, len(tokens)), image

    def _of_patches(self, prototypes: Tensor, turns: Tensor | None) -> Tensor:
        side = math.isqrt(len(self._token_map))
        height, width = prototypes.shape[2] // side, prototypes.shape[3] // side
        patches = nn.functional.unfold(prototypes, (height, width), stride=(height, width))
        tokens = torch.einsum("bfp,pdf->bpd", patches, self._token_map)
        if turns is None:
            return tokens
        entries = turns[:, None].expand_as(tokens)
        return tokens.gather(2, entries.abs().long() - 1) * entries.sign()


def of_gaussian(tensors: dict[str, Tensor], label: int, number: int, seed: int) -> Tensor:
    """Image `number` of a class as its Gaussian has it, float32 [d]."""
    parts = (tensors[f"gaussian.{label}.{name}"] for name in ("mean", "directions", "rest"))
    mean, directions, rest = (part.cpu().float() for part in parts)
    generator = generator_of(seed, 0, f"image {number} of the Gaussian of class {label}")
    along = torch.randn(len(directions), generator=generator) @ directions
    return mean + along + rest * torch.randn(len(mean), generator=generator)


def generator_of(
    seed: int, task: int, name: str, device: str | torch.device = "cpu"
) -> torch.Generator:
    """One that depends on (seed, task, name) and nothing else."""
    entropy = [seed, task, zlib.crc32(name.encode())]
    number = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(number)
