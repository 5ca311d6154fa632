"""The oracle is trained once, by whichever of many runs comes first."""

import threading
import time

import torch
from tests.reference.tiny import CLASSIFIER, images_of

from gppdm_pipeline.algorithm.classifier.network import ClassifierConfig
from gppdm_pipeline.catalog import oracle


def test_runs_at_once_train_one(tmp_path, monkeypatch):
    trained, fit, begun = [], oracle.fit_classifier, threading.Barrier(2)

    def slowly(*given, **named):
        trained.append(1)
        time.sleep(0.2)  # the others come meanwhile
        return fit(*given, **named)

    monkeypatch.setattr(oracle, "fit_classifier", slowly)
    found = []

    def make():
        begun.wait()
        config = ClassifierConfig.model_validate(CLASSIFIER)
        made = oracle.trained_oracle(images_of(0, 1), config, torch.device("cpu"), tmp_path / "o")
        found.append(made.state.classes)

    runs = [threading.Thread(target=make) for _ in range(2)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert (found, len(trained)) == ([(0, 1)] * 2, 1)
    assert len([*(tmp_path / "o").iterdir()]) == 1
