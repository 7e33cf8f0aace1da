import os
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import toy_run

from uncertainty.errors import InputError
from uncertainty.run_folder import RunFolder
from uncertainty.scores import MEASURE_COLUMNS, read_examples, read_run, read_scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


@pytest.fixture
def unfinished(tmp_path):
    with RunFolder.open(tmp_path / "toy", toy_run.info(), toy_run.N_SHARDS) as folder:
        for shard in (0, 2):
            toy_run.commit(folder, shard)
    return tmp_path / "toy"


# --- the files alone, opened as the README shows


def test_pandas_opens_a_folder_of_parts_in_one_line(run):
    frame = pd.read_parquet(run / "tokens")
    assert frame.loss.isna().sum() == toy_run.N_SHARDS
    pd.testing.assert_frame_equal(frame.drop(columns="label_rank"), read_scores(run).drop(columns="label_rank"))
    assert len(pd.read_parquet(run / "examples")) == 9


def test_polars_scans_the_parts_in_one_line(run):
    frame = pl.scan_parquet(f"{run}/tokens/*.parquet").collect()
    assert frame.equals(read_scores(run, as_="polars"))
    correlation = pl.scan_parquet(f"{run}/tokens/*.parquet").select(pl.corr("epistemic", "loss", method="spearman"))
    expected = read_scores(run)[["epistemic", "loss"]].corr("spearman").iloc[0, 1]
    assert correlation.collect().item() == pytest.approx(expected, abs=1e-6)
    assert pl.read_parquet(f"{run}/examples/*.parquet")["input_ids"].to_list() == [
        text.input_ids for shard in range(3) for text in toy_run.texts(shard) if text.id != toy_run.BROKEN
    ]


def test_duckdb_queries_the_parts_in_one_line(run):
    rows = duckdb.sql(f"select token, count(*), avg(epistemic) from '{run}/tokens/*.parquet' group by 1").fetchall()
    frame = read_scores(run)
    assert {row[0]: row[1] for row in rows} == frame.token.value_counts().to_dict()
    expected = frame.groupby("token").epistemic.mean()
    assert {row[0]: row[2] for row in rows} == pytest.approx(expected.to_dict(), rel=1e-6)
    (pair,) = duckdb.sql(
        f"select count(*), sum(n_completion_tokens) from '{run}/examples/*.parquet' where topic = 'sums'"
    ).fetchall()
    assert pair == (3, 27)


def test_datasets_loads_the_parts_in_one_line(run, tmp_path):
    # In a process of its own: the library reads its offline switches when it is imported.
    program = (
        "from datasets import load_dataset\n"
        "for table in ('tokens', 'examples'):\n"
        f"    data = load_dataset('parquet', data_files=f'{run}/{{table}}/*.parquet', split='train')\n"
        "    print(table, len(data), data[9 * (table == 'tokens')])\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **offline}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tokens, examples = done.stdout.splitlines()
    assert tokens.startswith("tokens 60 {'example_id': 'row-0-1', 'turn': 1, 'position': 0,")
    assert "'loss': None" in tokens
    assert examples.startswith("examples 9 {'id': 'row-0-0'")


# --- the reader


def test_the_three_kinds_of_table_hold_the_same_rows(run):
    arrow = read_scores(run, as_="arrow")
    assert isinstance(arrow, pa.Table)
    assert arrow.num_rows == read_run(run).totals["tokens"] == 60
    assert read_scores(run, as_="polars").to_arrow().to_pydict() == arrow.to_pydict()
    frame = read_scores(run)
    assert frame.astype(object).where(frame.notna(), None).to_dict("list") == arrow.to_pydict()


def test_an_unknown_kind_of_table_is_refused(run):
    with pytest.raises(InputError, match=r"as_ is 'numpy'.*pandas, arrow, polars"):
        read_scores(run, as_="numpy")


def test_polars_asked_for_and_not_installed_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match="needs the package polars"):
        read_scores(run, as_="polars")


def test_pandas_has_null_measures_as_nan_and_ranks_as_integers_in_every_selection(run):
    frame = read_scores(run)
    assert {str(frame[name].dtype) for name in MEASURE_COLUMNS} == {"float32"}
    assert (frame.loss.isna() == (frame.position == 0)).all()
    assert (frame.label_rank.isna() == (frame.position == 0)).all()
    for part in (frame, read_scores(run, example="row-0-0"), read_scores(run, columns=["label_rank"])):
        assert str(part.label_rank.dtype) == "Int32"


def test_a_frame_says_which_run_it_is_of_and_can_be_written_on(run, tmp_path):
    frame = read_scores(run)
    assert frame.attrs["run"] == {
        "path": str(run),
        "fingerprint": read_run(run).fingerprint,
        "settings": toy_run.SETTINGS,
    }
    frame[frame.loss > 0].to_parquet(tmp_path / "copy.parquet")
    assert pd.read_parquet(tmp_path / "copy.parquet").attrs == frame.attrs


def test_columns_come_in_the_order_asked_and_each_once(run):
    frame = read_scores(run, columns=["loss", "example_id", "loss"])
    assert list(frame) == ["loss", "example_id"]
    assert list(read_scores(run, columns="loss")) == ["loss"]


def test_bald_is_read_as_epistemic(run):
    frame = read_scores(run, columns=["bald", "loss", "epistemic"])
    assert list(frame) == ["epistemic", "loss"]
    np.testing.assert_array_equal(frame.epistemic, read_scores(run).epistemic)
    names = ["mean_bald", "sum_bald", "max_bald"]
    assert list(read_examples(run, columns=names)) == ["mean_epistemic", "sum_epistemic", "max_epistemic"]


@pytest.mark.parametrize(
    ("column", "near"), [("epistemc", "epistemic"), ("blad", "bald"), ("tokens", "token"), ("los", "loss")]
)
def test_an_unknown_column_is_refused_with_the_nearest_name(run, column, near):
    with pytest.raises(InputError, match=f"no column '{column}'; did you mean '{near}'"):
        read_scores(run, columns=["loss", column])


def test_one_example_or_several_are_read_alone(run):
    whole = read_scores(run)
    one = read_scores(run, example="row-1-2")
    pd.testing.assert_frame_equal(one, whole[whole.example_id == "row-1-2"].reset_index(drop=True))
    some = read_scores(run, example=["row-2-0", "row-0-1"], columns=["loss"])
    assert list(some) == ["loss"]
    np.testing.assert_array_equal(some.loss, whole[whole.example_id.isin(["row-2-0", "row-0-1"])].loss)
    assert read_examples(run, example="row-1-2").completion.tolist() == ["".join(toy_run.PIECES[2:])]
    assert list(read_scores(run, example=[])) == list(whole)


def test_reading_one_example_leaves_the_other_shards_closed(run, monkeypatch):
    opened = []
    real = type(run).read_bytes

    def spy(path):
        opened.append(str(path.relative_to(run)))
        return real(path)

    monkeypatch.setattr(type(run), "read_bytes", spy)
    read_scores(run, example="row-1-2")
    assert [name for name in opened if "tokens" in name] == ["tokens/part-00001.parquet"]


def test_an_unknown_example_is_refused_with_the_nearest_id(run):
    with pytest.raises(InputError, match="no scored example 'row-1-22'; did you mean 'row-1-2'"):
        read_scores(run, example="row-1-22")


def test_an_unfinished_run_is_refused_with_what_is_there_and_how_to_resume(unfinished):
    for read in (read_scores, read_examples):
        with pytest.raises(InputError) as caught:
            read(unfinished)
        message = str(caught.value)
        assert message.startswith(f"{unfinished} is an unfinished run: 2 of 3 shards are there;")
        assert "(unc-score --out 'toy run')" in message
        assert "partial=True" in message
        assert "\n" not in message
    assert read_run(unfinished).status == "running"


def test_what_an_unfinished_run_has_committed_can_be_asked_for(unfinished):
    assert read_examples(unfinished, partial=True).id.str.slice(4, 5).unique().tolist() == ["0", "2"]
    assert len(read_scores(unfinished, partial=True)) == 40


def test_a_run_without_a_finished_shard_is_refused_even_in_part(tmp_path):
    RunFolder.open(tmp_path / "toy", toy_run.info(), 2).close()
    with pytest.raises(InputError, match="0 of 2 shards are there"):
        read_scores(tmp_path / "toy", partial=True)


def test_a_partial_read_still_refuses_a_damaged_file_by_name(unfinished):
    file = unfinished / "tokens" / "part-00002.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"tokens/part-00002\.parquet is damaged"):
        read_scores(unfinished, partial=True)
