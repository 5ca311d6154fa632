"""Parts of a batch by several threads come to what the whole comes to in one."""

import threading

import numpy as np
import pytest
import torch
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.threads import parts_of, together
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.generator.redraw import redrawn
from gppdm_pipeline.images.labelled import LabelledImages


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_another_device_gets_the_whole(threads):
    threads(2)
    assert parts_of(64, CPU) == [slice(0, 32), slice(32, 64)]
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


def test_two_threads_draw_what_one_draws(threads):
    method = gppdm(denoiser={"learning_rate": 1e-3, "steps": 3}, replay={"images_per_class": 20})
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
