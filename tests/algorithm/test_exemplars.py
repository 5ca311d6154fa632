import re

import numpy as np
import pytest
import torch
from tests.reference.tiny import CLASSIFIER, images_of, learn

from gppdm_pipeline.algorithm.classifier.exemplars import (
    choose_exemplars,
    features,
    herding,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.methods import Method

TASKS = ((5, 2), (0,), (7, 9))


def exemplar(**settings):
    return Method.model_validate({"name": "exemplar", "classifier": CLASSIFIER, **settings})


@pytest.fixture(scope="module")
def states():
    return learn(exemplar(images=3), TASKS)


def test_herding_equals_its_definition():
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mean, chosen = vectors.mean(0), []
    for k in range(1, 6):
        distances = {
            i: float(
                (mean - (sum((vectors[j] for j in chosen), torch.zeros(4)) + vectors[i]) / k).norm()
            )
            for i in range(12)
            if i not in chosen
        }
        chosen.append(min(distances, key=distances.get))
    assert herding(vectors, 5).tolist() == chosen
    assert sorted(herding(vectors, 99).tolist()) == list(range(12))


def test_herding_is_closer_to_the_mean_than_chance(states):
    """On the features of the classifier that has just learnt the class."""
    data = images_of(0, per_class=40)
    vectors = features(states[2], data.images, Context(0, 2))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40))
    chosen = choose_exemplars(states[2], data, 5, "herding", Context(0, 2))
    order = [int(np.flatnonzero((data.images == x).all((1, 2, 3)))[0]) for x in chosen.images]
    assert order == herding(vectors, 5).tolist()
    distance = (vectors[order].mean(0) - vectors.mean(0)).norm()
    for seed in range(10):
        chance = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:5]
        assert distance < (vectors[chance].mean(0) - vectors.mean(0)).norm()


@pytest.mark.parametrize("choice", ["herding", "random"])
def test_what_is_kept_are_images_of_the_class_each_once(choice):
    state = learn(exemplar(images=4, choice=choice), TASKS)[-1]
    for label in (5, 2, 0, 7, 9):
        own = {image.tobytes() for image in images_of(label).images}
        kept = [image.tobytes() for image in state.kept.of_classes([label]).images]
        assert len(kept) == len(set(kept)) == 4
        assert set(kept) <= own


def test_a_buffer_per_class_grows_and_keeps_what_it_has(states):
    assert [len(state.kept) for state in states[1:]] == [6, 9, 15]
    for label in (5, 2):
        first = states[1].kept.of_classes([label]).images
        np.testing.assert_array_equal(states[3].kept.of_classes([label]).images, first)


def test_a_buffer_in_all_is_shared_equally():
    states = learn(exemplar(images=10, per="buffer"), TASKS)
    counts = [
        {label: int((state.kept.labels == label).sum()) for label in state.classes}
        for state in states[1:]
    ]
    assert counts == [{2: 5, 5: 5}, {2: 3, 5: 3, 0: 3}, {2: 2, 5: 2, 0: 2, 7: 2, 9: 2}]
    shrunk = states[1].kept.first_of_each(2)
    for label in (5, 2):
        np.testing.assert_array_equal(
            states[3].kept.of_classes([label]).images, shrunk.of_classes([label]).images
        )


def test_a_buffer_too_small_for_the_classes():
    text = re.escape(
        "exemplar.images is 4 in all, which is less than one for each of 5 classes; set it to 5 or "
        "more, or exemplar.per: class"
    )
    with pytest.raises(ValueError, match=text):
        exemplar(images=4, per="buffer").check((8, 8, 1), 5)
    exemplar(images=5, per="buffer").check((8, 8, 1), 5)


def test_random_choice_follows_seed_and_class():
    method = exemplar(images=2, choice="random")
    one, same, other = (learn(method, TASKS[:1], seed=seed)[-1].kept for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.images, same.images)
    assert (one.images != other.images).any()
