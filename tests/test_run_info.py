from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from uncertainty.errors import InputError
from uncertainty.run_info import RunInfo, differences, read_run


def test_an_info_read_back_equals_the_one_written():
    info = RunInfo(
        {
            "out": Path("a/b"),
            "sites": ("attention", "mlp"),
            "rate": np.float64(0.1),
            "seed": np.int64(3),
            "on": np.True_,
        },
        record={"kinds": {"b", "a"}, 1: None},
        timings={"seconds": 1.5},
        status="complete",
        totals={"tokens": 7},
        n_shards=2,
    )
    again = RunInfo.from_json(info.to_json(), "run.json")
    assert again == info
    assert again.fingerprint == info.fingerprint
    assert again.settings == {"out": "a/b", "sites": ["attention", "mlp"], "rate": 0.1, "seed": 3, "on": True}
    assert again.record == {"kinds": ["a", "b"], "1": None}


def test_a_dataclass_among_the_settings_becomes_its_fields():
    @dataclass(frozen=True)
    class Site:
        name: str
        rate: float

    assert RunInfo({"sites": [Site("attention", 0.1)]}).settings == {"sites": [{"name": "attention", "rate": 0.1}]}


def test_the_fingerprint_is_of_the_settings_alone_and_blind_to_their_order():
    info = RunInfo({"rate": 0.1, "seed": 0}, record={"torch": "2.11"}, timings={"seconds": 1})
    assert info.fingerprint == RunInfo({"seed": 0, "rate": 0.1}, record={"torch": "2.13"}).fingerprint
    assert info.fingerprint != RunInfo({"rate": 0.1, "seed": 1}).fingerprint
    # By hand: sha256 of {"rate":0.1,"seed":0}
    assert info.fingerprint == "b307772b478e8a4e0da67c1bc8d5a31dc53d430a3bd9fa6d9a3d4e878582ce41"


def test_the_footer_has_settings_and_record_and_nothing_that_changes_between_executions():
    first = RunInfo({"rate": 0.1}, {"sites": 4}, {"seconds": 1.0}, "running")
    second = RunInfo({"rate": 0.1}, {"sites": 4}, {"seconds": 9.0}, "complete", {"tokens": 3}, 2)
    assert first.footer() == second.footer()
    assert b'"sites":4' in first.footer()


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), (np.float32("inf"), ValueError), (object(), TypeError)]
)
def test_what_json_cannot_hold_is_refused_by_name(value, error):
    with pytest.raises(error, match=r"settings\.model\.rate"):
        RunInfo({"model": {"rate": value}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "damaged"),
        (b"\x00" * 200, "damaged"),
        (b"[]", "not written by unc-score"),
        (b'{"name": "another program"}', "not written by unc-score"),
        (b'{"format": "token-uncertainty run", "schema_version": 99}', "schema version 99"),
        (b'{"format": "token-uncertainty run", "schema_version": 1, "settings": {}}', "damaged"),
        (RunInfo({"rate": 0.1}).to_json().replace(b"0.1", b"0.2"), "settings and fingerprint differ"),
    ],
)
def test_a_run_json_that_is_not_whole_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_run(tmp_path)
    assert str(tmp_path / "run.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_without_a_run_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in [("none", "does not exist"), (".", "holds no run.json"), ("file", "cannot be read")]:
        with pytest.raises(InputError, match=message):
            read_run(tmp_path / path)


def test_differences_name_what_was_added_removed_and_changed():
    old = {"rate": 0.1, "model": {"id": "a", "revision": None}, "limit": 5, "text": "x" * 80 + "1"}
    new = {"rate": 0.1, "model": {"id": "b", "revision": None}, "seed": 0, "text": "x" * 80 + "2"}
    found = differences(old, new)
    assert found[0] == 'model.id: "a" -> "b"'
    assert found[1] == "limit: 5 -> (not set)"
    before, after = found[2].removeprefix("text: ").split(" -> ")
    assert before != after
    assert found[3:] == ["seed: (not set) -> 0"]
    assert differences(old, old) == []
