import torch
from tests.reference.tiny import SHAPE

from gppdm_pipeline.algorithm.classifier import ClassifierConfig, SmallConvNet, cross_entropy
from gppdm_pipeline.algorithm.origins import with_texture


def test_every_image_gets_one_of_the_residuals_whatever_its_class():
    residuals = torch.stack([torch.full((1, 8, 8), value) for value in (-0.5, 0.25, 3.0)])
    seen = []
    network = SmallConvNet(SHAPE, 8, 2)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective = with_texture(cross_entropy(ClassifierConfig(width=8)), residuals)
    x, outputs = torch.zeros(300, 1, 8, 8), torch.arange(300) % 2
    loss = objective(network, x, outputs, torch.Generator().manual_seed(0))
    (shown,) = seen
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(network(shown), outputs))
    for k in (0, 1):
        values, counts = shown[outputs == k][:, 0, 0, 0].unique(return_counts=True)
        assert values.tolist() == [-0.5, 0.25, 1.0]  # as bright as white, and no brighter
        assert counts.min() > 30
