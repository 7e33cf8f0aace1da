"""The file of a run's curriculum: written row by row, cut at a resume, and read back."""

import numpy as np
import pytest

from uncertainty.errors import InputError
from uncertainty.token_classes import CLASSES
from uncertainty.training.curriculum_rows import (
    COLUMNS,
    FILE,
    append_row,
    column_names,
    drop_rows_after,
    read_curriculum,
)


def row(step):
    made = dict.fromkeys(column_names(), 0.5) | {"jaccard": None, "entering": None, "leaving": []}
    whole = ("first_step", "n_steps", "n_tokens", "n_selected", "n_seen_before")
    return made | dict.fromkeys(whole, 3) | {"step": step}


@pytest.fixture
def run(tmp_path):
    for step in (10, 20, 30):
        append_row(tmp_path, row(step))
    return tmp_path


def test_rows_come_back_with_their_types(run):
    frame = read_curriculum(run)
    assert list(frame.columns) == column_names()
    assert len(column_names()) == len(COLUMNS) + 3 * (len(CLASSES) - 1)
    assert frame["step"].tolist() == [10, 20, 30]
    assert frame["step"].dtype == np.int64
    assert frame["jaccard"].isna().all()
    assert frame["jaccard"].dtype == np.float64
    assert frame["entering"].tolist() == [None] * 3
    assert frame["leaving"].tolist() == [[]] * 3


def test_a_run_without_a_row_yet_is_an_empty_frame(tmp_path):
    (tmp_path / FILE).touch()
    assert list(read_curriculum(tmp_path).columns) == column_names()
    assert len(read_curriculum(tmp_path)) == 0


def test_a_torn_last_line_is_left_out_and_cut_off_before_going_on(run):
    whole = (run / FILE).read_bytes()
    (run / FILE).write_bytes(whole[:-20])
    assert read_curriculum(run)["step"].tolist() == [10, 20]
    drop_rows_after(run, 25)
    append_row(run, row(30))
    assert (run / FILE).read_bytes() == whole


@pytest.mark.parametrize(("step", "left"), [(30, [10, 20, 30]), (29, [10, 20]), (10, [10]), (9, [])])
def test_a_resume_cuts_the_rows_after_its_checkpoint(run, step, left):
    drop_rows_after(run, step)
    assert read_curriculum(run)["step"].tolist() == left


def test_a_resume_before_the_first_row_has_nothing_to_cut(tmp_path):
    drop_rows_after(tmp_path, 5)
    assert not (tmp_path / FILE).exists()


def test_a_damaged_line_is_named(run):
    lines = (run / FILE).read_bytes().splitlines(keepends=True)
    (run / FILE).write_bytes(lines[0] + b'{"st\n' + lines[2])
    with pytest.raises(InputError, match=r"line 2 of .*curriculum\.jsonl is damaged"):
        read_curriculum(run)
    (run / FILE).write_bytes(b"[]\n")
    with pytest.raises(InputError, match="line 1 of"):
        drop_rows_after(run, 0)


def test_a_folder_without_a_curriculum_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no curriculum\.jsonl; name the folder that unc-train wrote"):
        read_curriculum(tmp_path)
