"""Vision models of transformers, without their classifying head: pooled features."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gppdm_pipeline.pretrained.folder import CONFIG, WEIGHTS, EncoderError, Pretrained


class Pooled(nn.Module):
    """A model that gives one vector an image: what its own pooling gives, where it has one.

    Where it has none, or no weights for it, as those that were saved with a classifying head, it is
    what that head is given: the class token; where there is no such token, the mean over all
    tokens, or over the places of a map.

    Args:
        network: of transformers; of one for images and text, the part for images.
        pools: whether its own pooling has weights, or needs none.
        side: of the images.
    """

    def __init__(self, network: Any, pools: bool, side: int) -> None:
        super().__init__()
        config = getattr(network.config, "vision_config", network.config)
        self.network, self.pools = getattr(network, "vision_model", network), pools
        own = getattr(config, "image_size", side)
        other = {side} != {*(own if isinstance(own, list | tuple) else [own])}
        takes = "interpolate_pos_encoding" in inspect.signature(self.network.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if other and takes else {}
        self.has_token = any(name.endswith("cls_token") for name, _ in network.named_parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [n, 3, side, side] -> [n, d]."""
        given = self.network(pixel_values=x, **self.options)
        pooled: Tensor | None = getattr(given, "pooler_output", None) if self.pools else None
        if pooled is not None:
            return pooled.flatten(1)
        last: Tensor = given.last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3))
        return last[:, 0] if self.has_token else last.mean(1)


def untrained(known: Pretrained, side: int) -> nn.Module:
    """The folder's architecture, on torch's default device.

    Raises:
        EncoderError: if transformers has no such architecture.
    """
    from transformers import AutoModel  # noqa: PLC0415 (an extra)

    with _quiet():
        return _pooled(AutoModel.from_config(_config(known), trust_remote_code=False), known, side)


def trained(known: Pretrained, side: int) -> nn.Module:
    """The same with the folder's weights.

    Raises:
        EncoderError: as `untrained`, or if the weights are another model's.
    """
    from transformers import AutoModel  # noqa: PLC0415 (an extra)

    config = _config(known)
    try:
        with _quiet():
            network, told = AutoModel.from_pretrained(
                known.folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
            found = _pooled(network, known, side)
    except (RuntimeError, ValueError, OSError) as error:
        raise _not_its_weights(known, str(error).splitlines()[0]) from error
    lacking = [name for name in told["missing_keys"] if found.pools or not _is_pooler(name)]
    if lacking:
        raise _not_its_weights(known, ", ".join(sorted(lacking)[:3]))
    return found


def _pooled(network: Any, known: Pretrained, side: int) -> Pooled:
    has_one = any(_is_pooler(name) for name, _ in network.named_parameters())
    with safe_open(known.folder / WEIGHTS, "pt") as file:
        pools = not has_one or any(_is_pooler(name) for name in file.keys())
    return Pooled(network.eval(), pools, side)


def _is_pooler(name: str) -> bool:
    return "pooler" in name.split(".")


def _config(known: Pretrained) -> Any:
    from transformers import AutoConfig  # noqa: PLC0415 (an extra)

    try:
        return AutoConfig.from_pretrained(
            known.folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, OSError, TypeError) as error:
        import transformers  # noqa: PLC0415

        raise EncoderError(
            f"{known.folder / CONFIG}: model_type = {known.config['model_type']}: the transformers "
            f"that is installed ({transformers.__version__}) has no such model, and code in a "
            "folder is not executed. Name another model, or install the version that wrote it."
        ) from error


def _not_its_weights(known: Pretrained, lacking: str) -> EncoderError:
    return EncoderError(
        f"{known.folder / WEIGHTS}: it has not the weights of {known.config['model_type']} "
        f"({lacking}). Write the folder again by save_pretrained."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and without what transformers tells of heads that are left out."""
    from transformers.utils import logging  # noqa: PLC0415

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
