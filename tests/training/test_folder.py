"""The folder of a training run: which run it belongs to, what it refuses, and what a crash leaves in it."""

import json
import math
import signal

import pytest
from kill_run import die_at, in_a_fork

from uncertainty.errors import InputError
from uncertainty.run_info import RunInfo
from uncertainty.training.folder import CARD, METRICS, TrainFolder, read_card, read_evaluations, refuse_foreign

INFO = RunInfo({"objective": "mle", "learning_rate": 0.1}, {"command": ["unc-train"]})
OTHER = RunInfo({"objective": "mle", "learning_rate": 0.2})


def finished(path):
    """A run that left everything a run can leave."""
    with TrainFolder.open(path, INFO) as folder:
        for name in ("checkpoints/checkpoint-1", "probe/step-000000", "reference/adapter"):
            (path / name).mkdir(parents=True)
        (path / "checkpoints/checkpoint-1/weights").write_text("x")
        (path / "curriculum.jsonl").write_text("{}\n")
        folder.log({"step": 1, "loss": 2.0})
        (folder.staging("adapter") / "weights").write_text("trained")
        folder.put("adapter", path / ".tmp/adapter")
        folder.finish({"steps": 1}, {"seconds": 2.0})
    return path


def test_a_new_run_writes_its_card_and_a_finished_one_is_read_back(tmp_path):
    path = tmp_path / "a" / "run"
    with TrainFolder.open(path, INFO) as folder:
        assert not folder.resumed
        assert read_card(path) == INFO
        assert read_card(path).status == "running"
    finished(tmp_path / "b")
    card = read_card(tmp_path / "b")
    assert (card.status, card.totals, card.timings) == ("complete", {"steps": 1}, {"seconds": 2.0})
    assert card.fingerprint == INFO.fingerprint
    assert not (tmp_path / "b/.tmp").exists()
    with TrainFolder.open(tmp_path / "b", INFO) as folder:
        assert folder.resumed
        assert folder.info == card


def test_what_was_recorded_at_the_start_stays_in_a_resumed_run(tmp_path):
    TrainFolder.open(tmp_path, INFO).close()
    with TrainFolder.open(tmp_path, RunInfo(INFO.settings, {"command": ["again"]})) as folder:
        assert folder.info.record == {"command": ["unc-train"]}


def test_other_settings_are_refused_with_the_list_and_leave_the_folder_as_it_was(tmp_path):
    finished(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(InputError, match=r"other settings \(learning_rate: 0.1 -> 0.2\); .* --overwrite"):
        TrainFolder.open(tmp_path, OTHER)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}


def test_overwrite_removes_the_old_run_and_nothing_else(tmp_path):
    finished(tmp_path)
    (tmp_path / "scores").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with TrainFolder.open(tmp_path, OTHER, overwrite=True) as folder:
        assert not folder.resumed
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", ".tmp", "notes.txt", "scores", CARD]
    assert read_card(tmp_path) == OTHER


@pytest.mark.slow
def test_an_overwriting_run_that_is_killed_at_any_point_can_be_given_again(tmp_path):
    path, point = tmp_path / "run", 0
    while True:
        point += 1
        if path.exists():
            for leftover in sorted(path.rglob("*"), reverse=True):
                leftover.rmdir() if leftover.is_dir() else leftover.unlink()
        finished(path)

        def overwrite(point=point):
            die_at(point)
            TrainFolder.open(path, OTHER, overwrite=True).close()

        status = in_a_fork(overwrite)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        old = read_card(path)
        if old.fingerprint == INFO.fingerprint and old.status == "running":  # the old command goes on, from its start
            for name in ("adapter", "checkpoints/checkpoint-1"):
                assert not (path / name).exists() or (path / name / "weights").exists()
            TrainFolder.open(path, INFO).close()
        with TrainFolder.open(path, OTHER, overwrite=True) as folder:
            assert folder.info == OTHER
            assert not list(path.glob("checkpoints/*"))
    assert point > 15


def test_foreign_folders_and_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; choose a folder for --out"):
        TrainFolder.open(tmp_path / "file", INFO)
    with pytest.raises(InputError, match=r"holds other files \(file\) and no training run"):
        TrainFolder.open(tmp_path, INFO, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    refuse_foreign(tmp_path / "none")


def test_a_folder_in_use_names_who_uses_it(tmp_path):
    with TrainFolder.open(tmp_path, INFO), pytest.raises(InputError, match="is being written by process"):
        TrainFolder.open(tmp_path, INFO)
    TrainFolder.open(tmp_path, INFO).close()


def test_a_path_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written to"):
        TrainFolder.open(tmp_path / "file/run", INFO)


def test_an_abandoned_run_leaves_nothing_but_what_is_worth_keeping(tmp_path):
    with TrainFolder.open(tmp_path / "new", INFO) as folder:
        folder.abandon()
    assert not (tmp_path / "new").exists()
    with TrainFolder.open(tmp_path / "made", INFO) as folder:
        (tmp_path / "made/reference").mkdir()
        folder.abandon()
    assert read_card(tmp_path / "made") == INFO
    with TrainFolder.open(tmp_path / "made", INFO) as folder:  # resumed: it was begun
        (tmp_path / "made/reference").rmdir()
        folder.abandon()
    assert read_card(tmp_path / "made") == INFO


BROKEN_CARDS = {
    "was not written by unc-train": b"[]",
    "cannot be read": b"{",
    "has schema version 2, this program reads 1": b'{"format": "token-uncertainty training", "schema_version": 2}',
    "a field is missing": b'{"format": "token-uncertainty training", "schema_version": 1}',
}


@pytest.mark.parametrize("reason", BROKEN_CARDS)
def test_a_broken_card_is_one_line(reason, tmp_path):
    (tmp_path / CARD).write_bytes(BROKEN_CARDS[reason])
    with pytest.raises(InputError, match=reason):
        read_card(tmp_path)


def test_an_edited_card_is_refused(tmp_path):
    finished(tmp_path)
    (tmp_path / CARD).write_text((tmp_path / CARD).read_text().replace("0.1", "0.3"))
    with pytest.raises(InputError, match="settings and fingerprint differ"):
        read_card(tmp_path)
    with pytest.raises(InputError, match=r"holds no train\.json; name the folder that unc-train wrote"):
        read_card(tmp_path / "none")


def test_numbers_json_cannot_hold_become_null(tmp_path):
    with TrainFolder.open(tmp_path, INFO) as folder:
        folder.log({"step": 1, "loss": math.nan, "grad_norm": math.inf, "epoch": 0.5})
    assert json.loads((tmp_path / METRICS).read_text()) == {"step": 1, "loss": None, "grad_norm": None, "epoch": 0.5}


def test_going_on_drops_later_lines_and_a_torn_one(tmp_path):
    with TrainFolder.open(tmp_path, INFO) as folder:
        for step in (0, 1, 2, 3):
            folder.log({"step": step, "eval_a_loss": float(step)})
        with (tmp_path / METRICS).open("a") as stream:
            stream.write('{"step": 1, "eval_a_')
        assert read_evaluations(tmp_path) == {"a": (0.0, 3.0, None)}
        folder.cut(2)
    assert [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()] == [0, 1, 2]


def test_evaluations_are_the_first_and_the_last_of_each_set(tmp_path):
    assert read_evaluations(tmp_path) == {}
    with TrainFolder.open(tmp_path, INFO) as folder:
        folder.log({"step": 0, "eval_a-b_loss": 3.0, "eval_c_loss": 1.0})
        folder.log({"step": 1, "loss": 9.0})
        folder.log({"step": 4, "eval_a-b_loss": 2.0, "eval_a-b_kl": 0.5, "eval_c_loss": 1.5})
    assert read_evaluations(tmp_path) == {"a-b": (3.0, 2.0, 0.5), "c": (1.0, 1.5, None)}
