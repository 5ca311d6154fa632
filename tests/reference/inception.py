"""Inception v3 for Frechet distances as plain layers, to hold the short version against.

Written from the paper's figures and tables (Szegedy et al. 2016), with the pooling of the graph
that published Frechet distances use. Everything in float64.
"""

from __future__ import annotations

import torch
from torch import nn

# name: (inputs, outputs, kernel, stride, padding)
STEM = {
    "Conv2d_1a_3x3": (3, 32, 3, 2, 0),
    "Conv2d_2a_3x3": (32, 32, 3, 1, 0),
    "Conv2d_2b_3x3": (32, 64, 3, 1, 1),
    "Conv2d_3b_1x1": (64, 80, 1, 1, 0),
    "Conv2d_4a_3x3": (80, 192, 3, 1, 0),
}


def block_a(inputs, pooled):
    return {
        "branch1x1": (inputs, 64, 1, 1, 0),
        "branch5x5_1": (inputs, 48, 1, 1, 0),
        "branch5x5_2": (48, 64, 5, 1, 2),
        "branch3x3dbl_1": (inputs, 64, 1, 1, 0),
        "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 1, 1),
        "branch_pool": (inputs, pooled, 1, 1, 0),
    }


def block_c(width):
    row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    return {
        "branch1x1": (768, 192, 1, 1, 0),
        "branch7x7_1": (768, width, 1, 1, 0),
        "branch7x7_2": (width, width, row[0], 1, row[1]),
        "branch7x7_3": (width, 192, column[0], 1, column[1]),
        "branch7x7dbl_1": (768, width, 1, 1, 0),
        "branch7x7dbl_2": (width, width, column[0], 1, column[1]),
        "branch7x7dbl_3": (width, width, row[0], 1, row[1]),
        "branch7x7dbl_4": (width, width, column[0], 1, column[1]),
        "branch7x7dbl_5": (width, 192, row[0], 1, row[1]),
        "branch_pool": (768, 192, 1, 1, 0),
    }


def block_e(inputs):
    return {
        "branch1x1": (inputs, 320, 1, 1, 0),
        "branch3x3_1": (inputs, 384, 1, 1, 0),
        "branch3x3_2a": (384, 384, (1, 3), 1, (0, 1)),
        "branch3x3_2b": (384, 384, (3, 1), 1, (1, 0)),
        "branch3x3dbl_1": (inputs, 448, 1, 1, 0),
        "branch3x3dbl_2": (448, 384, 3, 1, 1),
        "branch3x3dbl_3a": (384, 384, (1, 3), 1, (0, 1)),
        "branch3x3dbl_3b": (384, 384, (3, 1), 1, (1, 0)),
        "branch_pool": (inputs, 192, 1, 1, 0),
    }


BLOCKS = {
    "Mixed_5b": block_a(192, 32),
    "Mixed_5c": block_a(256, 64),
    "Mixed_5d": block_a(288, 64),
    "Mixed_6a": {
        "branch3x3": (288, 384, 3, 2, 0),
        "branch3x3dbl_1": (288, 64, 1, 1, 0),
        "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 2, 0),
    },
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": {
        "branch3x3_1": (768, 192, 1, 1, 0),
        "branch3x3_2": (192, 320, 3, 2, 0),
        "branch7x7x3_1": (768, 192, 1, 1, 0),
        "branch7x7x3_2": (192, 192, (1, 7), 1, (0, 3)),
        "branch7x7x3_3": (192, 192, (7, 1), 1, (3, 0)),
        "branch7x7x3_4": (192, 192, 3, 2, 0),
    },
    "Mixed_7b": block_e(1280),
    "Mixed_7c": block_e(2048),
}
LAYERS = {
    **STEM,
    **{f"{b}.{name}": s for b, layers in BLOCKS.items() for name, s in layers.items()},
}


class Layer(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, padding):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def stand_in():
    """Random weights by torchvision's names; statistics of the normalisations are not trivial."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, settings in LAYERS.items():
        layer = Layer(*settings)
        for key, tensor in layer.state_dict().items():
            if key == "bn.num_batches_tracked":
                weights[f"{name}.{key}"] = tensor
                continue
            drawn = torch.randn(tensor.shape, generator=generator)
            if key == "conv.weight":
                drawn *= (2 / tensor[0].numel()) ** 0.5
            elif key in ("bn.running_var", "bn.weight"):
                drawn = 0.5 + drawn.abs()
            else:
                drawn *= 0.1
            weights[f"{name}.{key}"] = drawn
    return weights


@torch.no_grad()
def reference_features(weights, images):
    """Grey images uint8 [n, h, w, 1] -> float64 [n, 2048]."""
    layers = {}
    for name, settings in LAYERS.items():
        layers[name] = Layer(*settings)
        own = {
            k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")
        }
        layers[name].load_state_dict(own)
        layers[name].double().eval()
    biggest, mean = nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).repeat(1, 3, 1, 1).double()
    x = nn.Upsample((299, 299), mode="bilinear", align_corners=False)(x) / 127.5 - 1

    def run(block, x, *names):
        for name in names:
            x = layers[f"{block}.{name}"](x)
        return x

    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        x = layers[name](x)
    x = biggest(x)
    x = biggest(layers["Conv2d_4a_3x3"](layers["Conv2d_3b_1x1"](x)))
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = run(b, x, "branch5x5_1", "branch5x5_2")
        three = run(b, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        parts = [run(b, x, "branch1x1"), five, three, run(b, mean(x), "branch_pool")]
        x = torch.cat(parts, 1)
    three = run("Mixed_6a", x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    x = torch.cat([run("Mixed_6a", x, "branch3x3"), three, biggest(x)], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = run(b, x, "branch7x7_1", "branch7x7_2", "branch7x7_3")
        double = run(b, x, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
        x = torch.cat([run(b, x, "branch1x1"), seven, double, run(b, mean(x), "branch_pool")], 1)
    three = run("Mixed_7a", x, "branch3x3_1", "branch3x3_2")
    seven = run("Mixed_7a", x, *(f"branch7x7x3_{i}" for i in range(1, 5)))
    x = torch.cat([three, seven, biggest(x)], 1)
    for b, pool in (("Mixed_7b", mean), ("Mixed_7c", nn.MaxPool2d(3, 1, 1))):
        three = run(b, x, "branch3x3_1")
        double = run(b, x, "branch3x3dbl_1", "branch3x3dbl_2")
        parts = [run(b, x, "branch1x1")]
        parts += [run(b, three, "branch3x3_2a"), run(b, three, "branch3x3_2b")]
        parts += [run(b, double, "branch3x3dbl_3a"), run(b, double, "branch3x3dbl_3b")]
        parts.append(run(b, pool(x), "branch_pool"))
        x = torch.cat(parts, 1)
    return x.mean((2, 3)).numpy()
