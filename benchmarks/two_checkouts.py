"""How long trainings take in two checkouts, in turn: whether a change to the engine is slower.

    OMP_NUM_THREADS=2 PYTHONPATH=src python benchmarks/two_checkouts.py <before> [--after=.]

A preset's generator and classifier, in the second task, with noise in place of images, as many
steps as are asked. Each checkout has a process of its own, which waits while the other one
computes. Ratios are of the clock, so that the machine must have nothing else to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from measuring import Seconds, compared, parser_of, show, write_record
from threads import jobs

from gppdm_pipeline.algorithm.context import CPU

HERE = Path(__file__).resolve()
KINDS = ("training the generator", "training the classifier")
WHOLE, STEP = "a training, by its steps", "a step in it"


class Checkout:
    """A process that trains with the code of a checkout, when it is asked."""

    def __init__(self, folder: Path, benchmark: str, steps: int) -> None:
        path = os.pathsep.join([str(folder.resolve() / "src"), str(HERE.parent)])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE), "--answer", benchmark, str(steps)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, kind: str) -> dict[str, float]:
        """Seconds of a step, by what is counted.

        Raises:
            RuntimeError: if the code of the checkout cannot be measured; its error is above.
        """
        assert self._process.stdin and self._process.stdout
        print(kind, file=self._process.stdin, flush=True)
        if not (answer := self._process.stdout.readline()):
            raise RuntimeError("a checkout has given no answer")
        found: dict[str, float] = json.loads(answer)
        return found

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def answer(benchmark: str, steps: int) -> None:
    """Train what each line of the standard input names, and say how long it took."""
    known: dict[str, Callable[[], Sequence[Seconds]]] = jobs(benchmark, steps)
    for line in sys.stdin:
        begun = time.perf_counter()
        taken = known[line.strip()]()
        whole = (time.perf_counter() - begun) / (len(taken) + 1)
        print(json.dumps({WHOLE: whole, STEP: median(each.wall for each in taken)}), flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__, "two_checkouts")
    parser.add_argument("before", type=Path, help="a checkout, such as git worktree makes")
    parser.add_argument("--after", type=Path, default=HERE.parents[1])
    parser.add_argument("--benchmarks", nargs="+", default=["digits"])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="of a training in a turn")
    given = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    for benchmark in given.benchmarks:
        names = {"before": given.before, "after": given.after}
        there = {name: Checkout(each, benchmark, given.steps) for name, each in names.items()}
        for kind in KINDS:
            taken: dict[str, dict[str, list[Seconds]]] = {WHOLE: {}, STEP: {}}
            for turn in range(given.turns + 1):
                for name in sorted(there, reverse=turn % 2 == 0):
                    for counted, seconds in there[name].train(kind).items():
                        if turn:  # the first one warms up
                            found = taken[counted].setdefault(name, [])
                            found.append(Seconds(seconds, seconds))
            for counted, found in taken.items():
                table = compared({name: found[name] for name in names}, "before", CPU)
                results.setdefault(benchmark, {})[f"{kind}: {counted}"] = table
                show(f"{benchmark}, {kind}: {counted}", table)
        for each in there.values():
            each.end()
        write_record(given.out, {"benchmarks": results})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(sys.argv[2], int(sys.argv[3]))
    else:
        main()
