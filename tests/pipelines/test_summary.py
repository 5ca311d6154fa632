"""The summary on the console, which has 80 columns where there is no terminal."""

import pytest

from gppdm_pipeline.run.summary import print_summary


@pytest.mark.parametrize(("total", "shown"), [(5, True), (20, False)])
def test_tasks_are_shown_where_there_is_room(total, shown, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [[0.5] * t + [None] * (total - t) for t in range(1, total + 1)]
    report = {
        "configuration": {"benchmark": "digits", "method": "joint", "seed": 0},
        "accuracy_matrix": rows,
        "average_accuracy_after_task": [0.25] * total,
        "seconds": {"task_01": {"evaluate": 1.0}},
        "average_accuracy": 0.25,
        "average_incremental_accuracy": 0.25,
        "forgetting": None,
    }
    print_summary(report, {})
    told = capsys.readouterr().out
    assert ("task 5" in told) is shown
    assert "…" not in told
    assert told.count("25.0") == total + 2
