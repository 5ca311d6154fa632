"""Losses as they are recorded."""

import pytest
import torch

from gppdm_pipeline.algorithm.fitting.log import DivergedError, LossRecorder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_has_diverged_ends(value):
    recorder = LossRecorder(every=3)
    for loss in (1.0, value):
        recorder.add(denoiser_loss=torch.tensor(loss))
    with pytest.raises(DivergedError, match=r"denoiser_loss is (nan|inf) by step 3.*learning_rate"):
        recorder.add(denoiser_loss=torch.tensor(1.0))
    assert recorder.curves == {}


def test_means_of_so_many_steps():
    recorder = LossRecorder(every=2)
    found = [recorder.add(a=torch.tensor(float(value))) for value in (1, 3, 5)]
    assert found == [{}, {"a": 2.0}, {}]
    assert recorder.curves == {"a": [(2, 2.0)]}
    assert recorder.pending()["a"].tolist() == [5.0]
