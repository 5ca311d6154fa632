"""How well the generator knows an image, as an attacker asks it."""

import numpy as np
import pytest
import torch
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.generator.losses import DRAWS, SHARES, denoising_losses
from gppdm_pipeline.algorithm.generator.parts import denoiser_of
from gppdm_pipeline.images.labelled import LabelledImages

CONTEXT = Context(0, 2)


@pytest.fixture(scope="module", params=["shared", "adapters"])
def known(request):
    settings = gppdm(memory=request.param, replay={"batch_size": 40})
    return settings, learn(settings, [(3, 8), (1,)])[-1]


@torch.no_grad()
def test_it_is_the_mean_square_error_at_each_level(known):
    """Image by image, with the noise that all images share, told the class of each."""
    settings, state = known
    images = images_of(1, 3).select(np.arange(0, 12, 3))
    process = Process(settings.denoiser, CPU)
    losses = denoising_losses(state, images, settings, CONTEXT)
    generator = CONTEXT.generator("denoising losses")
    x = to_unit_range(images.images, CPU)
    noises = torch.randn((len(SHARES), DRAWS, *x.shape[1:]), generator=generator)
    for i, label in enumerate(images.labels.tolist()):
        table = ConditionTable(state.condition, (label,), 0, settings.prototypes.concatenated)
        denoiser = denoiser_of(state, settings, CONTEXT, label)
        for j, share in enumerate(SHARES):
            level = process.level((process.shares >= share).sum() - 1)
            errors = [
                denoiser(
                    level.noised(x[i : i + 1], noise), level.tau[None], table(torch.tensor([0]))
                )
                - process.target(x[i : i + 1], noise, level)
                for noise in noises[j]
            ]
            expected = torch.stack(errors).square().mean()
            assert losses[i, j] == pytest.approx(float(expected), rel=1e-4)


def test_threads_share_the_images_of_a_class(known):
    settings, state = known
    images, before = LabelledImages.concatenate([images_of(1, 3)] * 8), torch.get_num_threads()
    alone = denoising_losses(state, images, settings, CONTEXT)
    torch.set_num_threads(2)
    try:
        shared = denoising_losses(state, images, settings, CONTEXT)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)  # float32 sums in other orders
