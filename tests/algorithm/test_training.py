"""The denoiser's training loop, seen step by step through its progress bar."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from tests.reference.tiny import SHAPE, gppdm, images_of, learn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.network import Denoiser, unet_config
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting import loop
from gppdm_pipeline.algorithm.fitting.batches import Pixels, balanced_indices
from gppdm_pipeline.algorithm.generator.learn import _budget, _moving, class_weights
from gppdm_pipeline.algorithm.generator.objective import DenoisingObjective, Examples
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.pipelines.inspect import estimate

CLASSES = (7, 1, 4, 9)


def fit(after_step=lambda denoiser, table: None, on_gradient=None, learnable=2, **changes):
    """Train on four classes, the last `learnable` current; what a test wants to look at."""
    settings = gppdm(**changes)
    train = images_of(*CLASSES)
    state = LearnerState.empty().begin(1, CLASSES, SHAPE)
    state = add_classes(state, train, settings, Context(0, 1))
    concatenates = settings.prototypes.concatenated
    table = ConditionTable(state.condition, CLASSES, learnable, concatenates)
    if on_gradient:
        table.new_prototypes.register_hook(on_gradient)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_config(settings.denoiser, SHAPE, concatenates))
    denoiser = Denoiser(unet, settings.denoiser.patch)

    @contextmanager
    def progress(total, title):
        assert (total, title) == (settings.denoiser.steps, "train_generator")
        yield SimpleNamespace(advance=lambda n, **metrics: after_step(denoiser, table))

    rows = torch.tensor([CLASSES.index(label) for label in train.labels])
    start = [parameter.detach().clone() for parameter in denoiser.parameters()]
    examples = Examples(Pixels(train.images, CPU), rows, torch.zeros(len(rows), dtype=torch.bool))
    process, dropout = Process(settings.denoiser, CPU), settings.denoiser.label_dropout
    objective = DenoisingObjective(denoiser, table, examples, process, dropout)
    context = Context(0, 1, progress=progress)
    config = settings.denoiser
    moving = _moving(denoiser, table.new_prototypes, config, settings.prototypes)
    budget = _budget(config, config.steps, (), CLASSES, context)
    log = loop.fit(objective, moving, rows, budget, context, "train_generator")
    return SimpleNamespace(
        log=log, denoiser=denoiser, table=table, rows=rows, start=start, settings=settings
    )


@pytest.mark.parametrize("route", ["concat", "tokens", "both"])
def test_a_current_prototype_learns_whenever_its_class_is_in_the_batch(route):
    gradients, values = [], []
    run = fit(
        after_step=lambda _, table: values.append(table.new_prototypes.detach().clone()),
        on_gradient=lambda gradient: gradients.append(gradient.clone()),
        denoiser={"label_dropout": 0, "batch_size": 4, "steps": 20},
        prototypes={"route": route},
    )
    generator = Context(0, 1).generator("train_generator")
    batches = run.rows[balanced_indices(run.rows, 20, 4, generator)]
    present = torch.stack([(batches == row).any(dim=1) for row in (2, 3)], dim=1)
    received = torch.stack(gradients).flatten(2).any(dim=2)
    assert torch.equal(received, present)
    assert present.any(dim=0).all()
    assert not present.all()
    assert len({value.numpy().tobytes() for value in values}) == 20


def test_old_prototypes_are_no_parameter():
    run = fit()
    assert [name for name, _ in run.table.named_parameters()] == ["new_prototypes"]
    assert run.table.new_prototypes.shape[0] == 2


def test_prototypes_that_do_not_reach_the_denoiser_stay():
    values = []
    fit(
        after_step=lambda _, table: values.append(table.new_prototypes.detach().clone()),
        prototypes={"route": "none", "weight_decay": 0.1},
    )
    assert len({value.numpy().tobytes() for value in values}) == 1


def test_learning_rates_are_separate():
    frozen = fit(prototypes={"learning_rate": 0})
    before = fit(denoiser={"steps": 1}, prototypes={"learning_rate": 0}).table.new_prototypes
    assert torch.equal(frozen.table.new_prototypes, before)
    pairs = zip(frozen.start, frozen.denoiser.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_the_denoiser_ends_with_its_average():
    path = []
    run = fit(
        after_step=lambda denoiser, _: path.append(
            [parameter.detach().double().clone() for parameter in denoiser.parameters()]
        ),
        denoiser={"steps": 30, "ema_decay": 0.7},
    )
    expected = [parameter.double() for parameter in run.start]
    for i, step in enumerate(path, start=1):
        decay = min(0.7, (1 + i) / (10 + i))
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, step, strict=True)]
    for value, mean, last in zip(run.denoiser.parameters(), expected, path[-1], strict=True):
        torch.testing.assert_close(value.double(), mean, rtol=1e-4, atol=1e-6)
        assert not torch.equal(value.double(), last)


def test_loss_falls():
    log = fit(denoiser={"steps": 120, "batch_size": 16}).log
    steps, losses = zip(*log.curves["denoiser_loss"], strict=True)
    assert steps == tuple(range(10, 121, 10))
    assert np.mean(losses[-3:]) < 0.6 * losses[0]


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_any_number_of_steps(steps):
    run = fit(denoiser={"steps": steps})
    assert all(parameter.isfinite().all() for parameter in run.denoiser.parameters())


@pytest.mark.parametrize(
    ("old", "new", "share", "expected"),
    [
        (3, 2, 0.5, [1, 1, 1, 1.5, 1.5]),
        (3, 2, 0.75, [1, 1, 1, 4.5, 4.5]),
        (3, 2, 0.4, None),  # they have it already
        (2, 2, 0.5, None),
        (0, 3, 0.5, None),
        (3, 0, 0.5, None),
        (3, 2, 1.0, [0, 0, 0, 1, 1]),
        (0, 3, 1.0, None),
        (3, 0, 1.0, None),  # all that there is are classes that come back
    ],
)
def test_new_classes_have_their_share_of_batches_at_least(old, new, share, expected):
    found = class_weights(old, new, share, CPU)
    if expected is None:
        assert found is None
    else:
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_half_of_what_is_drawn_is_new():
    rows = torch.arange(8).repeat_interleave(10)
    weights = class_weights(6, 2, 0.5, CPU)
    drawn = rows[balanced_indices(rows, 500, 64, torch.Generator().manual_seed(0), weights)]
    shares = drawn.flatten().bincount() / drawn.numel()
    torch.testing.assert_close(shares[6:], torch.full((2,), 0.25), atol=0.01, rtol=0)
    torch.testing.assert_close(shares[:6], torch.full((6,), 0.5 / 6), atol=0.01, rtol=0)


def test_all_of_what_is_drawn_may_be_new():
    rows = torch.arange(8).repeat_interleave(10)
    weights = class_weights(6, 2, 1.0, CPU)
    drawn = rows[balanced_indices(rows, 50, 64, torch.Generator().manual_seed(0), weights)]
    assert drawn.unique().tolist() == [6, 7]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_the_share_of_new_classes_is_one(share):
    with pytest.raises(ValidationError, match=r"denoiser.new_share"):
        gppdm(denoiser={"new_share": share})


@pytest.mark.parametrize(
    ("times", "expected"), [(1, [3, 3, 3]), (1.7, [5, 3, 3]), (0.1, [1, 3, 3])]
)
def test_the_first_task_may_take_more_steps(times, expected):
    begun = []

    @contextmanager
    def progress(total, title):
        if title == "train_generator":
            begun.append(total)
        yield SimpleNamespace(advance=lambda n, **metrics: None)

    method = gppdm(denoiser={"steps": 3, "first_task": times})
    learn(method, [(5, 2), (0,), (3,)], progress=progress)
    assert begun == expected
    units = [estimate._units(method, "train_generator", 2, first=first) for first in (True, False)]
    assert units == expected[:2]
