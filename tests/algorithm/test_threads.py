"""Parts of a batch by several threads come to what the whole comes to in one."""

import threading
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.threads import added, backward, parts_of, together
from gppdm_pipeline.algorithm.generator.draw import redrawn, replay_of
from gppdm_pipeline.images.labelled import LabelledImages


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "images", "sizes"),
    [
        (1, 64, [64]),
        (2, 64, [32, 32]),
        (2, 33, [16, 17]),
        (2, 31, [31]),
        (4, 50, [16, 17, 17]),
        (64, 64, [16] * 4),
        (2, 0, [0]),
    ],
)
def test_parts(threads, count, images, sizes):
    threads(count)
    parts = parts_of(images, CPU)
    assert [part.stop - part.start for part in parts] == sizes
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert covered == list(range(images))


def test_another_device_gets_the_whole(threads):
    threads(2)
    cuda, here = torch.device("cuda"), threading.get_ident()
    assert parts_of(64, cuda) == [slice(0, 64)]
    assert together(lambda _: threading.get_ident(), [1, 2], cuda) == [here, here]


def test_items_are_worked_on_at_the_same_time_and_come_in_order(threads):
    threads(3)
    meeting = threading.Barrier(3, timeout=30)  # breaks if one waits for another

    def work(item):
        meeting.wait()
        return item, torch.get_num_threads()

    assert together(work, [3, 1, 2], CPU) == [(3, 1), (1, 1), (2, 1)]
    assert torch.get_num_threads() == 3


def test_threads_that_are_over_share_layers(threads):
    threads(5)
    assert together(lambda _: torch.get_num_threads(), [1, 2], CPU) == [2, 2]


def test_threads_that_begin_later_know_nothing_of_it(threads):
    threads(2)
    assert together(lambda _: torch.get_num_threads(), [1, 2], CPU) == [1, 1]
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2]


def test_one_thread_does_it_itself(threads):
    threads(1)
    here = threading.get_ident()
    assert together(lambda _: threading.get_ident(), [1, 2], CPU) == [here, here]


def test_what_goes_wrong_in_a_thread_is_told(threads):
    threads(2)

    def work(item):
        raise OSError(f"no room for {item}")

    with pytest.raises(OSError, match="no room for 1"):
        together(work, [1, 2], CPU)


@pytest.mark.parametrize("ends", [(0, 40), (0, 20, 40), (0, 17, 40), (0, 1, 2, 40)])
def test_gradients_of_parts_are_those_of_the_whole(threads, ends):
    threads(3)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, generator=generator)
    slope, offset, unused = (torch.zeros((), requires_grad=True) for _ in range(3))

    def losses(batch):
        x, y = batch
        error = (slope * x + offset - y).square().mean()
        return {"error": error, "size": slope.exp()}

    parts = [slice(start, end) for start, end in pairwise(ends)]
    objective = SimpleNamespace(losses=losses, total=added)
    found = backward(objective, (x, y), parts, [slope, offset, unused])
    torch.testing.assert_close(found, {"error": y.square().mean(), "size": torch.tensor(1.0)})
    torch.testing.assert_close(slope.grad, 1 - 2 * (x * y).mean())
    torch.testing.assert_close(offset.grad, -2 * y.mean())
    assert unused.grad is None
    assert not any(loss.requires_grad for loss in found.values())


CHANGES = {
    "the default": {},
    "guided": {"denoiser": {"label_dropout": 0.3}, "replay": {"guidance": 1.0}},
    "epsilon": {"denoiser": {"prediction": "epsilon"}},
    "Muon": {"denoiser": {"optimiser": "muon"}},
    "texture and soft labels": {"texture": True, "soft_labels": 1.0, "redraw": 0.3},
    "no prototypes": {"prototypes": {"route": "none"}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_two_threads_learn_what_one_learns(threads, changes):
    """But for rounding, which turns a step of AdamW where a gradient is as good as zero."""
    method = larger(changes)
    ends = {}
    for count in (1, 2, 2):
        threads(count)
        ends.setdefault(count, []).append(learn(method, [(0, 1), (2,)])[-1])
    [one], [two, again] = ends[1], ends[2]
    differs = False
    for network in ("denoiser", "classifier"):
        far = []
        for name, tensor in getattr(one, network).tensors.items():
            other = getattr(two, network).tensors[name]
            far.append(~torch.isclose(other, tensor, rtol=1e-2, atol=2e-3).flatten())
            assert torch.equal(getattr(again, network).tensors[name], other)
            differs |= not torch.equal(other, tensor)
        assert torch.cat(far).float().mean() < 0.005
    assert differs  # else there were no parts


def test_two_threads_draw_what_one_draws(threads):
    method = larger({})
    state = learn(method, [(0, 1)])[-1]
    real = LabelledImages.concatenate([images_of(0, 1)] * 4)
    drawn = {}
    for count in (1, 2):
        threads(count)
        replay = replay_of(state, (0, 1), 30, method, Context(0, 2), "synthesise_replay")
        context = Context(0, 2)
        anew = redrawn(state, real, method, context, "draw_new_classes", per_class=24, signal=0.3)
        drawn[count] = np.concatenate([replay.images, anew.images]).astype(int)
    assert len(drawn[1]) == 60 + 48
    assert np.abs(drawn[1] - drawn[2]).max() <= 1


def larger(changes):
    """A tiny method whose batches are worth cutting."""
    denoiser = {"batch_size": 40, "learning_rate": 1e-3, "steps": 3}
    changes = {**changes, "denoiser": {**denoiser, **changes.get("denoiser", {})}}
    changes["replay"] = {"images_per_class": 20, **changes.get("replay", {})}
    return gppdm(**{"classifier": {"batch_size": 40}, **changes})
