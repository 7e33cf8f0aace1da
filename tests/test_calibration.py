"""How fast a model runs: positive times, and a time to draw where members are drawn one by one."""

from random_examples import examples

from uncertainty.budget import Budget
from uncertainty.calibration import calibrate
from uncertainty.data.batches import collate
from uncertainty.families.dropout import McDropout
from uncertainty.families.weight_noise import WeightNoise

WIDE = Budget(1 << 20, 1 << 30)


def test_calibration_measures_a_positive_time(tiny_model):
    model = tiny_model("llama")
    speed = calibrate(model, collate(examples(model, 1)), McDropout(), passes=10, seed=0, budget=WIDE)
    assert speed.seconds_per_row_token > 0
    assert speed.seconds_per_completion_token > 0


def test_drawing_a_member_is_timed_where_members_are_drawn_one_at_a_time(tiny_model):
    model = tiny_model("llama")
    batch = collate(examples(model, 1))
    speed = calibrate(model, batch, WeightNoise(0.1), passes=10, seed=0, budget=WIDE)
    assert speed.seconds_per_member > 0
    assert calibrate(model, batch, McDropout(), passes=10, seed=0, budget=WIDE).seconds_per_member == 0
