"""The audit as one page: where real images are, and what a run's states tell of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from gppdm_pipeline.evaluation.captions import CAPTIONS
from gppdm_pipeline.evaluation.leakage import leakage_tables, nearest_pairs_picture
from gppdm_pipeline.evaluation.page import Table, page_of
from gppdm_pipeline.images.labelled import LabelledImages

_MOST_FILES = 200
_LEAKS = 0.55  # AUC from which on it is said
_COPIES = -3.0  # z, likewise


def audit_page(audit: Mapping[str, Any], pairs: Mapping[str, LabelledImages]) -> str:
    """The page.

    Args:
        audit: the content of audit.json.
        pairs: by class, drawn images each followed by the real one that is nearest.
    """
    variant = f" ({audit['variant']})" if audit["variant"] else ""
    figures = [_pairs(pairs)] if pairs else []
    return page_of(
        title=f"Audit: {audit['benchmark']} · {audit['method']}{variant} · seed {audit['seed']}",
        subtitle=f"{audit['files_searched']} files of {audit['bytes_searched'] / 1e6:.0f} MB were "
        f"searched for the stream's images, below the project but for "
        f"{', '.join(audit['not_searched'])}.",
        tiles=_tiles(audit),
        warnings=_warnings(audit),
        tables=[_files(audit), *leakage_tables(audit), *_prototypes(audit), *_private(audit)],
        figures=figures,
        listings=[],
    )


def _tiles(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    membership = audit["membership"]["all"]
    tiles = [
        ("files with real images", str(len(audit["files_with_real_images"]))),
        ("real images in the state", str(audit["state"]["real_images"])),
    ]
    if private := audit["state"]["private"]:
        tiles.append((f"epsilon of the generator at delta {private['delta']:g}", _epsilon(private)))
    if membership:
        tiles.append(("membership AUC (0.5 tells nothing)", f"{membership['auc']:.3f}"))
    for space, found in audit["memorisation"].items():
        if found["all"]:
            tiles.append((f"copied, % ({space})", f"{100 * found['all']['copied']:.1f}"))
    return tiles


def _warnings(audit: Mapping[str, Any]) -> list[str]:
    found = []
    if audit["tasks_not_measured"]:
        tasks = ", ".join(map(str, audit["tasks_not_measured"]))
        found.append(f"Images of task {tasks} are gone, and nothing was measured before they went.")
    best = audit["membership"]["all"]
    if best and best["auc_low"] > _LEAKS:
        found.append(
            f"Whoever has the state can tell training images from others: "
            f"{audit['membership']['attack']} does with an AUC of {best['auc']:.2f}."
        )
    for space, spaces in audit["memorisation"].items():
        classes = [k for k, v in spaces["classes"].items() if v and v["copying"] < _COPIES]
        if classes:
            found.append(
                f"Drawn images are nearer to training images than held-out ones are ({space}): "
                f"{', '.join(classes)}."
            )
    return found


def _files(audit: Mapping[str, Any]) -> Table:
    rows = []
    for path, held in list(audit["files"].items())[:_MOST_FILES]:
        if "pictures" in held:
            rows.append([path, "shown", "shown", ""])
        else:
            classes = ", ".join(held["classes"])
            rows.append([path, str(held["training"]), str(held["test"]), classes])
    more = len(audit["files"]) - len(rows)
    note = "None was found." if not rows else "How many of the stream's images each file holds."
    note += f" {more} more files are in audit.json." if more > 0 else ""
    head = ["file", "training images", "test images", "classes"]
    return Table("Files with real images", head, rows, note)


def _prototypes(audit: Mapping[str, Any]) -> list[Table]:
    found = audit["state"]["prototypes"]
    rows = [[k, f"{each['start']:.2f}", f"{each['end']:.2f}"] for k, each in found.items()]
    note = (
        "The distance of each prototype to the nearest training image, over that of training "
        "images to each other: 0 is a copy."
    )
    return [Table("Prototypes", ["class", "start", "end"], rows, note)] if rows else []


def _private(audit: Mapping[str, Any]) -> list[Table]:
    private = audit["state"]["private"]
    if private is None:
        return []
    head = ["task", "epsilon", "noise multiplier", "sample rate", "steps"]
    rows = [
        [
            str(number),
            _epsilon(each),
            f"{each['noise_multiplier']:g}",
            f"{each['sample_rate']:.3f}",
            f"{each['steps']:.0f}",
        ]
        for number, each in enumerate(private["tasks"], 1)
    ]
    noise = (
        "from the operating system, and is not kept"
        if private["secret"]
        else ("made from the run's seed: the promise holds as long as nobody knows that")
    )
    note = (
        f"Denoiser, adapters and prototypes were trained with differential privacy: at delta "
        f"{private['delta']:g}, each training tells of no single image more than its epsilon, and "
        f"all of them together no more than {_epsilon(private)}. The noise is {noise}. The "
        "classifier is not private."
    )
    return [Table("Differential privacy of the generator", head, rows, note)]


def _epsilon(told: Mapping[str, Any]) -> str:
    return f"{told['epsilon']:.2f}"


def _pairs(pairs: Mapping[str, LabelledImages]) -> dict[str, str]:
    png = base64.b64encode(nearest_pairs_picture(pairs).rendered("png")).decode()
    title, caption = CAPTIONS["nearest_pairs"]
    return {"source": f"data:image/png;base64,{png}", "title": title, "caption": caption}
