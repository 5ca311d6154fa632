"""From a finished run and images without labels to their classes, and a page about them."""

from __future__ import annotations

from typing import Any

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.configuration.uses import PredictConfig
from gppdm_pipeline.evaluation.predictions import predictions_page, summarise
from gppdm_pipeline.serving.classify import Rows
from gppdm_pipeline.serving.predictor import Calibration
from gppdm_pipeline.serving.trained import TrainedRun
from gppdm_pipeline.streams.unlabelled import unlabelled

Record = dict[str, Any]


def calibrate(trained: TrainedRun, device: str) -> Record:
    """What makes the newest state's logits probabilities, and images unknown."""
    return trained.calibrate(resolve_device(device))


def classify(trained: TrainedRun, calibration: Record, predict: PredictConfig, device: str) -> Rows:
    """Each image's classes; they are computed while they are written."""
    assert predict.images is not None
    where = resolve_device(device)
    predictor = trained.learned.predictor(Calibration.of(calibration), where)
    return Rows(predictor, unlabelled(predict.images))


def describe(
    rows: Any, trained: TrainedRun, calibration: Record, predict: PredictConfig
) -> tuple[Record, str]:
    """What came out, as JSON and as a page with the images that are least sure.

    Args:
        rows: what was predicted, row by row.
        trained: the run.
        calibration: of it.
        predict: where the images are, and how many are shown.
    """
    assert predict.images is not None
    summary = summarise(rows, predict.least_sure)
    wanted = {row["file"] for row in summary["least_sure"]}
    predictor = trained.learned.predictor()
    found = {name: image for name, image in unlabelled(predict.images) if name in wanted}
    shown = [predictor.pixels(found[row["file"]]) for row in summary["least_sure"]]
    run = trained.run
    summary = {"run": run, "state": trained.newest.parent.name, **summary}
    return summary, predictions_page(run, str(predict.images), summary, calibration, shown)
