"""Attention in which images that are told the same share their keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


class SharedConditions:
    """A processor of diffusers' `Attention`: softmax(Q K^T / sqrt(d)) V, as its own one computes.

    A batch holds many images but few conditions. Keys and values are functions of the condition
    alone: they are computed once for each, and gathered for the images.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        which: Tensor | None = None,
    ) -> Tensor:
        """Attend; the names are those that diffusers gives.

        Args:
            attn: the layers.
            hidden_states: float32 [b, n, width], of the images.
            encoder_hidden_states: float32 [m, t, d], the conditions; None: attention within images.
            attention_mask: none is used here.
            temb: likewise.
            which: int64 [b], each image's condition; None: each has its own, m = b.

        Returns:
            float32 [b, n, width].
        """
        own = encoder_hidden_states is None
        fed = hidden_states if own else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(fed), attn.to_v(fed)
        if which is not None and not own:
            key, value = key[which], value[which]
        heads = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        project, drop = attn.to_out
        output: Tensor = drop(project(mixed))
        return output
