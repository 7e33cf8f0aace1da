import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncertainty import selection_schedule
from uncertainty.errors import InputError
from uncertainty.selection_schedule import SHAPES, Schedule, parse_schedule

SHARES = st.floats(0.001, 1.0)
SCHEDULES = st.builds(Schedule, st.sampled_from(["linear", "cosine", "warmup"]), SHARES, SHARES, SHARES)


def test_doctests():
    assert doctest.testmod(selection_schedule).failed == 0


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("0.25", [0.25] * 5),
        (0.25, [0.25] * 5),
        (1, [1.0] * 5),
        ("constant:0.5", [0.5] * 5),
        ("linear:1.0:0.2", [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("linear:0.2:1.0", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("cosine:1.0:0.2", [1.0, 0.6 + 0.4 * math.cos(math.pi / 4), 0.6, 0.6 - 0.4 * math.cos(math.pi / 4), 0.2]),
        ("warmup:0.5:0.2", [1.0, 0.6, 0.2, 0.2, 0.2]),
        ("warmup:1:0.2", [1.0, 0.8, 0.6, 0.4, 0.2]),
        (" warmup:0.001:0.2 ", [1.0, 0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_schedules_by_hand(text, shares):
    schedule = parse_schedule(text)
    assert [schedule.at(step, 5) for step in range(5)] == pytest.approx(shares, abs=1e-15)
    assert schedule.at(99, 5) == shares[-1]  # beyond the end it stays


@given(SCHEDULES, st.integers(1, 1000), st.integers(0, 2000))
def test_a_share_lies_between_the_ends_and_moves_one_way(schedule, total, step):
    share, following = schedule.at(step, total), schedule.at(step + 1, total)
    assert min(schedule.start, schedule.end) <= share <= max(schedule.start, schedule.end)
    assert (following - share) * (schedule.end - schedule.start) >= -1e-12
    assert schedule.at(total - 1, total) == schedule.end


@given(SCHEDULES, st.integers(2, 1000))
def test_the_first_step_has_the_first_share(schedule, total):
    assert schedule.at(0, total) == schedule.start


@given(st.sampled_from(sorted(SHAPES)), SHARES, SHARES)
def test_a_schedule_is_read_back_from_its_text(shape, first, second):
    text = f"{first}" if shape == "constant" else f"{shape}:{first}:{second}"
    assert str(parse_schedule(text)) == text


def test_a_constant_schedule_has_one_share():
    with pytest.raises(InputError, match=r"one share, got 0.5 and 0.25; write a share such as 0.25"):
        Schedule("constant", 0.5, 0.25)


@pytest.mark.parametrize(
    "text",
    ["", "a quarter", "0", "-0.5", "1.5", "nan", "inf", "linear:1.0", "linear:1:2", "cosine:0:1", "warmup:0.1",
     "warmup:0:0.5", "warmup:2:0.5", "square:1:0.5", "linear:1:0.5:0.2", "linear:one:0.5", "0.25:0.5", "25%"],
)  # fmt: skip
def test_what_is_no_schedule_is_one_line_with_the_mend(text):
    with pytest.raises(InputError) as caught:
        parse_schedule(text)
    said = str(caught.value)
    assert "\n" not in said
    assert "linear:FROM:TO" in said


def test_an_unknown_shape_is_refused():
    with pytest.raises(InputError, match="unknown schedule 'square'; choose one of constant, linear"):
        Schedule("square")


@pytest.mark.parametrize(("step", "total"), [(-1, 5), (0, 0)])
def test_impossible_steps_are_refused(step, total):
    with pytest.raises(ValueError, match=f"got {step} of {total}"):
        Schedule().at(step, total)
