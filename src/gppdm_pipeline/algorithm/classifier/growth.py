"""Networks that grow with the classes: new rows beside the old ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def load_grown(network: nn.Module, old: Mapping[str, Tensor]) -> None:
    """Take over the weights of a smaller network of the same kind.

    Args:
        network: its tensors have the old ones' shapes, or more rows; the further rows stay.
        old: the smaller network's state dict.
    """
    new = network.state_dict()
    network.load_state_dict(
        {
            name: torch.cat([tensor, new[name][len(tensor) :]]) if tensor.ndim else tensor
            for name, tensor in old.items()
        }
    )


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """The state dict, on the CPU, for a state."""
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
