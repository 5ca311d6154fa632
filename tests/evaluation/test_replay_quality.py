from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from gppdm_pipeline.evaluation import replay_quality
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig, measure
from gppdm_pipeline.evaluation.summary import replay_report
from gppdm_pipeline.images.labelled import LabelledImages

CONFIG = EvaluationConfig(images_per_class=10, nearest=3)


class Seer:
    """Features are pixels; a class is the tenth of an image's mean."""

    def __call__(self, images):
        return images.reshape(len(images), -1).astype(np.float32)

    def predict(self, images):
        return images.reshape(len(images), -1).mean(1).astype(np.int64) // 10


def images_of(*classes, count=20, brighter=0, seed=0):
    rng = np.random.default_rng(seed)
    pixels = [
        rng.integers(10 * label, 10 * label + 10, (count, 2, 2, 1)) + brighter for label in classes
    ]
    labels = np.repeat(np.array(classes, np.int64), count)
    return LabelledImages(np.concatenate(pixels).astype(np.uint8), labels)


def measured(images, real, config=CONFIG):
    return measure(images, real, {"pixels": Seer()}, Seer(), config)


def test_each_class_is_measured_beside_its_own_real_images():
    replay = LabelledImages.concatenate([images_of(1, seed=1), images_of(4, brighter=100)])
    found = measured(replay, images_of(1, 4))["classes"]
    assert list(found) == ["1", "4"]
    near, far = found["1"], found["4"]
    assert near["oracle_agreement"] == 1
    assert far["oracle_agreement"] == 0
    assert near["frechet_distance"]["pixels"] < 100 < far["frechet_distance"]["pixels"]
    assert near["precision"]["pixels"] > 0.5
    assert far["precision"]["pixels"] == far["coverage"]["pixels"] == 0
    assert near["images"] == near["real_images"] == 20


def test_too_few_images_leave_a_measure_undefined():
    found = measured(images_of(1, count=3), images_of(1))["classes"]["1"]
    assert found["frechet_distance"]["pixels"] is not None
    assert found["precision"]["pixels"] is None
    alone = measured(images_of(1, count=1), images_of(1))["classes"]["1"]
    assert alone["frechet_distance"]["pixels"] is alone["kernel_distance"]["pixels"] is None
    assert alone["oracle_agreement"] == 1


def test_the_first_of_each_class_are_looked_at():
    images = images_of(1, 2)
    few = images.first_of_each(3)
    assert few.labels.tolist() == [1] * 3 + [2] * 3
    np.testing.assert_array_equal(few.images[3:], images.images[20:23])


def test_numbers_have_names_with_extractor_and_class():
    numbers = replay_quality.numbers_of(measured(images_of(1, 4, seed=1), images_of(1, 4)))
    assert numbers["oracle_agreement"] == 1
    both = [numbers[f"frechet_distance_pixels/class_{label}"] for label in (1, 4)]
    assert numbers["frechet_distance_pixels"] == pytest.approx(np.mean(both))


def test_replay_that_was_measured_in_two_ways_is_not_put_into_one_report():
    one = measured(images_of(1), images_of(1))
    other = measured(images_of(1), images_of(1), EvaluationConfig(images_per_class=20, nearest=3))
    reference = {**one, "oracle_test_accuracy": 1.0}
    assert len(replay_report(reference, [one, one])["after_task"]) == 2
    with pytest.raises(ValueError, match=r"measure all of it again with --namespaces"):
        replay_report(reference, [one, other])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nearest": 10, "images_per_class": 10}, "lower nearest or raise images_per_class"),
        ({"extractors": ["resnet"]}, "oracle"),
        ({"extractors": []}, "at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValidationError, match=message):
        EvaluationConfig.model_validate(settings)
