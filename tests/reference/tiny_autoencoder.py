"""Autoencoders of few weights, of noise, in folders as diffusers writes them; and TAEF2's files."""

from __future__ import annotations

import warnings

import torch
from safetensors.torch import save_file

from gppdm_pipeline.spaces.taef2 import Taef2


def made(folder, kind="AutoencoderKL", seed=0, colours=3, **changes):
    """A folder with one that halves images twice, to maps of 4 channels."""
    import diffusers  # noqa: PLC0415 (takes two seconds)

    kinds = {
        "AutoencoderKL": {
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [8] * 3,
            "norm_num_groups": 2,
            "scaling_factor": 2.0,
            "shift_factor": 0.5,
            "mid_block_add_attention": False,
        },
        "AutoencoderTiny": {
            "encoder_block_out_channels": [8] * 3,
            "decoder_block_out_channels": [8] * 3,
            "num_encoder_blocks": [1] * 3,
            "num_decoder_blocks": [1] * 3,
        },
    }
    settings = {**kinds[kind], "in_channels": colours, "out_channels": colours, **changes}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        network = getattr(diffusers, kind)(**settings)
    network.save_pretrained(folder)
    return folder


def taef2(folder, seed=0):
    """A folder with TAEF2's two files, in float16."""
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Taef2()
    for name in ("encoder", "decoder"):
        tensors = {k: v.half() for k, v in getattr(network, name).state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    return folder
