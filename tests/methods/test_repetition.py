"""Every method on a stream in which classes come back, one task of them alone."""

import json

import numpy as np
import pytest
import torch
from tests.methods.test_contract import SETTINGS

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.evaluation import metrics
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import METHODS, Method, learn_task
from gppdm_pipeline.streams.scenario import StreamConfig, read_task

STREAM = StreamConfig.model_validate(
    {
        "source": {"reader": "sklearn_digits", "train_per_class": 12, "test_per_class": 3},
        "unlisted": "leave_out",
        "returning_images": "divide",
        "tasks": [["5", "2"], ["2"], ["7", "5"], ["2", "5"]],
    }
)
NEW = [2, 0, 1, 0]


@pytest.fixture(scope="module")
def splits():
    return [read_task(STREAM, 0, number) for number in range(1, STREAM.number_of_tasks + 1)]


@pytest.mark.parametrize("name", METHODS)
def test_a_stream_with_repetition(name, splits):
    method = Method.model_validate(SETTINGS[name])
    state, tests, evaluations, earlier = LearnerState.empty(), [], [], []
    for number, split in enumerate(splits, start=1):
        before, context = state, Context(0, number)
        given = earlier if method.reads_earlier_images else []
        state = learn_task(method, before, split.train, split.validation, context, given)
        assert set(before.classes) <= set(state.classes)
        assert len(state.classes) == sum(NEW[:number])
        if before.condition is not None:
            for label in before.classes:
                old, now = (each.condition.prototypes[label] for each in (before, state))
                assert torch.equal(old, now)  # known: frozen, even while it is back
        earlier.append(split.train)
        tests.append(split.test)
        test = LabelledImages.concatenate(tests)
        logits = predict_logits(state, test.images, context)
        evaluations.append(
            metrics.evaluate_predictions(logits, test.labels, state.classes, state.tasks)
        )
    summary = metrics.summarise(json.loads(json.dumps(evaluations)))
    assert [value is None for value in summary["accuracy_matrix"][-1]] == [not n for n in NEW]
    assert sum(task["count"] for task in evaluations[-1]["per_task"]) == 9
    measures = ("average_accuracy", "average_incremental_accuracy", "task_masked_accuracy")
    assert all(0 <= summary[measure] <= 1 for measure in measures)
    assert -1 <= summary["forgetting"] <= 1


@pytest.mark.parametrize("name", ["gppdm", "vae_replay"])
def test_the_classifier_learns_a_class_that_is_back_from_the_generator_of_this_task(
    name, splits, monkeypatch
):
    method = Method.model_validate(SETTINGS[name])
    drawn = []
    draw = type(method)._draw

    def recorded(self, state, classes, context, stage):
        drawn.append((stage, tuple(classes)))
        return draw(self, state, classes, context, stage)

    monkeypatch.setattr(type(method), "_draw", recorded)
    state = LearnerState.empty()
    for number in (1, 2):
        split = splits[number - 1]
        state = learn_task(method, state, split.train, split.validation, Context(0, number))
    assert drawn[-2:] == [("synthesise_replay", (2, 5)), ("draw_new_classes", (2,))]


def test_the_images_of_a_class_that_comes_back_are_real_and_not_those_of_before(splits):
    train = np.concatenate([split.train.images for split in splits])
    assert len(np.unique(train.reshape(len(train), -1), axis=0)) == len(train)
