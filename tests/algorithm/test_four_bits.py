"""Four bits a number: packed and unpacked, against the best that 16 numbers can do."""

import numpy as np
import pytest
import torch

from gppdm_pipeline.algorithm.diffusion.four_bits import packed, unpacked


def gaussian(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))


@pytest.mark.parametrize("columns", [1, 2, 7, 64])
def test_numbers_that_are_among_the_16_come_back_as_they_were(columns):
    steps = torch.tensor([2.0**-9, 1.0, 3.0])
    codes = torch.randint(16, (3, columns), generator=torch.Generator().manual_seed(0))
    codes[:, 0] = 15  # the largest is one of the row's
    matrix = (codes - 7.5) * steps[:, None]
    kept = packed(matrix)
    assert kept.codes.dtype == torch.uint8
    assert kept.codes.shape == (3, (columns + 1) // 2)
    assert kept.step.dtype == torch.float16
    assert torch.equal(kept.step.float(), steps)
    assert torch.equal(unpacked(kept, columns), matrix)


def test_a_gaussian_loses_little_more_than_the_best_steps_leave():
    matrix = gaussian(32, 4096)
    error = (unpacked(packed(matrix), 4096) - matrix).square().mean()
    # Max 1960, "Quantizing for minimum distortion": 16 equal steps leave 0.01154 of the variance.
    assert 0.95 * 0.01154 < error < 1.05 * 0.01154


def test_every_number_is_the_nearest_of_its_row():
    matrix = gaussian(5, 33)
    kept = packed(matrix)
    found = unpacked(kept, 33)
    levels = (np.arange(16) - 7.5) * kept.step.float().numpy()[:, None]
    nearest = np.abs(matrix.numpy()[:, :, None] - levels[:, None]).min(2)
    np.testing.assert_allclose((found - matrix).abs().numpy(), nearest, atol=1e-6)


def test_rows_of_nothing_stay_nothing_and_rows_have_steps_of_their_own():
    matrix = torch.stack([torch.zeros(6), 1e-3 * gaussian(1, 6)[0], 1e3 * gaussian(1, 6)[0]])
    found = unpacked(packed(matrix), 6)
    assert torch.equal(found[0], matrix[0])
    for row in (1, 2):
        assert (found[row] - matrix[row]).abs().max() < 0.1 * matrix[row].abs().max()
