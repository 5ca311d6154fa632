"""Replay that is kept from the task in which a class was real."""

import numpy as np
import pytest
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.states import StateError, load_state, save_state
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.methods import gppdm as module
from gppdm_pipeline.methods import learn_task

TASKS = ((5, 2), (0,), (2, 7))  # class 2 comes back
KEEPS = gppdm(replay={"keep": True})


@pytest.fixture(scope="module")
def states():
    return learn(KEEPS, TASKS)


def drawn(states, task, classes):
    """From the generator right after `task`."""
    return replay_of(states[task], classes, 3, KEEPS, Context(0, task), "keep_replay").images


def test_replay_is_that_of_the_task_in_which_the_class_was_real(states):
    second, _ = KEEPS.synthesise_replay(states[1], Context(0, 2))
    assert second.labels.tolist() == [2] * 3 + [5] * 3
    np.testing.assert_array_equal(second.images, drawn(states, 1, (2, 5)))
    third, _ = KEEPS.synthesise_replay(states[2], Context(0, 3))
    assert third.labels.tolist() == [2] * 3 + [5] * 3 + [0] * 3
    np.testing.assert_array_equal(third.images[:6], second.images)
    np.testing.assert_array_equal(third.images[6:], drawn(states, 2, (0,)))


def test_replay_of_a_class_that_came_back_is_replaced(states):
    fourth, _ = KEEPS.synthesise_replay(states[3], Context(0, 4))
    assert {k: int((fourth.labels == k).sum()) for k in fourth.classes} == dict.fromkeys(
        (0, 2, 5, 7), 3
    )
    anew = drawn(states, 3, (2, 7))
    np.testing.assert_array_equal(fourth.of_classes([2]).images, anew[:3])
    np.testing.assert_array_equal(fourth.of_classes([7]).images, anew[3:])
    first, _ = KEEPS.synthesise_replay(states[1], Context(0, 2))
    np.testing.assert_array_equal(fourth.of_classes([5]).images, first.of_classes([5]).images)


def test_what_is_kept_are_no_training_images_and_counts(states):
    plain = learn(gppdm(), TASKS[:1])[-1]
    assert "replay" not in plain.extras
    assert states[1].bytes() == plain.bytes() + 2 * 3 * (64 + 8)  # pixels, and a label each
    kept, _ = KEEPS.synthesise_replay(states[3], Context(0, 4))
    real = {image.tobytes() for image in images_of(5, 2, 0, 7).images}
    assert not real & {image.tobytes() for image in kept.images}


def test_the_classifier_learns_new_classes_from_what_will_be_replayed(states, monkeypatch):
    fit, seen = module.fit_classifier, []

    def spy(state, config, train, *given):
        seen.append(train)
        return fit(state, config, train, *given)

    monkeypatch.setattr(module, "fit_classifier", spy)
    train = images_of(0)
    after = learn_task(KEEPS, states[1], train, train, Context(0, 2))
    replayed, _ = KEEPS.synthesise_replay(after, Context(0, 3))
    [images] = seen
    for label in (0, 2, 5):
        np.testing.assert_array_equal(
            images.of_classes([label]).images, replayed.of_classes([label]).images
        )


def test_it_is_saved_and_guarded(states, tmp_path):
    save_state(states[2], tmp_path / "state")
    again, _ = KEEPS.synthesise_replay(load_state(tmp_path / "state"), Context(0, 3))
    kept, _ = KEEPS.synthesise_replay(states[2], Context(0, 3))
    np.testing.assert_array_equal(again.images, kept.images)
    file = tmp_path / "state/extras/replay/weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StateError, match=r"extras/replay/weights.safetensors is damaged"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize("lacks", ["all", "one"])
def test_a_state_that_kept_none_is_refused(states, lacks):
    state = learn(gppdm(), TASKS[:1])[-1] if lacks == "all" else states[1].begin(2, (0,), (8, 8, 1))
    classes = r"\[2, 5\]" if lacks == "all" else r"\[0\]"
    text = rf"replay.keep is true, but the state keeps no replay of classes {classes}"
    with pytest.raises(ValueError, match=text):
        KEEPS.synthesise_replay(state, Context(0, 2 if lacks == "all" else 3))
