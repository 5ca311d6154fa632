import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.reference.tiny import CLASSIFIER, images_of, learn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method, learn_task

TASKS = ((5, 2), (0,), (7, 9))
GDUMB = Method.model_validate({"name": "gdumb", "classifier": CLASSIFIER, "images": 3})


@pytest.fixture(scope="module")
def states():
    return learn(GDUMB, TASKS)


def test_the_buffer_is_of_all_classes_and_chosen_at_random(states):
    assert [len(state.kept) for state in states[1:]] == [6, 9, 15]
    for label in (5, 2, 0, 7, 9):
        own = {image.tobytes() for image in images_of(label).images}
        kept = [image.tobytes() for image in states[-1].kept.of_classes([label]).images]
        assert len(set(kept)) == 3
        assert set(kept) <= own


def test_the_classifier_comes_from_the_buffer_alone(states):
    """Neither the classifier before nor what the buffer left out has any part in it."""
    before, after = states[2:]
    outputs = {name: torch.randn_like(value) for name, value in before.classifier.tensors.items()}
    object.__setattr__(before.classifier, "tensors", outputs)
    new = images_of(7, 9)
    none = LabelledImages.empty(new.image_shape)
    again = learn_task(GDUMB, before, new, none, Context(0, 3))
    for name, value in after.classifier.tensors.items():
        torch.testing.assert_close(again.classifier.tensors[name], value, rtol=0, atol=0)
    kept = [image.tobytes() for image in after.kept.images]
    chosen = np.array([image.tobytes() in kept for image in new.images])
    blank = LabelledImages(new.images * chosen[:, None, None, None], new.labels)
    state, _ = GDUMB.train_generator(before, new, none, Context(0, 3))
    state, _ = GDUMB.train_classifier(state, blank, none, none, Context(0, 3))
    for name, value in after.classifier.tensors.items():
        torch.testing.assert_close(state.classifier.tensors[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(("setting", "value"), [("choice", "herding"), ("distillation", 1.0)])
def test_what_is_not_gdumb_is_refused(setting, value):
    with pytest.raises(ValidationError, match=setting):
        Method.model_validate({"name": "gdumb", setting: value})
