"""Blocks of a run's passes: the first is what a run of so many passes reports, the others are runs like it."""

import numpy as np
import pytest
from random_examples import examples
from test_engine import run

from uncertainty.budget import Budget
from uncertainty.data.batches import collate
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.pass_curve import COUNTS, drawn_in, pass_curve, usable_counts

WIDE = Budget(1 << 20, 1 << 30)


def curve(model, rows, family, counts, **options):
    (found,) = pass_curve(model, [collate(rows)], family, counts, **{"budget": WIDE, **options})
    return found


def of(found, values_SN, name):
    return values_SN[:, found.example_N == found.ids.index(name)]


@pytest.mark.parametrize("budget", [WIDE, Budget(200, 1 << 12)])
def test_the_first_block_is_a_run_of_so_many_passes(tiny_model, budget):
    model, family = tiny_model("llama"), McDropout(rate=0.2)
    rows = examples(model, 3)
    found = curve(model, rows, family, (5, 10, 24), budget=budget)
    for count in (5, 10, 24):
        fixed = run(model, rows, passes=count, family=family, measures=("epistemic_corrected",))
        for row in rows:
            first = of(found, found.epistemic[count], row.id)[0]
            np.testing.assert_allclose(first, fixed[row.id]["epistemic"], atol=1e-6)
            first = of(found, found.corrected[count], row.id)[0]
            np.testing.assert_allclose(first, fixed[row.id]["epistemic_corrected"], atol=1e-6)
    assert [len(found.epistemic[count]) for count in (5, 10, 24)] == [4, 2, 1]


def test_blocks_are_other_passes_of_the_same_tokens(tiny_model):
    model = tiny_model("llama")
    found = curve(model, examples(model, 4), McDropout(rate=0.2), (50, 100))
    one, two = found.epistemic[50]
    assert not np.allclose(one, two)
    assert np.corrcoef(one, two)[0, 1] > 0.5
    assert (np.abs(one - two) / one).mean() < 1.0


def test_balanced_masks_are_cut_between_groups_and_corrected_by_them(tiny_model):
    model, family = tiny_model("llama"), McDropout(rate=0.1, masks="balanced")
    sizes = drawn_in(model, family, 100)
    counts = usable_counts((5, 10, 20, 50, 100), 100, sizes)
    assert (sizes, counts) == ((10,) * 10, (10, 20, 50, 100))
    found = curve(model, examples(model, 2), family, counts)
    assert np.isnan(found.corrected[10]).all()  # a single group says nothing of its bias
    assert (found.corrected[20] >= found.epistemic[20]).all()
    fixed = run(model, examples(model, 2), passes=100, family=family, measures=("epistemic_corrected",))
    whole = np.concatenate([fixed[name]["epistemic_corrected"] for name in found.ids])
    np.testing.assert_allclose(found.corrected[100][0], whole, atol=1e-6)


def test_counts_are_those_that_fit():
    assert usable_counts(COUNTS, 100) == (5, 10, 20, 50, 100)
    assert usable_counts((50, 5, 5, 1, 300), 120) == (5, 50, 120)
    with pytest.raises(InputError, match="groups of 10 and 11 passes where --passes is 105; give --passes 110"):
        usable_counts(COUNTS, 105, (11,) * 5 + (10,) * 5)


def test_what_cannot_be_cut_is_refused(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="balanced masks of 20 passes are a single group"):
        drawn_in(model, McDropout(rate=0.1, masks="balanced"), 20)
    assert drawn_in(model, McDropout(rate=0.1), 20) is None
