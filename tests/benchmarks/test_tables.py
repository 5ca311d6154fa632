"""What the benchmarks make of their measurements."""

import json
from functools import partial
from importlib import import_module
from pathlib import Path

import measuring
import optimisers
import pytest
import torch
from growth import formula
from measuring import Seconds, compared, interleaved, markdown, step_by_step, write_record
from sampling_curve import settings_for, summary


@pytest.mark.parametrize(
    "name", sorted(file.stem for file in Path(measuring.__file__).parent.glob("*.py"))
)
def test_every_benchmark_finds_what_it_measures(name):
    """Names that it takes from the package are there."""
    assert import_module(name).__doc__


def test_variants_take_turns_and_the_first_warms_up():
    asked = []

    def run(name, seconds):
        asked.append(name)
        return [Seconds(seconds, 2 * seconds)] * 3

    variants = {"a": lambda: run("a", 4), "b": lambda: run("b", 2)}
    found = interleaved(variants, turns=2)
    assert asked == ["a", "b"] * 3
    table = compared(found, "a", torch.device("cpu"))
    assert table["a"]["speed"] == 1
    assert table["b"]["speed"] == table["b"]["speed_least"] == 2
    assert table["b"]["cpu_ms"] == 2000
    assert table["b"]["wall_ms"] == 4000
    assert table["b"]["turns"] == 2


def test_loops_take_turns_with_every_step_and_have_their_own_seconds(monkeypatch):
    made, clock = [], [0]
    monkeypatch.setattr(measuring, "_now", lambda _: Seconds(clock[0], 2 * clock[0]))

    def loop(name, seconds, progress):
        with progress(3, name) as bar:
            for _ in range(3):
                made.append(name)
                clock[0] += seconds
                bar.advance()

    found = step_by_step(
        {name: partial(loop, name, n) for name, n in [("a", 1), ("b", 9), ("c", 4)]}
    )
    assert made == ["a", "b", "c"] * 3
    assert found == {name: [Seconds(n, 2 * n)] * 2 for name, n in [("a", 1), ("b", 9), ("c", 4)]}


def test_a_loop_that_fails_does_not_keep_the_others():
    def loop(fails, progress):
        with progress(3, "") as bar:
            for _ in range(3):
                bar.advance()
                if fails:
                    raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        step_by_step({name: partial(loop, name == "a") for name in "abc"})


def test_on_the_cpu_its_own_seconds_count_elsewhere_the_clock():
    found = {"a": [Seconds(4, 6)], "b": [Seconds(2, 2)]}
    assert compared(found, "a", torch.device("cpu"))["b"]["speed"] == 2
    assert compared(found, "a", torch.device("cuda"))["b"]["speed"] == 3


def test_the_formula_of_growth_is_found_again():
    tasks = [{"old_classes": k, "cpu_seconds": 3 + 0.5 * k} for k in range(6)]
    tasks[0]["cpu_seconds"] = 100  # replays nothing
    fit = formula([tasks[:3], tasks])
    assert fit["a"] == pytest.approx(3)
    assert fit["b"] == pytest.approx(0.5)
    assert fit["largest_error"] == pytest.approx(0, abs=1e-9)
    tasks[4]["cpu_seconds"] *= 2
    fit = formula([tasks])
    assert fit["largest_error"] > 0.3
    assert fit["within_15_percent"] < 1


def test_draws_are_compared_seed_by_seed():
    rows = settings_for([5], 8)
    plain, guided, ours = rows[0], rows[1], rows[2]
    assert [plain.guidance, guided.guidance] == [None, 1.0]
    assert [row.replay.guidance_interval for row in rows[2:]] == [None, None, None, (0.2, 5.0)]
    assert [row.replay.sigma_max for row in rows[2:]] == [None, 40.0, None, None]

    def draw(seconds, distance, agreement):
        return {
            "cpu_seconds": seconds,
            "wall_seconds": seconds,
            "evaluations": 5,
            "frechet_distance": distance,
            "oracle_agreement": agreement,
        }

    draws = {
        plain.name: {"0": draw(100, 2, 0.9), "1": draw(110, 4, 0.8)},
        ours.name: {"0": draw(10, 2.02, 0.9), "1": draw(10, 4.0, 0.8), "2": draw(1, 1, 1)},
    }
    table = {row[""]: row for row in summary(draws, rows, 50)}
    assert table.keys() == {plain.name, ours.name}
    row = table[ours.name]
    assert row["speed"] == pytest.approx(10.5)
    assert row["images a CPU second"] == 5
    assert (row["least"], row["most"]) == (1, 1.01)
    assert row["seeds"] == 2
    assert row["holds"]
    assert not table[plain.name]["holds"]
    draws[ours.name]["0"]["frechet_distance"] = 2.2
    assert not summary(draws, rows, 50)[1]["holds"]


def test_records_and_tables(tmp_path):
    write_record(tmp_path / "new" / "record.json", {"found": [1]})
    record = json.loads((tmp_path / "new/record.json").read_text())
    assert record["found"] == [1]
    assert record["measured"]["threads"] >= 1
    assert markdown(["a", "b"], [[1.23456, None]]) == "| a | b |\n|---|---|\n| 1.235 |  |"


def test_optimisers_are_compared_seed_by_seed_on_images_held_out_of_training():
    def runs(*pairs):
        return {"steps": 5, "runs": [{"cpu_seconds": s, "error": e} for s, e in pairs]}

    results = {"a": runs((10, 0.2), (20, 0.4)), "b": runs((5, 0.1), (20, 0.1))}
    rows = optimisers.table(results).splitlines()[2:]
    assert rows == ["| a | 5 | 1 | 0.3 | 1 |", "| b | 5 | 0.75 | 0.1 | 0.375 |"]
    split = optimisers.one_task("digits", 0)
    assert split.train.classes == split.validation.classes == tuple(range(10))
    assert 0.19 < len(split.validation) / (len(split.train) + len(split.validation)) < 0.21


def test_what_a_denoiser_has_learnt_is_seen_on_other_images():
    split = optimisers.one_task("digits", 0)
    found = {}
    for steps in (1, 25):
        method = optimisers.method_of("digits", optimisers.MUON, steps)
        state, _ = optimisers.trained(method, split.train, 0)
        found[steps] = optimisers.errors(method, state, split.validation)
    assert sum(found[25]) < 0.8 * sum(found[1])
