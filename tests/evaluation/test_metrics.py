"""Measures, against the loops in reference/continual_metrics.py and a case done by hand."""

import json
from itertools import pairwise

import numpy as np
import pytest
from tests.reference import continual_metrics as reference

from gppdm_pipeline.evaluation import metrics


def random_run(seed):
    """Evaluations and the reference's form of one made-up run, classes in random order."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, size=rng.integers(2, 6))
    order = rng.permutation(50)[: sizes.sum()].tolist()
    edges = np.cumsum([0, *sizes]).tolist()
    tasks = [tuple(order[a:b]) for a, b in pairwise(edges)]
    test_labels = [np.repeat(task, rng.integers(1, 9, len(task))) for task in tasks]
    evaluations, run = [], []
    for t in range(1, len(tasks) + 1):
        head = tuple(order[: edges[t]])
        labels = rng.permutation(np.concatenate(test_labels[:t]))
        # Whole numbers, so that there are ties.
        logits = rng.integers(0, 4, (len(labels), len(head))).astype(np.float32)
        logits[np.arange(len(labels)), [head.index(label) for label in labels]] += 1
        evaluations.append(metrics.evaluate_predictions(logits, labels, head, tuple(tasks[:t])))
        run.append((logits.tolist(), labels.tolist(), list(head), tasks[:t]))
    return evaluations, run


@pytest.mark.parametrize("seed", range(12))
def test_summary_equals_the_reference(seed):
    evaluations, run = random_run(seed)
    summary = metrics.summarise(evaluations)
    a = reference.matrix(run)
    masked = reference.matrix(run, masked=True)
    averages = reference.average_accuracies(run)
    assert summary["accuracy_matrix"] == a
    assert summary["task_masked_accuracy_matrix"] == masked
    assert summary["average_accuracy_after_task"] == averages
    assert summary["average_accuracy"] == averages[-1]
    assert summary["average_incremental_accuracy"] == pytest.approx(np.mean(averages))
    assert summary["forgetting"] == pytest.approx(reference.forgetting(a))
    assert summary["backward_transfer"] == pytest.approx(reference.backward_transfer(a))
    assert summary["task_masked_accuracy"] == pytest.approx(reference.task_masked(run))
    assert summary["per_class_accuracy"] == {
        str(label): reference.accuracy(run[-1], [label]) for label in run[-1][2]
    }
    assert len(summary) == 9


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_the_reference(seed):
    for evaluation, state in zip(*random_run(seed), strict=True):
        assert evaluation["confusion"] == reference.confusion(state)
        assert [c["count"] for c in evaluation["per_class"]] == [
            state[1].count(label) for label in state[2]
        ]
        assert [c["correct"] for c in evaluation["per_class"]] == np.diag(
            evaluation["confusion"]
        ).tolist()
        assert sum(c["count"] for c in evaluation["per_task"]) == len(state[1])


def one_hot(predictions, head):
    return np.array([[float(p == label) for label in head] for p in predictions], np.float32)


def hand_run():
    """Task 1 is class 7 (4 test images), task 2 classes 2 and 5 (2 and 1), task 3 class 0 (1)."""
    cases = [  # head, tasks, true, predicted
        ((7,), ((7,),), [7] * 4, [7] * 4),
        ((7, 2, 5), ((7,), (2, 5)), [7] * 4 + [2, 2, 5], [7, 2, 2, 2, 2, 2, 2]),
        (
            (7, 2, 5, 0),
            ((7,), (2, 5), (0,)),
            [7] * 4 + [2, 2, 5, 0],
            [7, 7, 0, 0, 2, 0, 5, 7],
        ),
    ]
    return [
        metrics.evaluate_predictions(one_hot(predicted, head), np.array(true), head, tasks)
        for head, tasks, true, predicted in cases
    ]


def test_a_case_done_by_hand():
    summary = metrics.summarise(hand_run())
    assert summary["accuracy_matrix"] == [[1, None, None], [1 / 4, 2 / 3, None], [2 / 4, 2 / 3, 0]]
    assert summary["average_accuracy_after_task"] == [1, 3 / 7, 4 / 8]
    assert summary["average_accuracy"] == 0.5
    assert summary["average_incremental_accuracy"] == pytest.approx((1 + 3 / 7 + 1 / 2) / 3)
    # Task 1 lost 1 - 1/2 of its best, task 2 nothing.
    assert summary["forgetting"] == pytest.approx(0.25)
    assert summary["backward_transfer"] == pytest.approx(-0.25)
    # Tasks of one class are always right when masked. In task 2 the image of class 2 that was
    # taken for 0 has equal logits for 2 and 5: the earlier in the head, 2, is right.
    assert summary["task_masked_accuracy_matrix"][2] == [1, 1, 1]
    assert summary["task_masked_accuracy"] == 1
    assert summary["per_class_accuracy"] == {"7": 0.5, "2": 0.5, "5": 1, "0": 0}


def test_forgetting_looks_at_the_best_earlier_accuracy_and_transfer_at_the_first():
    a = [[0.5, None, None], [0.9, 0.6, None], [0.7, 0.8, 1.0]]
    assert metrics.forgetting(a) == pytest.approx(((0.9 - 0.7) + (0.6 - 0.8)) / 2)
    assert metrics.backward_transfer(a) == pytest.approx(((0.7 - 0.5) + (0.8 - 0.6)) / 2)


def test_task_masked_accuracy_is_not_weighted_by_images():
    head, tasks = (0, 1, 2, 3), ((0, 1), (2, 3))
    labels = np.array([0] * 9 + [2])
    first = metrics.evaluate_predictions(one_hot([0] * 9, (0, 1)), labels[:9], (0, 1), tasks[:1])
    last = metrics.evaluate_predictions(one_hot([1] * 9 + [2], head), labels, head, tasks)
    assert metrics.task_masked_accuracy([first, last]) == 0.5
    assert metrics.average_accuracy([first, last])[-1] == 0.1


def test_forgetting_is_undefined_after_one_task():
    summary = metrics.summarise(hand_run()[:1])
    assert summary["forgetting"] is None
    assert summary["backward_transfer"] is None
    assert summary["task_masked_accuracy"] == 1


def test_evaluations_and_summary_go_through_json_unchanged():
    evaluations = hand_run()
    read = json.loads(json.dumps(evaluations))
    assert read == evaluations
    assert json.loads(json.dumps(metrics.summarise(read))) == metrics.summarise(evaluations)


def test_a_class_without_test_images_has_no_accuracy():
    evaluation = metrics.evaluate_predictions(
        one_hot([4], (4, 5)), np.array([4]), (4, 5), ((4, 5),)
    )
    assert metrics.per_class_accuracy(evaluation) == {"4": 1.0, "5": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((3, 2), np.float32)}, r"logits are \[3, 2\], expected \[2 labels, 2"),
        ({"logits": np.full((2, 2), np.nan, np.float32)}, "NaN or infinity"),
        ({"labels": np.array([0, 9])}, r"labels \[9\] are not among the head's classes \(0, 1\)"),
        ({"tasks": ((0,),)}, r"tasks \(\(0,\),\) do not have the head's classes"),
        ({"tasks": ((0, 1), (2,))}, "each class must be in a task"),
        ({"labels": np.array([0, 0])}, r"task 2 \(classes \(1,\)\) has no test image"),
    ],
)
def test_wrong_predictions_are_refused(change, message):
    right = {
        "logits": np.zeros((2, 2), np.float32),
        "labels": np.array([0, 1]),
        "head_classes": (0, 1),
        "tasks": ((0,), (1,)),
    }
    metrics.evaluate_predictions(**right)
    with pytest.raises(ValueError, match=message):
        metrics.evaluate_predictions(**right | change)


def repeating_run():
    """Class 4 is back in task 2, which brings nothing new, and in task 3, which brings 6."""
    cases = [  # head, tasks, true, predicted
        ((4, 1), ((4, 1),), [4, 4, 1, 1], [4, 4, 1, 4]),
        ((4, 1), ((4, 1), (4,)), [4, 4, 1, 1], [4, 4, 4, 4]),
        ((4, 1, 6), ((4, 1), (4,), (6, 4)), [4, 4, 1, 1, 6], [4, 6, 6, 1, 6]),
        ((4, 1, 6), ((4, 1), (4,), (6, 4), (1,)), [4, 4, 1, 1, 6], [4, 1, 1, 1, 4]),
    ]
    return [
        metrics.evaluate_predictions(one_hot(predicted, head), np.array(true), head, tasks)
        for head, tasks, true, predicted in cases
    ]


def test_a_class_that_comes_back_counts_with_the_task_that_brought_it():
    summary = metrics.summarise(repeating_run())
    assert summary["accuracy_matrix"] == [
        [3 / 4, None, None, None],
        [2 / 4, None, None, None],
        [2 / 4, None, 1, None],
        [3 / 4, None, 0, None],
    ]
    assert summary["average_accuracy_after_task"] == [3 / 4, 2 / 4, 3 / 5, 3 / 5]
    # Tasks 1 and 3: 3/4 - 3/4 and 1 - 0; the last task brings nothing, and so none is left out.
    assert summary["forgetting"] == 0.5
    assert summary["backward_transfer"] == -0.5
    assert summary["task_masked_accuracy"] == (3 / 4 + 1) / 2
    assert summary["per_class_accuracy"] == {"4": 0.5, "1": 1, "6": 0}
    first_two = metrics.summarise(repeating_run()[:2])
    assert (first_two["forgetting"], first_two["backward_transfer"]) == (0.25, -0.25)


def test_wrong_sequences_are_refused():
    first, second, third = hand_run()
    with pytest.raises(ValueError, match="no evaluation"):
        metrics.summarise([])
    with pytest.raises(ValueError, match=r"evaluation 1 covers the tasks .* expected the first 1"):
        metrics.summarise([second, third])
    with pytest.raises(ValueError, match="evaluation 2 covers"):
        metrics.summarise([first, third])
    fewer = second | {"per_task": [second["per_task"][0] | {"count": 3}, second["per_task"][1]]}
    with pytest.raises(ValueError, match="evaluation 2 was not measured on the test images"):
        metrics.summarise([first, fewer, third])
