"""Checkpoints: the receipt proves every byte, and what is not whole gives way to the last that is."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from kill_run import die_at, in_a_fork

from uncertainty.training.checkpoints import RECEIPT, Found, commit, last_good, remove_newer, remove_older

FINGERPRINT = "a" * 64


def checkpoint(folder: Path, step: int, *, commits: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "part").mkdir(parents=True)
    (path / "weights.bin").write_bytes(bytes(range(step, step + 50)))
    (path / "part" / "state.json").write_text(json.dumps({"step": step}))
    if commits:
        commit(path, FINGERPRINT)
    return path


def test_the_newest_whole_checkpoint_is_found_by_number_not_by_name(tmp_path):
    for step in (9, 100, 20):
        checkpoint(tmp_path, step)
    (tmp_path / "runs").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert last_good(tmp_path, FINGERPRINT) == Found(tmp_path / "checkpoint-100", 100, ())


def test_no_folder_and_no_checkpoint_mean_the_beginning(tmp_path):
    assert last_good(tmp_path / "none", FINGERPRINT) == last_good(tmp_path, FINGERPRINT) == Found(None, 0, ())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def receipt_of_another_run(path: Path) -> None:
    (path / RECEIPT).unlink()
    commit(path, "b" * 64)


def edit(path: Path, **changes: object) -> None:
    (path / RECEIPT).write_text(json.dumps(json.loads((path / RECEIPT).read_text()) | changes))


DAMAGE = {
    "weights.bin is damaged": lambda path: flip(path / "weights.bin"),
    "part/state.json is damaged": lambda path: (path / "part/state.json").write_text('{"step": 3}'),
    "weights.bin is missing": lambda path: (path / "weights.bin").unlink(),
    "it was not finished": lambda path: (path / RECEIPT).unlink(),
    "its receipt cannot be read": lambda path: (path / RECEIPT).write_bytes((path / RECEIPT).read_bytes()[:-20]),
    "its receipt is damaged": lambda path: edit(path, files={}),
    "it is of a run with other settings": receipt_of_another_run,
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_newest_checkpoint_gives_way_to_the_last_good_one_and_is_named(reason, tmp_path):
    good, bad = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    DAMAGE[reason](bad)
    assert last_good(tmp_path, FINGERPRINT) == Found(good, 2, (f"checkpoint-4: {reason}",))
    DAMAGE[reason](good)
    both = (f"checkpoint-4: {reason}", f"checkpoint-2: {reason}")
    assert last_good(tmp_path, FINGERPRINT) == Found(None, 0, both)


@pytest.mark.parametrize("text", ["[]", "null", '{"files": 3}', "{}"])
def test_a_receipt_that_is_something_else_is_damage(text, tmp_path):
    (checkpoint(tmp_path, 1) / RECEIPT).write_text(text)
    assert last_good(tmp_path, FINGERPRINT).damaged == ("checkpoint-1: its receipt is damaged",)


def test_files_that_came_later_do_no_harm(tmp_path):
    path = checkpoint(tmp_path, 1)
    (path / "notes.txt").write_text("mine")
    assert last_good(tmp_path, FINGERPRINT).path == path


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def test_only_whole_checkpoints_count_among_those_that_stay(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 0, commits=False)
    checkpoint(tmp_path, 4, commits=False)
    remove_older(tmp_path, 2)
    assert steps(tmp_path) == [2, 3, 4]
    remove_older(tmp_path, 1)
    assert steps(tmp_path) == [3, 4]


def test_nothing_is_removed_while_no_checkpoint_is_whole(tmp_path):
    checkpoint(tmp_path, 1, commits=False)
    checkpoint(tmp_path, 2, commits=False)
    remove_older(tmp_path, 1)
    assert steps(tmp_path) == [1, 2]


def test_later_checkpoints_are_removed_and_earlier_ones_stay(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    remove_newer(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]
    remove_newer(tmp_path, 0)
    assert steps(tmp_path) == []


def test_whenever_a_commit_is_killed_the_checkpoint_is_whole_or_not_there(tmp_path):
    checkpoint(tmp_path, 1)

    def killed(point: int) -> None:
        die_at(point)
        checkpoint(tmp_path, 2)
        remove_older(tmp_path, 1)

    found = []
    for point in range(1, 100):
        status = in_a_fork(lambda: killed(point))  # noqa: B023  the fork runs at once
        found.append(last_good(tmp_path, FINGERPRINT).step)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        remove_newer(tmp_path, 1)
        if found[-1] == 2:
            checkpoint_1 = tmp_path / "checkpoint-1"
            if not (checkpoint_1 / RECEIPT).exists():
                shutil.rmtree(checkpoint_1, ignore_errors=True)  # half removed already
                checkpoint(tmp_path, 1)
    assert found[0] == 1
    assert found[-1] == 2
    assert found == sorted(found)
    assert 10 < len(found) < 99
