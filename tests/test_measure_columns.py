"""The table of columns and the table of measures name the same things; what ``--measures`` understands."""

import pytest

from analysis.measure_names import NAMES
from uncertainty.errors import InputError
from uncertainty.measure_columns import ADDED_COLUMNS, ALL_COLUMNS, MEASURE_COLUMNS, columns_of, parse_measures
from uncertainty.measures import MEASURES


def test_every_measure_has_a_column_and_a_name_for_readers():
    assert set(MEASURES) == {*ALL_COLUMNS, "label_rank"}
    assert list(NAMES) == list(ALL_COLUMNS)
    units = {"fraction": "probability", "fraction^2": "probability^2"}
    for name, column in ALL_COLUMNS.items():
        assert units.get(MEASURES[name].unit, MEASURES[name].unit) == column.unit, name


def test_what_is_asked_for_is_added_once_and_in_the_order_of_the_table():
    assert parse_measures(()) == ()
    assert parse_measures(("all",)) == parse_measures(("bald", "all", "loss")) == ADDED_COLUMNS
    asked = parse_measures(("unresolved", "epistemic_corrected", "unresolved", "bald"))
    assert asked == ("epistemic_corrected", "unresolved")
    assert columns_of(asked) == (*MEASURE_COLUMNS, *asked)


def test_an_unknown_measure_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="'epistemic_corected'; did you mean epistemic_corrected"):
        parse_measures(("epistemic_corected",))
    with pytest.raises(InputError, match="give a tuple"):
        parse_measures("all")
