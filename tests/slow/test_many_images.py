"""Many images through `predict`: what it costs beside the network, and what memory it takes."""

from __future__ import annotations

import json

import pytest
import torch

from serving import BARE, FILES, NPZ, PARQUET, memory, predictor_of, throughput

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_network_takes_nine_tenths_of_the_time(tmp_path):
    """By CPU seconds, which others do not lengthen; files are decoded beside the network."""
    found = throughput(predictor_of((64, 64, 3), 32), 512, 3, tmp_path)
    print(json.dumps(found, indent=2))
    assert found[BARE]["speed"] == 1
    assert found[NPZ]["speed"] >= 0.9
    for name in (FILES, PARQUET):
        assert max(found[name]["speed"], found[name]["speed_by_the_clock"]) >= 0.9


def test_a_hundred_thousand_images_take_less_than_a_gigabyte(tmp_path):
    found = memory(100_000, 8, 64, tmp_path)
    print(json.dumps(found, indent=2))
    assert found["peak_memory_bytes"] < 1e9
    rows = (tmp_path / "predictions.csv").read_text().count("\n")
    assert rows == 100_001
