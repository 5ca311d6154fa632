"""The denoiser of vectors: a residual MLP, whose blocks ask a class's tokens as a U-Net's do.

Notation: b vectors of n numbers a batch; d = width of a condition token. A module of diffusers, so
that it is kept, moved and projected as its U-Net is. It takes seconds to import, since diffusers
does: import it where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

_TIME = 256  # numbers that tell the noise level


class ResidualMlp(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A residual MLP beside a gate for each number that comes in.

    The gates, functions of the noise level alone, let vector and prototype through to the output:
    for a Gaussian around the prototype, whose numbers are independent, they are all that it takes.
    Blocks begin with no say in the output, which is what they add to that.

    Args:
        in_channels: n, or 2 n where the prototype enters beside the vector.
        out_channels: n.
        width: units of the residual stream; twice as many are hidden in each block.
        blocks: how many.
        cross_attention_dim: d.
        attention_head_dim: heads of each attention (diffusers' name for their number).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        blocks: int,
        cross_attention_dim: int,
        attention_head_dim: int,
    ) -> None:
        super().__init__()
        self.time_proj = Timesteps(_TIME, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(_TIME, _TIME)
        self.gates = nn.Linear(_TIME, in_channels)
        self.proj_in = nn.Linear(in_channels, width)
        self.mid_blocks = nn.ModuleList(
            _Block(width, cross_attention_dim, attention_head_dim) for _ in range(blocks)
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, out_channels)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        cross_attention_kwargs: Mapping[str, Any],
        return_dict: bool,
    ) -> tuple[Tensor]:
        """As diffusers' U-Net with `return_dict=False`.

        Args:
            sample: float32 [b, in_channels, 1, 1].
            timestep: int64 [b].
            encoder_hidden_states: float32 [m, t, d], the conditions.
            cross_attention_kwargs: of `SharedConditions`.
            return_dict: False.

        Returns:
            float32 [b, out_channels, 1, 1], alone in a tuple.
        """
        x = sample.flatten(1)
        time = self.time_embedding(self.time_proj(timestep).to(x.dtype))
        through = (self.gates(time) * x).unflatten(1, (-1, self.proj_out.out_features)).sum(1)
        h = self.proj_in(x)
        for block in self.mid_blocks:
            h = block(h, time, encoder_hidden_states, cross_attention_kwargs)
        return ((through + self.proj_out(self.norm_out(h)))[:, :, None, None],)


class _Block(nn.Module):
    """What a class's tokens say, then two layers whose inputs the noise level scales and shifts."""

    def __init__(self, width: int, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn2 = Attention(width, dim, heads, dim_head=width // heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.time = nn.Linear(_TIME, 2 * width)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, h: Tensor, time: Tensor, tokens: Tensor, how: Mapping[str, Any]) -> Tensor:
        """Float32 [b, width] -> likewise."""
        h = h + self.attn2(self.norm1(h)[:, None], tokens, **how)[:, 0]
        scale, shift = self.time(nn.functional.silu(time)).chunk(2, dim=1)
        moved: Tensor = self.layers(torch.addcmul(shift, self.norm2(h), 1 + scale))
        return h + moved
