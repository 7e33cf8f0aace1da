"""What a person sees while training: a bar on a terminal, else a line for every evaluation and now and then."""

import sys
from types import SimpleNamespace

import pytest

from uncertainty.training import progress
from uncertainty.training.progress import progress_callback

LOGS = {"loss": 1.23456, "grad_norm": 3.0, "fraction_kept": 0.25, "learning_rate": 1e-4, "epoch": 0.5}
EVALUATED = {"eval_held_loss": 2.0, "eval_held_perplexity": 7.4, "eval_held_kl": 0.1, "epoch": 0.5}


def at(step: int, of: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=of)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_line_for_every_evaluation_and_one_each_half_minute(clock):
    lines = []
    with progress_callback(lines.append) as shown:
        shown.on_train_begin(None, at(0), None)
        shown.on_log(None, at(0), None, logs=EVALUATED)
        clock[0] += 29
        shown.on_log(None, at(2), None, logs=LOGS)
        assert lines == ["step 0 of 10: held_loss 2"]
        clock[0] += 11
        shown.on_log(None, at(4), None, logs=LOGS)
        assert lines[1:] == ["step 4 of 10: loss 1.235, fraction_kept 0.25, 60 s left"]
        shown.on_log(None, at(5), None, logs=LOGS)
        shown.on_log(None, at(10), None, logs=EVALUATED)
        shown.on_log(None, at(10), None, logs={"train_runtime": 3.0, "train_loss": 1.0})
    assert lines[2:] == ["step 10 of 10: held_loss 2"]


def test_time_left_counts_the_steps_of_this_start_alone(clock):
    lines = []
    with progress_callback(lines.append) as shown:
        shown.on_train_begin(None, at(1000, 1010), None)
        clock[0] += 40
        shown.on_log(None, at(1004, 1010), None, logs=LOGS)
    assert lines[0].endswith(", 60 s left")


def test_a_terminal_gets_a_bar_with_the_latest_numbers(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_callback(lambda line: pytest.fail("a line beside the bar")) as shown:
        shown.on_train_begin(None, at(4), None)
        shown.on_step_end(None, at(10), None)
        shown.on_log(None, at(10), None, logs=LOGS)
        shown.on_log(None, at(10), None, logs=EVALUATED)
        shown.on_train_end(None, at(10), None)
    err = capsys.readouterr().err
    assert "10/10" in err
    assert "held_loss=2" in err
    assert err.endswith("\n")


def test_an_interrupted_bar_does_not_stand_before_the_next_line(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def interrupted():
        with progress_callback(print) as shown:
            shown.on_train_begin(None, at(0), None)
            shown.on_step_end(None, at(3), None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err.endswith("\n")
