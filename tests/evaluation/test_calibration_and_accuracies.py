"""Calibration, weightings and transfer: cases done by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gppdm_pipeline.evaluation import accuracies, metrics
from gppdm_pipeline.evaluation.calibration import (
    expected_calibration_error,
    familiarity,
    fit_temperature,
    separation,
)

HEAD = (7, 2, 5)


def logits_of(probabilities):
    return np.log(np.array(probabilities, np.float32))


def test_a_classifier_that_is_as_right_as_it_is_sure_is_calibrated():
    # Sure by 0.75, and right three times in four.
    logits = logits_of([[0.75, 0.15, 0.1]] * 4)
    labels = np.array([7, 7, 7, 2])
    assert expected_calibration_error(logits, labels, HEAD) == pytest.approx(0, abs=1e-6)


def test_calibration_error_is_the_gap_weighted_by_bin():
    # Three images at 0.9, one right; one at 0.5, right: (3 |1/3 - 0.9| + |1 - 0.5|) / 4.
    logits = logits_of([[0.9, 0.05, 0.05]] * 3 + [[0.2, 0.5, 0.3]])
    labels = np.array([7, 5, 5, 2])
    expected = (3 * abs(1 / 3 - 0.9) + 0.5) / 4
    assert expected_calibration_error(logits, labels, HEAD) == pytest.approx(expected, rel=1e-5)


def test_gaps_of_one_bin_cancel_and_those_of_two_do_not():
    logits = logits_of([[0.9, 0.1, 0.0001], [0.6, 0.4, 0.0001]])
    labels = np.array([2, 7])
    apart = (0.9 + 0.4) / 2
    assert expected_calibration_error(logits, labels, HEAD) == pytest.approx(apart, abs=1e-3)
    together = abs(-0.9 + 0.4) / 2
    assert expected_calibration_error(logits, labels, HEAD, 1) == pytest.approx(together, abs=1e-3)


def test_certainty_is_in_the_last_bin():
    logits = np.array([[100.0, 0, 0]], np.float32)
    assert expected_calibration_error(logits, np.array([7]), HEAD) == 0


def one_hot(predicted, head=HEAD):
    return np.array([[float(p == label) for label in head] for p in predicted], np.float32)


def evaluated(predicted, true, head, tasks):
    logits, labels = one_hot(predicted, head), np.array(true)
    masked = accuracies.correct_when_masked(logits, labels, head, tasks)
    return metrics.evaluate_predictions(logits, labels, head, tasks), masked


def test_weightings():
    # Task 1 is class 7 with 4 images, task 2 classes 2 and 5 with 1 each.
    true, predicted = [7, 7, 7, 7, 2, 5], [7, 7, 7, 2, 7, 5]
    evaluation, masked = evaluated(predicted, true, HEAD, ((7,), (2, 5)))
    # Masked: class 7 is alone in its task; the image of 2 that was taken for 7 has equal logits
    # for 2 and 5, of which the earlier counts.
    assert masked == [4, 1, 1]
    found = accuracies.accuracies(evaluation, masked)
    assert found["unmasked"] == pytest.approx(
        {"by_image": 4 / 6, "by_class": (3 / 4 + 0 + 1) / 3, "by_task": (3 / 4 + 1 / 2) / 2}
    )
    assert found["task_masked"] == {"by_image": 1, "by_class": 1, "by_task": 1}
    assert sum(masked) == sum(t["correct_task_masked"] for t in evaluation["per_task"])


def test_learning_accuracy_is_the_diagonal():
    assert accuracies.learning_accuracy([[1.0, None], [0.1, 0.5]]) == 0.75


def test_forward_transfer_is_undefined_for_new_classes():
    first, _ = evaluated([7], [7], (7,), ((7,),))
    second, _ = evaluated([7, 2, 5], [7, 2, 5], HEAD, ((7,), (2, 5)))
    assert accuracies.forward_transfer([first, second]) is None
    assert accuracies.forward_transfer([first]) is None


def test_the_temperature_that_made_logits_too_sure_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    columns = (3, 1, 0, 2)
    found = fit_temperature(3 * logits, np.array(columns)[labels], columns)
    assert found == pytest.approx(3, rel=0.05)  # ten times the error of 20,000 draws
    assert fit_temperature(np.zeros((4, 1)), np.zeros(4, np.int64), (0,)) > 0


def test_familiarity_is_log_sum_exp_and_does_not_overflow():
    logits = np.array([[0.0, 1.0], [1000.0, 1000.0]])
    assert familiarity(logits) == pytest.approx([np.log(1 + np.e), 1000 + np.log(2)])


def test_separation_is_the_area_under_the_roc_curve():
    rng = np.random.default_rng(0)
    known, unknown = rng.integers(2, 9, 50), rng.integers(0, 7, 30)  # with ties
    truth = np.repeat([1, 0], [50, 30])
    expected = roc_auc_score(truth, np.concatenate([known, unknown]))
    assert separation(known, unknown) == pytest.approx(expected)
