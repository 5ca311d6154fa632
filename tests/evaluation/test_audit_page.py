from __future__ import annotations

import base64
import io
import re

import numpy as np
from matplotlib import image

from gppdm_pipeline.evaluation.audit_page import audit_page
from gppdm_pipeline.images.labelled import LabelledImages

ATTACK = {
    "auc": 0.71,
    "auc_low": 0.64,
    "auc_high": 0.78,
    "tpr_at_1_percent": 0.055,
    "members": 90,
    "others": 40,
}
COPIES = {
    "drawn": 50,
    "train": 90,
    "held_out": 40,
    "distance": 20.0,
    "distance_of_held_out": 30.0,
    "copying": -4.2,
    "copied": 0.12,
    "copied_of_held_out": 0.03,
    "authentic": 0.4,
}
AUDIT = {
    "benchmark": "digits",
    "method": "gppdm",
    "seed": 3,
    "variant": None,
    "files_with_real_images": ["data/a.npz", "data/figures/drift.png"],
    "files": {
        "data/a.npz": {"training": 7, "test": 2, "classes": ["cat", "dog"]},
        "data/figures/drift.png": {"pictures": True},
    },
    "files_searched": 12,
    "bytes_searched": 3_000_000,
    "not_searched": ["data/01_raw"],
    "state": {
        "real_images": 0,
        "prototypes": {"cat": {"start": 0.0, "end": 0.4}},
        "private": None,
    },
    "membership": {
        "attack": "generator",
        "all": ATTACK,
        "classes": {"cat": ATTACK},
        "attacks": {
            "generator": {"all": ATTACK, "classes": {"cat": ATTACK}},
            "kept": {"all": None, "classes": {}},
        },
    },
    "memorisation": {"pixels": {"all": COPIES, "classes": {"cat": COPIES, "dog": None}}},
    "tasks_not_measured": [],
}


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S))


def test_it_says_where_images_are_and_what_states_tell():
    page = audit_page(AUDIT, {})
    text = text_of(page)
    assert "Audit: digits · gppdm · seed 3" in text
    assert "12 files of 3 MB" in text
    assert "data/a.npz 7 2 cat, dog" in text
    assert "data/figures/drift.png shown shown" in text
    assert "generator all 0.710 0.640 to 0.780 5.5 90 and 40" in text
    assert "pixels cat 12.0 3.0 -4.2 40" in text
    assert "cat 0.00 0.40" in text
    assert "can tell training images from others: generator does with an AUC of 0.71" in text
    assert "nearer to training images than held-out ones are (pixels): cat" in text
    assert "<img" not in page


def test_nothing_found_is_said_too():
    nothing = {
        "files_with_real_images": [],
        "files": {},
        "membership": {"attack": None, "all": None, "classes": {}, "attacks": {}},
        "memorisation": {},
        "state": {"real_images": 0, "prototypes": {}, "private": None},
        "tasks_not_measured": [1, 2],
    }
    text = text_of(audit_page(AUDIT | nothing, {}))
    assert "None was found." in text
    assert "Images of task 1, 2 are gone, and nothing was measured before they went." in text
    assert "Membership" not in text
    many = {f"data/{n}.npz": {"training": 1, "test": 0, "classes": ["a"]} for n in range(205)}
    text = text_of(audit_page(AUDIT | {"files": many, "files_with_real_images": [*many]}, {}))
    assert "5 more files are in audit.json" in text


def test_the_promise_of_a_private_generator_is_said():
    training = {"noise_multiplier": 1.5, "sample_rate": 0.25, "steps": 90, "epsilon": 7.126}
    private = {"epsilon": 9.5, "delta": 1e-5, "secret": False, "tasks": [training]}
    text = text_of(audit_page(AUDIT | {"state": AUDIT["state"] | {"private": private}}, {}))
    assert "1 7.13 1.5 0.250 90" in text
    assert "all of them together no more than 9.50" in text
    assert "holds as long as nobody knows that" in text
    assert "Differential privacy" not in text_of(audit_page(AUDIT, {}))


def test_pairs_are_shown_side_by_side():
    rng = np.random.default_rng(0)
    pairs = {
        name: LabelledImages(
            rng.integers(0, 256, (count, 6, 6, 1)).astype(np.uint8), np.zeros(count, np.int64)
        )
        for name, count in (("cat", 10), ("dog", 4))
    }
    for shown in (pairs, {"cat": pairs["cat"]}):
        (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', audit_page(AUDIT, shown))
        assert image.imread(io.BytesIO(base64.b64decode(source))).shape[1] == 800
