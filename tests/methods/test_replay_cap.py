"""How many images are replayed where they are limited in all."""

import pytest
from pydantic import ValidationError
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.generator.parts import ReplayConfig
from gppdm_pipeline.pipelines.inspect import estimate

TASKS = ((5, 2), (0,), (7, 3))


def counts(replay):
    return {k: int((replay.labels == k).sum()) for k in dict.fromkeys(replay.labels.tolist())}


@pytest.mark.parametrize(
    ("images", "classes", "expected"),
    [
        (None, (4, 1), {4: 10, 1: 10}),
        (100, (4, 1), {4: 10, 1: 10}),
        (13, (4, 1, 9), {4: 5, 1: 4, 9: 4}),
        (12, (4, 1, 9), {4: 4, 1: 4, 9: 4}),
        (2, (4, 1, 9), {4: 1, 1: 1, 9: 1}),
        (7, (), {}),
    ],
)
def test_shares_are_even(images, classes, expected):
    assert ReplayConfig(images_per_class=10, images=images).shares(classes) == expected


def test_no_images_are_refused():
    with pytest.raises(ValidationError, match="images"):
        ReplayConfig(images=0)


def test_a_later_task_replays_no_more():
    method = gppdm(replay={"images_per_class": 4, "images": 6})
    states = learn(method, TASKS)
    drawn = [method.synthesise_replay(states[t], Context(0, t + 1))[0] for t in (1, 2, 3)]
    assert counts(drawn[0]) == {5: 3, 2: 3}
    assert counts(drawn[1]) == {5: 2, 2: 2, 0: 2}
    assert counts(drawn[2]) == {2: 2, 5: 1, 0: 1, 3: 1, 7: 1}


def test_the_classifier_sees_new_classes_in_full_all_the_same():
    method = gppdm(replay={"images_per_class": 4, "images": 6})
    state = learn(method, TASKS)[3]
    new = method._of_this_task(state, images_of(*TASKS[2]), Context(0, 3))
    assert counts(new) == dict.fromkeys(sorted(TASKS[2]), 4)


def test_the_estimate_knows_the_limit():
    plain, capped = gppdm(), gppdm(replay={"images": 6})
    ratio = 2 / estimate.SAMPLER_STEPS
    assert estimate._units(plain, "synthesise_replay", 9) == 27 * ratio
    assert estimate._units(capped, "synthesise_replay", 9) == 6 * ratio
    assert estimate._units(capped, "draw_new_classes", 2) == 6 * ratio
    assert estimate._units(capped, "draw_new_classes", 4) == 12 * ratio
    anew = gppdm(redraw=0.5, redraw_images=50)
    assert estimate._units(anew, "draw_new_classes", 2, there=70) == 70 * ratio
    assert estimate._units(anew, "draw_new_classes", 2, there=900) == 100 * ratio
    assert estimate._units(anew, "synthesise_replay", 9) == 27 * ratio
