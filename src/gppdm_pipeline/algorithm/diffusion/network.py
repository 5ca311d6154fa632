"""The conditional denoiser: its settings and its network.

Notation: b images a batch; (c, h, w) = channels, height, width of an image; d = width of a
condition token; tau in 0..T-1 a diffusion step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gppdm_pipeline.algorithm.condition.table import Conditions
from gppdm_pipeline.algorithm.context import Precision, autocast
from gppdm_pipeline.algorithm.state import Weights
from gppdm_pipeline.configuration.base import Config

if TYPE_CHECKING:
    from diffusers import ModelMixin as Network
    from diffusers.models.attention_processor import Attention

DIFFUSION_STEPS = 1000
Width = Annotated[int, Field(ge=8, multiple_of=8)]


class DenoiserConfig(Config):
    """Architecture, objective and budget of the denoiser."""

    unwritten: ClassVar = {"width": None, "blocks": None}

    channels: Annotated[tuple[Width, ...], Field(min_length=2)] = (32, 64)
    """Width at each resolution; each is half the size of the one before. Cross-attention stands at
    the lowest one and in the middle."""
    layers_per_block: Annotated[int, Field(ge=1, le=4)] = 1
    heads: Literal[1, 2, 4, 8] = 8
    """Of each attention. With few channels to share, few heads are faster and no worse."""
    patch: Literal[1, 2, 4, 8] = 1
    """Pixels of patch x patch enter as channels: cheaper for larger images."""
    condition_dim: Annotated[int, Field(ge=8)] = 128
    """d; it also bounds the number of classes, whose label tokens are orthonormal codes."""
    prediction: Literal["v_prediction", "epsilon"] = "v_prediction"
    """What the network predicts: v (Salimans & Ho 2022, arXiv 2202.00512) or the noise."""
    noise_schedule: Literal["squaredcos_cap_v2", "linear"] = "squaredcos_cap_v2"
    """As diffusers calls them: the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672) or
    the linear one (Ho et al. 2020)."""
    steps: Annotated[int, Field(ge=1)] = 600
    first_task: Annotated[float, Field(gt=0)] = 1.0
    """How many times `steps` the first task takes, whose network begins with nothing."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    optimiser: Literal["adamw", "muon"] = "adamw"
    """How weights are moved: all by AdamW, or matrices by Muon and the rest by AdamW."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Of AdamW, at its peak."""
    muon_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Of Muon, likewise: about the largest singular value of what a step adds to a matrix."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """The gradient's norm at most (Pascanu et al. 2013, arXiv 1211.5063)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Of the weights that are kept; the average warms up over the first steps."""
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of images trained without condition. Classifier-free guidance (arXiv 2207.12598), which
    asks what is said without, needs some; without guidance they are spent for nothing."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of what the denoiser of the task before says in the targets of replayed images, the
    rest being the noise that was added; 1 is generative distillation (Masip et al. 2023, arXiv
    2311.14028)."""
    new_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of images of this task's new classes that a batch draws at least, the rest being old
    ones. 0: all classes alike, so that the more there are, the less is seen of new ones. 1: new
    ones alone, so that neither replay nor a class that comes back beside them is learnt from."""

    width: Width | None = None
    """Of vectors, whose network is a residual MLP (`mlp.py`) in place of a U-Net: units of its
    residual stream; None: 256. `channels`, `layers_per_block` and `patch` are of images."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """Likewise: how many blocks; None: 2."""

    def steps_of(self, *, first: bool) -> int:
        """How many steps a task's training has: the first task's, or another one's."""
        return max(1, round(self.first_task * self.steps)) if first else self.steps


def network_config(
    config: DenoiserConfig, image_shape: tuple[int, int, int], concatenates: bool
) -> dict[str, Any]:
    """Arguments of the network that `network_class` names: a U-Net; of vectors, an MLP.

    Args:
        config: of the denoiser.
        image_shape: (height, width, channels).
        concatenates: whether the prototype enters on the channel axis.

    Raises:
        ValueError: if the image cannot be halved as often as there are resolutions, or a vector
            should be cut into patches.
    """
    if image_shape[:2] != (1, 1):
        return unet_config(config, image_shape, concatenates)
    if config.patch > 1:
        raise ValueError(
            f"denoiser.patch is {config.patch}, which cuts images; what is learnt are vectors of "
            f"{image_shape[2]} numbers, so leave it out"
        )
    return {
        "in_channels": image_shape[2] * (2 if concatenates else 1),
        "out_channels": image_shape[2],
        "width": config.width or 256,
        "blocks": config.blocks or 2,
        "cross_attention_dim": config.condition_dim,
        "attention_head_dim": config.heads,
    }


def unet_config(
    config: DenoiserConfig, image_shape: tuple[int, int, int], concatenates: bool
) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel.

    As `network_config`.

    Raises:
        ValueError: likewise.
    """
    height, width, channels = image_shape
    levels = len(config.channels)
    unit = config.patch * 2 ** (levels - 1)
    if height % unit or width % unit:
        raise ValueError(
            f"images of {height}x{width} cannot be halved {levels - 1} times after patches of "
            f"{config.patch}; choose denoiser.patch and the number of denoiser.channels so that "
            f"patch * 2^(len(channels) - 1), now {unit}, divides both sides"
        )
    depth = channels * config.patch**2
    return {
        "sample_size": [height // config.patch, width // config.patch],
        "in_channels": depth * (2 if concatenates else 1),
        "out_channels": depth,
        "down_block_types": ["DownBlock2D"] * (levels - 1) + ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1),
        "block_out_channels": list(config.channels),
        "layers_per_block": config.layers_per_block,
        "cross_attention_dim": config.condition_dim,
        "attention_head_dim": config.heads,  # diffusers' name for their number
        "norm_num_groups": 8,
    }


def network_class(config: Mapping[str, Any]) -> Any:
    """The class of networks, of diffusers' `ModelMixin`, that such arguments are of."""
    if "down_block_types" in config:
        from diffusers import UNet2DConditionModel  # noqa: PLC0415 (takes two seconds)

        return UNet2DConditionModel
    from gppdm_pipeline.algorithm.diffusion.mlp import ResidualMlp  # noqa: PLC0415 (likewise)

    return ResidualMlp


def build_unet(weights: Weights) -> Network:
    """The network that `weights` describes, on the CPU."""
    with torch.device("meta"):  # no weights are drawn that would be replaced
        unet: Network = network_class(weights.config).from_config(dict(weights.config))
    own = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    unet.load_state_dict(own, assign=True)
    return unet


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


class Denoiser(nn.Module):
    """A U-Net over patches of pixels; the prototype, if given, enters beside the noisy image.

    Args:
        unet: of diffusers; or, of vectors, a residual MLP.
        patch: side of a patch.
        precision: of the products and convolutions in it; what comes in and out is float32.
    """

    def __init__(self, unet: Network, patch: int, precision: Precision = "float32") -> None:
        super().__init__()
        for module in unet.modules():
            if hasattr(module, "set_processor"):
                module.set_processor(SharedConditions())
        self.unet = unet
        self.patch = patch
        self.precision = precision

    def forward(
        self,
        x: Tensor,
        tau: Tensor,
        conditions: Conditions,
    ) -> Tensor:
        """Predict.

        Args:
            x: float32 [b, c, h, w], noisy images.
            tau: int64 [b].
            conditions: what is told of each image's class.

        Returns:
            float32 [b, c, h, w], v or noise.
        """
        tokens, which, prototypes = conditions
        if prototypes is not None:
            x = torch.cat([x, prototypes], dim=1)
        x = nn.functional.pixel_unshuffle(x, self.patch)
        with autocast(x.device, self.precision):
            output: Tensor = self.unet(
                x, tau, tokens, cross_attention_kwargs={"which": which}, return_dict=False
            )[0]
        return nn.functional.pixel_shuffle(output.float(), self.patch)
