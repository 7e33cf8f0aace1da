"""Kill the toy run at every system call that changes the disk, run it again, and compare all bytes.

``python kill_run.py SCENARIO FOLDER FIRST STEP`` kills at call FIRST, FIRST + STEP, ... until a run comes through, and
prints the number of points; the first difference is an error. Processes are forked from this one, which has imported
everything, because there are hundreds of them.

A write is killed half-way: half of its bytes are in the file.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import toy_run

from uncertainty.errors import InputError
from uncertainty.scores import read_scores

CALLS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "ftruncate")


def die_at(point: int) -> None:
    """From now on the ``point``-th changing system call of this process kills it."""
    left = [point]

    def patch(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                if name == "write":
                    descriptor, data = arguments
                    real(descriptor, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, call)

    for name in CALLS:
        patch(name)


def in_a_fork(work: Callable[[], None]) -> int:
    """Exit status of a fork that does the work: 0, 1 after a traceback, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  the fork must never return into the loop of its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepare(scenario: str, path: Path) -> None:
    if scenario == "mend":
        toy_run.score_toy(path)
        file = path / "tokens" / "part-00001.parquet"
        file.write_bytes(bytes(file.stat().st_size))
    if scenario == "overwrite":
        toy_run.score_toy(path, seed=1)
        (path / "tokens" / "notes.txt").write_text("mine")


def whole_or_refused(path: Path, states: list[dict[str, bytes]]) -> None:
    """What a kill leaves: every part is one of the whole ones, and only a whole run can be read."""
    found = {name: content for name, content in toy_run.contents(path).items() if not name.startswith(".tmp/")}
    for name, content in found.items():
        assert content in [state.get(name) for state in states] or name == "run.json", f"{name} is visible half-done"
    try:
        read_scores(path)
    except InputError:
        return
    assert found in states, "an incomplete run was read without complaint"


def main(scenario: str, folder: Path, first: int, step: int) -> int:
    base, path = folder / "base", folder / "run"
    assert in_a_fork(lambda: prepare(scenario, base)) == 0
    base.mkdir(exist_ok=True)
    shutil.copytree(base, path)

    def score() -> None:
        toy_run.score_toy(path, overwrite=scenario == "overwrite")

    assert in_a_fork(score) == 0
    states = [toy_run.contents(base), toy_run.contents(path)]

    def killed(point: int) -> None:
        die_at(point)
        score()

    def resumed() -> None:
        whole_or_refused(path, states)
        score()
        assert toy_run.contents(path) == states[1], "the files of the resumed run differ"

    for count, point in enumerate(itertools.count(first, step)):
        shutil.rmtree(path)
        shutil.copytree(base, path)
        status = in_a_fork(partial(killed, point))
        if status == 0:
            print(f"{count} points")
            return 0
        if status != -signal.SIGKILL or in_a_fork(resumed):
            print(f"{scenario}: wrong after a kill at call {point} (status {status})")
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
