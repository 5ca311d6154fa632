"""A classifier by a name of timm, or of a model of timm in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from gppdm_pipeline.pretrained import timm_models
from gppdm_pipeline.pretrained.folder import EncoderError, Pretrained, on_trial
from gppdm_pipeline.pretrained.preparation import preparation_of

SMALL, TIMM = "small", "timm:"
SETTING = "classifier.network"
_GROUPS = 8


class TimmNet(nn.Module):
    """A model of timm without its head, and a linear layer for the classes.

    No image is normalised by others of its batch, which would mix real and replayed ones: from
    noise, groups are normalised in place of batches; from a folder, its statistics stay. Nothing is
    dropped at random.

    Args:
        image_shape: (height, width, channels).
        classes: number of outputs.
        architecture: a name of timm.
        arguments: that it takes.
        scale: mean and spread of pixels in [0, 1] of each colour, as the folder's model takes them;
            None: from noise, which takes them in [-1, 1].

    Raises:
        EncoderError: if timm is missing, or does not make it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        architecture: str,
        arguments: Mapping[str, Any],
        scale: Sequence[Sequence[float]] | None,
    ) -> None:
        super().__init__()
        self.colours = image_shape[2] if scale is None else 3
        mean, std = scale or ([0.5], [0.5])  # of noise, as they are
        for name, values in (("mean", mean), ("std", std)):  # made once: steps are recorded
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        given = {**arguments, "in_chans": self.colours}
        body: Any = timm_models.built(architecture, given, f"{SETTING} = {architecture}")
        if scale is None:
            _by_groups(body)
        self._size = (image_shape[0], image_shape[1])
        timm_models.resize(body, self._size)
        self.body = body
        self.head = nn.Linear(getattr(body, "head_hidden_size", None) or body.num_features, classes)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> [n, d, 1, 1]."""
        x = (images.expand(-1, self.colours, -1, -1) + 1) / 2
        vectors: Tensor = self.body((x - self.mean) / self.std)
        return vectors[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> logits [n, k]."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits

    def train(self, mode: bool = True) -> Self:
        """As any; the body is always as in evaluation."""
        super().train(mode)
        self.body.eval()
        return self

    def begin(self, known: Pretrained) -> None:
        """Take over the weights of a folder; the head stays."""
        body = timm_models.trained(known)
        timm_models.resize(body, self._size)
        self.body.load_state_dict(body.state_dict())


def _by_groups(network: nn.Module) -> None:
    """Normalise groups of channels where batches are, with what is done behind that."""
    for name, module in network.named_children():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            channels = module.num_features
            norm = nn.GroupNorm(math.gcd(channels, _GROUPS), channels, eps=module.eps)
            norm.weight, norm.bias = module.weight, module.bias
            behind = [*module.children()]
            setattr(network, name, nn.Sequential(norm, *behind) if behind else norm)
        else:
            _by_groups(module)


def check(network: str, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network that cannot be made, or that makes nothing of images of this shape.

    Args:
        network: the setting.
        image_shape: (height, width, channels) of what it would classify.

    Raises:
        EncoderError: saying why, and what would do.
    """
    if network == SMALL:
        return
    height, width, channels = image_shape
    where = f"{SETTING} = {network}"
    if (height, width) == (1, 1):
        raise EncoderError(
            f"{where}: vectors of {channels} numbers are no images. Leave {SETTING} out: "
            "classifier.head is of vectors."
        )
    with on_trial(
        f"{where}: it makes nothing of images of {height}x{width} with {channels} channels",
        "Resize them (stream.source.resize), or use another one.",
    ):
        TimmNet(image_shape, 2, **described(network))(torch.zeros(2, channels, height, width))


def content_of(network: str) -> str:
    """The setting, a folder by the hash of its files: what decides, wherever it lies."""
    if network == SMALL or network.startswith((TIMM, "sha256:")):
        return network
    return f"sha256:{folder_of(network).fingerprint()}"


def described(network: str) -> dict[str, Any]:
    """What builds the body: plain JSON values, wherever a folder lies.

    Raises:
        EncoderError: if it is neither a name of timm nor a folder of it.
    """
    if network.startswith(TIMM):
        return {"architecture": network.removeprefix(TIMM), "arguments": {}, "scale": None}
    known = folder_of(network)
    prepared, config = preparation_of(known, None), known.config
    arguments = {k: v for k, v in (config.get("model_args") or {}).items() if k not in _OURS}
    scale = [[*prepared.mean], [*prepared.std]]
    return {"architecture": config["architecture"], "arguments": arguments, "scale": scale}


_OURS = ("in_chans", "img_size", "num_classes")


def folder_of(network: str) -> Pretrained:
    """The folder that a setting names.

    Raises:
        EncoderError: if there is none, or it is not of timm.
    """
    known = Pretrained.at(network, SETTING, f"{SMALL}, {TIMM}<a name of timm>")
    if known.kind != "timm":
        raise EncoderError(
            f"{SETTING} = {network}: it is of {known.kind}; a classifier is made of a model of "
            "timm. Name a folder of one, or learn its features (space.encoder)."
        )
    return known
