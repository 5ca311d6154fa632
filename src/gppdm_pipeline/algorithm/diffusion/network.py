"""The conditional denoiser: its network, and what it is trained to say.

Notation: b images a batch; (c, h, w) = channels, height, width of an image; d = width of a
condition token; tau in 0..T-1 a diffusion step, abar_tau the cumulated signal share (Ho et al.
2020, arXiv 2006.11239, eq. 4: x_tau = sqrt(abar) x_0 + sqrt(1 - abar) noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gppdm_pipeline.algorithm.context import Precision, autocast
from gppdm_pipeline.algorithm.diffusion.attention import SharedConditions
from gppdm_pipeline.algorithm.state import Weights

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

DIFFUSION_STEPS = 1000
Width = Annotated[int, Field(ge=8, multiple_of=8)]


class DenoiserConfig(BaseModel):
    """Architecture, objective and budget of the denoiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    noise_schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    """As diffusers calls them: the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672), the
    linear one (Ho et al. 2020), its square root linear (Rombach et al. 2022, arXiv 2112.10752)."""
    min_snr: Annotated[float, Field(gt=0)] | None = None
    """gamma of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556, who use 5); null: every step
    counts alike."""
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
    new_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of images of this task's new classes that a batch draws at least, the rest being old
    ones. 0: all classes alike, so that the more there are, the less is seen of new ones."""
    class_weights: Literal["uniform", "decayed"] = "uniform"
    """How often a batch draws a class. decayed: an old one 2 - a times as often as a new one, where
    a is the share of its replay to which the state's classifier gives its label."""
    nearest_label: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the term that pulls what is said to a new class's images towards what is said with
    the nearest old label (see `nearest_label.py`); 1e-4 in the code of the paper's authors."""

    def steps_of(self, *, first: bool) -> int:
        """How many steps a task's training has: the first task's, or another one's."""
        return max(1, round(self.first_task * self.steps)) if first else self.steps


def noise_scheduler_config(config: DenoiserConfig) -> dict[str, Any]:
    """The settings that every scheduler of diffusers must agree on, for training and sampling."""
    return {
        "num_train_timesteps": DIFFUSION_STEPS,
        "beta_schedule": config.noise_schedule,
        "prediction_type": config.prediction,
    }


def signal_shares(config: DenoiserConfig, device: torch.device) -> Tensor:
    """abar_tau for every tau: float32 [T]."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 (takes two seconds)

    shares: Tensor = DDPMScheduler(**noise_scheduler_config(config)).alphas_cumprod
    return shares.to(device)


def loss_weights(config: DenoiserConfig, shares: Tensor) -> Tensor | None:
    """How much the loss at each tau counts: min-SNR weighting (Hang et al. 2023, section 3.4).

    With SNR = abar / (1 - abar), a loss on x_0 is weighted by min(SNR, gamma). A squared error of
    the noise is SNR times one of x_0, one of v is SNR + 1 times it.

    Args:
        config: gamma is `min_snr`, and the prediction type.
        shares: abar, float32 [T].

    Returns:
        float32 [T], or None where every step counts alike.
    """
    if config.min_snr is None:
        return None
    snr = shares / (1 - shares)
    as_x0 = snr if config.prediction == "epsilon" else snr + 1
    return snr.clamp_max(config.min_snr) / as_x0


def denoising_loss(output: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Mean squared error [b, c, h, w], where images may count differently: weights [b] or None."""
    if weights is None:
        return nn.functional.mse_loss(output, target)
    return ((output - target).square().mean((1, 2, 3)) * weights).mean()


def unet_config(
    config: DenoiserConfig, image_shape: tuple[int, int, int], concatenates: bool
) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel.

    Args:
        config: of the denoiser.
        image_shape: (height, width, channels).
        concatenates: whether the prototype enters on the channel axis.

    Raises:
        ValueError: if the image cannot be halved as often as there are resolutions.
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


def build_unet(weights: Weights) -> UNet2DConditionModel:
    """The U-Net that `weights` describes, on the CPU."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415 (takes two seconds)

    with torch.device("meta"):  # no weights are drawn that would be replaced
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(weights.config))
    own = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    unet.load_state_dict(own, assign=True)
    return unet


class Denoiser(nn.Module):
    """A U-Net over patches of pixels; the prototype, if given, enters beside the noisy image.

    Args:
        unet: of diffusers.
        patch: side of a patch.
        precision: of the products and convolutions in it; what comes in and out is float32.
    """

    def __init__(
        self, unet: UNet2DConditionModel, patch: int, precision: Precision = "float32"
    ) -> None:
        super().__init__()
        unet.set_attn_processor(SharedConditions())
        self.unet = unet
        self.patch = patch
        self.precision = precision

    def forward(
        self,
        x: Tensor,
        tau: Tensor,
        tokens: Tensor,
        prototypes: Tensor | None,
        which: Tensor | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            x: float32 [b, c, h, w], noisy images.
            tau: int64 [b].
            tokens: float32 [m, tokens, d].
            prototypes: float32 [b, c, h, w] or None.
            which: int64 [b], the tokens of each image; None: each has its own, m = b.

        Returns:
            float32 [b, c, h, w], v or noise.
        """
        if prototypes is not None:
            x = torch.cat([x, prototypes], dim=1)
        x = nn.functional.pixel_unshuffle(x, self.patch)
        with autocast(x.device, self.precision):
            output: Tensor = self.unet(
                x, tau, tokens, cross_attention_kwargs={"which": which}, return_dict=False
            )[0]
        return nn.functional.pixel_shuffle(output.float(), self.patch)


@dataclass(frozen=True)
class NoisyBatch:
    """x_tau [b, c, h, w], tau [b] and what the network should say to it, [b, c, h, w]."""

    x: Tensor
    tau: Tensor
    target: Tensor


def noisy_batch(
    images: Tensor, shares: Tensor, prediction: str, generator: torch.Generator
) -> NoisyBatch:
    """Noise a batch at steps spread evenly over the whole range (lower variance than independent).

    Args:
        images: x_0, float32 [b, c, h, w] in [-1, 1].
        shares: abar, float32 [T].
        prediction: "v_prediction" or "epsilon".
        generator: on the images' device.
    """
    b, device = len(images), images.device
    offset = torch.rand((), generator=generator, device=device)
    order = torch.randperm(b, generator=generator, device=device)
    tau = ((order + offset) / b * len(shares)).long().clamp_max(len(shares) - 1)
    noise = torch.randn(images.shape, generator=generator, device=device)
    signal = shares[tau].sqrt()[:, None, None, None]
    sigma = (1 - shares[tau]).sqrt()[:, None, None, None]
    target = noise if prediction == "epsilon" else signal * noise - sigma * images
    return NoisyBatch(signal * images + sigma * noise, tau, target)


def clean_images(x: Tensor, output: Tensor, share: Tensor, prediction: str) -> Tensor:
    """x_0 as the denoiser sees it, clamped to [-1, 1]: float32 [b, c, h, w].

    Args:
        x: noisy images, float32 [b, c, h, w].
        output: what the denoiser says to them, likewise.
        share: abar_tau, a scalar.
        prediction: "v_prediction" or "epsilon".
    """
    signal, sigma = share.sqrt(), (1 - share).sqrt()
    if prediction == "epsilon":
        return ((x - sigma * output) / signal).clamp(-1, 1)
    return (signal * x - sigma * output).clamp(-1, 1)


class Average:
    """Exponential moving average of parameters, warmed up: decay min(decay, (1+i)/(10+i)).

    It is linear in the parameters, so it keeps every linear property of the updates, such as being
    orthogonal to old inputs.

    Attributes:
        tensors: the average of each parameter.
        count: how many updates it has taken in.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]
        self._decay, self.count = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current values."""
        self.count += 1
        decay = min(self._decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.tensors, self._parameters, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the parameters to their average."""
        for parameter, average in zip(self._parameters, self.tensors, strict=True):
            parameter.copy_(average)
