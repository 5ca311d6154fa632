"""What a published folder says of itself, as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gppdm_pipeline.serving.trained import Learned

TEMPLATE = """---
{{ card_data }}
---

# {{ run }}

A class-incremental learner of images of {{ height }} x {{ width }} pixels, {{ colours }}, after
{{ tasks | length }} tasks: it keeps a generator instead of old images. Written by gppdm-pipeline
{{ version }}.

**Licence: fill in.** What wrote this card knows neither whose the images are nor what was agreed
with those who are seen on them.

## Classes

| task | classes | SHA-256 of its training images |
|---|---|---|
{% for task in tasks -%}
| {{ loop.index }} | {{ task.names | join(", ") }} | {{ task.data or "not recorded" }} |
{% endfor %}
{%- if diffusers %}
## Drawing

With torch, diffusers and safetensors, from a copy of this folder:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(
    folder, custom_pipeline=folder, trust_remote_code=True, low_cpu_mem_usage=False
)
images = pipeline(classes={{ example }}, num_images_per_class=8, seed=0).images
```

The same seed draws the same bits on one machine with one number of threads.
{% endif -%}
{% if onnx_difference is not none %}
## Classifying

`classifier.onnx` takes uint8 `images` [n, {{ height }}, {{ width }}, {{ channels }}] and gives
`probabilities`, float32 [n, {{ classes }}], whose columns are in `classes.json`. It was held
against the classifier that was learnt: no probability differed by more than
{{ "%.1e" | format(onnx_difference) }}.
{% endif %}
## Metrics

| | |
|---|---|
{% for name, value in metrics -%}
| {{ name }} | {{ value }} |
{% endfor %}
Settings: method {{ method }}, seed {{ seed }}, state {{ state }}.

## Limits

- It knows these classes and no other: an image of anything else gets one of them, too. The flag
  for unknown images is not part of this folder.
- Its probabilities were fitted on images of this kind ({{ fitted_on }}); of others they say less.
- What it draws resembles the images it learnt from, and a generator can tell something of single
  ones: read docs/privacy.md of the project before this is given away.
"""


def model_card(learned: Learned, calibration: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """The text of the card, README.md.

    Args:
        learned: the state.
        calibration: of its probabilities; see `TrainedRun.calibrate`.
        told: `run`, `state`, `validation_accuracy`, `diffusers` and `onnx_difference`; see
            `write_folder`.
    """
    state, configuration = learned.state, learned.configuration
    height, width, channels = learned.image_shape
    names = [[learned.class_names[label] for label in task] for task in state.tasks]
    hashes = [*state.data, *[""] * len(names)]
    accuracy = told["validation_accuracy"]
    card = ModelCard.from_template(
        _data(configuration, told["run"], accuracy, bool(told["diffusers"])),
        template_str=TEMPLATE,
        **told,
        version=learned.manifest["versions"]["gppdm-pipeline"],
        height=height,
        width=width,
        channels=channels,
        colours="grey" if channels == 1 else "colours",
        tasks=[{"names": n, "data": d} for n, d in zip(names, hashes, strict=False)],
        classes=len(state.classes),
        example=[names[0][0]],
        metrics=[
            ("accuracy on validation images", _percent(accuracy)),
            ("expected calibration error", _percent(calibration["calibration_error_after"])),
            ("AUROC against unseen classes", _percent(calibration["unseen_auroc"])),
            ("temperature", f"{calibration['temperature']:.3f}"),
        ],
        fitted_on=calibration["fitted_on"],
        method=configuration["method"],
        seed=configuration["seed"],
    )
    return str(card)


def _data(
    configuration: Mapping[str, Any], run: str, accuracy: float | None, draws: bool
) -> ModelCardData:
    name, measured = run.partition("/")[0], "image-classification"
    results = [] if accuracy is None else [EvalResult(measured, name, name, "accuracy", accuracy)]
    return ModelCardData(
        license="unknown",
        library_name="diffusers" if draws else "onnx",
        tags=["continual-learning", "class-incremental", configuration["method"]],
        model_name=run,
        eval_results=results or None,
    )


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"
