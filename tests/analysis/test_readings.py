import numpy as np
import pandas as pd
from heatmap_frames import tokens

from analysis.readings import token_readings, visible


def values(readings):
    return {reading.name: reading.value for reading in readings}


def test_a_token_is_told_whole_with_the_error_beside_epistemic():
    (only,) = token_readings(tokens(["\n"], [2.0]).assign(epistemic_se=np.float32(0.0123)))
    assert values(only) == {
        "token": "↵", "id": "7", "position": "5", "loss": "2.00", "entropy": "0.200", "total": "0.200",
        "aleatoric": "0.200", "epistemic": "0.200 ± 0.012", "mc_loss": "0.200",
        "label_prob": "0.135", "margin": "0.0183", "rank": "0", "passes": "100",
    }  # fmt: skip
    assert str(only[3]) == "loss 2.00 nats"


def test_of_two_runs_both_values_and_the_change_are_told():
    here, there = tokens(["a"], [2.0]), tokens(["a"], [0.5]).assign(n_passes=50)
    (only,) = token_readings(here, there)
    assert values(only)["loss"] == "0.500 → 2.00 (+1.50)"
    assert values(only)["passes"] == "50 → 100"
    assert values(only)["rank"] == "0"


def test_what_is_not_known_is_a_dash_and_a_column_that_is_not_there_is_left_out():
    frame = tokens(["a"], [np.nan]).drop(columns=["mc_loss", "token_id"])
    (only,) = token_readings(frame.assign(label_rank=pd.array([pd.NA], dtype="Int32")))
    assert values(only)["loss"] == "–"
    assert values(only)["epistemic"] == "–"
    assert values(only)["rank"] == "–"
    assert not {"mc_loss", "id"} & set(values(only))


def test_what_cannot_be_seen_is_marked():
    assert visible("a\u202e\nb\x00") == "a‹U+202E›↵b‹U+0000›"
