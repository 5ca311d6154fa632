import torch

from gppdm_pipeline.algorithm.classifier.texture import texture_of


def test_every_image_gets_one_of_the_residuals():
    residuals = torch.stack([torch.full((1, 8, 8), value) for value in (-0.5, 0.25, 3.0)])
    alter, x = texture_of(residuals), torch.zeros(300, 1, 8, 8)
    shown = alter(x, torch.Generator().manual_seed(0))
    assert (shown == shown[:, :, :1, :1]).all()
    values, counts = shown[:, 0, 0, 0].unique(return_counts=True)
    assert values.tolist() == [-0.5, 0.25, 1.0]  # as bright as white, and no brighter
    assert counts.min() > 60
    assert torch.equal(shown, alter(x, torch.Generator().manual_seed(0)))
    assert not x.any()
