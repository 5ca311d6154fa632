"""Networks of few weights, of noise, in folders as timm and transformers write them."""

from __future__ import annotations

import torch

TIMM = {
    "convolutions": ("resnet10t", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}),
    "tokens": (
        "vit_tiny_patch16_224",
        {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32},
    ),
    "hidden": ("mobilenetv3_small_050", {}),
}
"""The architecture and its arguments; what pools the last does not end with its `num_features`."""
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
TEXT = {**SIZES, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1}
MAPS = {"num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
TRANSFORMERS = {
    "ViTModel": ("ViTConfig", SIZES),
    "ViTForImageClassification": ("ViTConfig", SIZES),
    "Dinov2Model": ("Dinov2Config", {**SIZES, "mlp_ratio": 1}),
    "CLIPModel": ("CLIPConfig", {"vision_config": SIZES, "text_config": TEXT}),
    "SiglipVisionModel": ("SiglipVisionConfig", SIZES),
    "ResNetForImageClassification": ("ResNetConfig", {**MAPS, "layer_type": "basic"}),
    "ConvNextModel": ("ConvNextConfig", {"depths": [1] * 4, "hidden_sizes": [8] * 4}),
}
"""The configuration's class, and what it is given."""


def of_timm(folder, kind="convolutions", seed=0, **settings):
    """A folder of timm's; its network, with its head."""
    import timm  # noqa: PLC0415 (an extra)

    name, arguments = TIMM[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=7, **arguments).eval()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.ndim == 1:  # else a norm's are all alike
                tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(seed))
    network.pretrained_cfg.update({"input_size": (3, 32, 32), **settings})
    timm.models.save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
    return network


def of_transformers(folder, kind="ViTModel", seed=0, processor="ViTImageProcessor", **settings):
    """A folder of transformers'; its network and its image processor, which computes by Pillow."""
    import transformers  # noqa: PLC0415 (an extra)

    configured, values = TRANSFORMERS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(transformers, configured)(**values)
        network = getattr(transformers, kind)(config).eval()
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder)
    named = f"{processor}Pil" if hasattr(transformers, f"{processor}Pil") else processor
    prepares = getattr(transformers, named)(**settings)
    prepares.save_pretrained(folder)
    return network, prepares
