"""What a record's settings are today: some are no more, some do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OFF: dict[str, Any] = {
    "classifier": {"label_smoothing": 0.0, "shift": 0},
    "denoiser": {"min_snr": None, "class_weights": "uniform", "nearest_label": 0.0},
    "guide": {"time_aware": False, "variance": "small"},
    "replay": {"keep": False, "filter_rounds": 0},
}
"""By section, what each was where it did nothing: what is left now."""


def without_retired(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings without retired ones that were off; others stay, and are unknown.

    Before adapters could begin as the one before, they began anew.
    """
    if "denoiser" in settings:
        adapters = {"start": "anew", **settings.get("adapters", {})}
        settings = {**settings, "adapters": adapters}
    return {
        name: {
            key: value
            for key, value in section.items()
            if key not in OFF.get(name, {}) or OFF[name][key] != value
        }
        if isinstance(section, Mapping)
        else section
        for name, section in settings.items()
    }


def what_counts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings without those of adapters where it has none."""
    used = settings.get("memory") == "adapters"
    return {key: value for key, value in settings.items() if used or key != "adapters"}
