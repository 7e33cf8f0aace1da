"""Numbers that belong to a row: uniform, keyed, and the same wherever the row stands."""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.row_draws import row_normals, row_uniforms


def rows(n_rows: int = 20_000) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(n_rows).astype(np.float32), rng.integers(0, 3, n_rows)], rng.integers(0, 500, n_rows)


def test_numbers_are_uniform_and_normal_and_unrelated_to_the_values() -> None:
    columns, code_N = rows()
    uniform = row_uniforms(columns, code_N, 0)
    assert 0 < uniform.min() < uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(row_normals(columns, code_N, 0), "norm").pvalue > 0.01
    for values in (*columns, code_N):
        assert abs(stats.spearmanr(uniform, values)[0]) < 0.025


def test_neighbouring_seeds_examples_and_values_give_unrelated_numbers() -> None:
    value, code_N = np.arange(20_000.0), np.zeros(20_000, dtype=np.int64)
    uniform = row_uniforms([value], code_N, 0)
    for other in (row_uniforms([value], code_N, 1), row_uniforms([value], code_N + 1, 0), np.roll(uniform, 1)):
        assert abs(np.corrcoef(uniform, other)[0, 1]) < 0.025


def test_a_row_keeps_its_number_wherever_it_stands() -> None:
    columns, code_N = rows(1000)
    order = np.random.default_rng(1).permutation(1000)
    moved = row_uniforms([values[order] for values in columns], code_N[order], 0)
    assert (moved == row_uniforms(columns, code_N, 0)[order]).all()


def test_equal_rows_agree_and_minus_zero_is_zero() -> None:
    zero = row_uniforms([np.array([0.0, -0.0, 1.0])], np.array([3, 3, 3]), 0)
    assert zero[0] == zero[1] != zero[2]
    assert row_uniforms([np.float32([0.5])], np.array([1]), 0) == row_uniforms([np.array([0.5])], np.array([1]), 0)


def test_a_negative_seed_is_a_seed() -> None:
    columns, code_N = rows(10)
    assert (row_uniforms(columns, code_N, -1) != row_uniforms(columns, code_N, 1)).all()
