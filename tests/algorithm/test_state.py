import re

import pytest
import torch

from gppdm_pipeline.algorithm.state import Condition, LearnerState, Weights

SHAPE = (8, 8, 1)


def begun(*tasks):
    state = LearnerState.empty()
    for number, classes in enumerate(tasks, start=1):
        state = state.begin(number, classes, SHAPE)
    return state


def test_classes_in_order_of_arrival_and_once():
    state = begun((5, 2), (2, 0), (9,))
    assert state.tasks == ((5, 2), (2, 0), (9,))
    assert state.classes == (5, 2, 0, 9)
    assert [state.classes_before(task) for task in (1, 2, 3, 4)] == [
        (),
        (5, 2),
        (5, 2, 0),
        (5, 2, 0, 9),
    ]
    assert LearnerState.empty().classes == ()


def test_a_task_begins_once():
    state = begun((5, 2))
    assert state.begin(1, (5, 2), SHAPE) is state
    assert state.image_shape == SHAPE
    assert LearnerState.empty().image_shape is None


def test_images_of_another_shape():
    text = re.escape("images of task 2 have shape (8, 8, 3), those before (8, 8, 1)")
    with pytest.raises(ValueError, match=text):
        begun((5, 2)).begin(2, (1,), (8, 8, 3))


@pytest.mark.parametrize(("task", "classes"), [(3, (1,)), (1, (5, 1)), (0, (5, 2))])
def test_tasks_in_the_wrong_order(task, classes):
    text = re.escape(
        f"task {task} with classes {classes} does not follow a state after tasks ((5, 2),); "
        "give each task to the state of the task before it"
    )
    with pytest.raises(ValueError, match=text):
        begun((5, 2)).begin(task, classes, SHAPE)


def test_bytes_that_have_to_be_kept():
    assert LearnerState.empty().bytes() == 0
    weights = Weights({}, {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.float64)})
    condition = Condition({1: torch.zeros(4)}, torch.zeros(2, 4, 1), {1: torch.zeros(1, 2, 2)})
    state = LearnerState(
        classifier=weights, denoiser=weights, condition=condition, bases={"l": torch.zeros(5, 2)}
    )
    assert state.bytes() == 2 * (3 * 4 + 2 * 8) + 4 * (4 + 8 + 4) + 4 * 10
