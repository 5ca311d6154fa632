"""The reference arrangement says what ours says, in its own slow way."""

import numpy as np
import pytest
import torch
from reference_arrangement import Reference, ReferenceTraining

from gppdm_pipeline.algorithm.context import CPU, Context, silent
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.generator.draw import Drawer, Solver
from gppdm_pipeline.algorithm.generator.parts import ReplayConfig, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method

LABELS = [5, 2, 2, 7]


def gppdm(route="both", **denoiser):
    small = {"channels": [8, 16], "condition_dim": 16, "steps": 3, "batch_size": 8, **denoiser}
    parts = {"prototypes": {"route": route}, "projection": {"layers": []}}
    return Method.model_validate({"name": "gppdm", "denoiser": small, **parts})


def drawer(state, method, **replay):
    context = Context(0, 1)
    denoiser = denoiser_of(state, method, context)
    table = condition_table(state, (2, 5, 7), method, context)
    return Drawer(denoiser, table, Process(method.denoiser, CPU), ReplayConfig(**replay), (8, 8, 1))


def images(*classes):
    labels = np.repeat(classes, 6)
    shape = (len(labels), 8, 8, 1)
    return LabelledImages(np.random.default_rng(0).integers(0, 256, shape, np.uint8), labels)


def trained(method):
    train = images(2, 5, 7)
    return method.train_generator(LearnerState.empty(), train, train.of_classes([]), Context(0, 1))[
        0
    ]


@pytest.mark.parametrize("route", ["both", "concat", "tokens", "none"])
@pytest.mark.parametrize(("prediction", "patch"), [("v_prediction", 1), ("epsilon", 2)])
def test_a_guided_prediction_is_ours(route, prediction, patch):
    method = gppdm(route, prediction=prediction, patch=patch, learning_rate=0.1)
    state = trained(method)
    x, tau = torch.randn(4, 1, 8, 8), torch.tensor(400)
    process = Process(method.denoiser, CPU)
    level = process.level(tau)
    reference = Reference.of_state(state, method, CPU)
    reference.unet.eval()
    with torch.no_grad():
        ours = drawer(state, method, guidance=1.5).clean(torch.tensor([1, 0, 0, 2]))(x, level)
        theirs, unguided = (
            process.clean(x, reference.guided(x, tau.expand(4), LABELS, w), level)
            for w in (1.5, 0.0)
        )
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    assert (unguided - theirs).abs().max() > 1e-3


def test_two_passes_in_each_of_its_steps():
    method = gppdm()
    reference = Reference.of_state(trained(method), method, CPU)
    drawn = reference.draw(LABELS, 1.0, torch.Generator().manual_seed(0), steps=7, batch_size=3)
    assert drawn.shape == (4, 8, 8, 1)
    assert drawn.dtype == np.uint8
    assert reference.passes == 2 * 7 * 4


def test_it_draws_what_our_sampler_draws():
    """From the same noise: both solve one equation."""
    method, rows = gppdm(learning_rate=0.01, steps=30), torch.tensor([1, 0, 0, 2])
    state = trained(method)
    reference = Reference.of_state(state, method, CPU)
    theirs = reference.draw(LABELS, 0.5, torch.Generator().manual_seed(0), steps=60).astype(int)
    with silent(0, "") as bar:
        ours_by = drawer(state, method, guidance=0.5, sampler_steps=20)
        generator = torch.Generator().manual_seed(0)
        ours = ours_by(rows, Solver(ours_by.config), generator, bar).astype(int)
    assert np.abs(theirs - ours).mean() < 0.15 * np.abs(theirs - theirs[::-1]).mean()


def test_three_passes_and_a_gradient_for_each_new_prototype_in_the_batch():
    method = gppdm()
    reference = Reference.of_state(trained(method), method, CPU)
    clean = list(to_unit_range(images(2, 5, 7).images, CPU))
    training = ReferenceTraining(reference, [5, 7], clean, images(2, 5, 7).labels.tolist())
    before = {k: prototype.detach().clone() for k, prototype in reference.prototypes.items()}
    weights = [parameter.detach().clone() for parameter in reference.unet.parameters()]
    reference.passes = 0
    training.loss([clean[0], clean[6], clean[7]], [2, 5, 5]).backward()
    assert reference.passes == 3 + 2 * 2  # old images are in the first pass only
    assert reference.prototypes[5].grad.abs().sum() > 0
    assert reference.prototypes[7].grad is None
    assert reference.prototypes[2].grad is None
    losses = [training.step() for _ in range(5)]
    assert np.isfinite(losses).all()
    assert not torch.equal(reference.prototypes[5], before[5])
    assert torch.equal(reference.prototypes[2], before[2])
    moved = [
        not torch.equal(a, b) for a, b in zip(reference.unet.parameters(), weights, strict=True)
    ]
    assert all(moved)


def test_the_nearest_old_label_takes_the_place_of_the_new_one():
    method = gppdm()
    reference = Reference.of_state(trained(method), method, CPU)
    reference.labels[7] = reference.labels[2] + 0.1 * reference.labels[5]
    training = ReferenceTraining(reference, [7], [], [])
    assert training._nearest == {7: 2}
    reference.labels[7] = reference.labels[2]
    pull = training._pull(torch.randn(2, 1, 8, 8), torch.tensor([10, 500]), [7, 7])
    assert pull == 0
    reference.labels[7] = reference.labels[5]
    pull = training._pull(torch.randn(2, 1, 8, 8), torch.tensor([10, 500]), [7, 7])
    assert pull > 0
