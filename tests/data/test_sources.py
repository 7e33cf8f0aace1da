import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uncertainty.data.sources import ROW_NUMBER, UnusableRow, conversation, read_source
from uncertainty.errors import InputError

ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(5)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refused(dataset, **options):
    with pytest.raises(InputError) as caught:
        read_source(str(dataset), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_gives_rows_columns_and_its_hash(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, {"question": "q", "answer": "a", "level": 1}])
    source = read_source(path)
    assert (source.kind, source.format, source.columns) == ("file", "gsm8k", ["question", "answer", "level"])
    assert [(row.number, row.id) for row in source.rows] == [(i, str(i)) for i in range(6)]
    assert source.rows[3].where == "a.jsonl line 4"
    assert source.files == {"a.jsonl": hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()}
    assert [row.fields for row in read_source(path, limit=2).rows] == ROWS[:2]


def test_a_folder_is_read_in_the_order_of_names_and_numbers_go_on(tmp_path):
    write_lines(tmp_path / "b.jsonl", ROWS[2:])
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), tmp_path / "a.parquet")
    (tmp_path / "README.md").write_text("not data")
    source = read_source(str(tmp_path))
    assert (source.kind, [row.fields for row in source.rows]) == ("folder", ROWS)
    assert [(row.id, row.where) for row in source.rows][1:3] == [("1", "a.parquet row 1"), ("2", "b.jsonl line 1")]
    assert list(source.files) == ["a.parquet", "b.jsonl"]
    assert [row.fields for row in read_source(str(tmp_path), limit=3).rows] == ROWS[:3]
    assert list(read_source(str(tmp_path), limit=2).files) == ["a.parquet"]


def test_a_split_of_a_folder_is_the_files_named_so(tmp_path):
    write_lines(tmp_path / "train-00000.jsonl", ROWS[:2])
    write_lines(tmp_path / "train-00001.jsonl", ROWS[2:4])
    write_lines(tmp_path / "test.jsonl", ROWS[4:])
    assert len(read_source(str(tmp_path), split="train").rows) == 4
    assert len(read_source(str(tmp_path), split="test").rows) == 1
    assert "did you mean test?" in refused(tmp_path, split="tset")


def test_files_of_a_folder_with_other_columns_are_refused(tmp_path):
    write_lines(tmp_path / "a.jsonl", ROWS)
    write_lines(tmp_path / "b.jsonl", [{"text": "x"}])
    assert "b.jsonl has the columns text and a.jsonl has answer, question" in refused(tmp_path)


def test_ids_come_from_the_column_asked_for_then_from_id_then_from_the_row(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"id": 7 - i, "key": f"k{i}", **row} for i, row in enumerate(ROWS)])
    assert [row.id for row in read_source(path).rows][:2] == ["7", "6"]
    assert [row.id for row in read_source(path, id_column="key").rows][:2] == ["k0", "k1"]
    assert [row.id for row in read_source(path, id_column=ROW_NUMBER).rows][:2] == ["0", "1"]
    assert "did you mean key?" in refused(path, id_column="kye")


def test_repeated_ids_stop_with_the_first_few_and_where(tmp_path):
    ids = ["a", "b", "a", "c", "b", "a", "c", "d"]
    path = write_lines(tmp_path / "a.jsonl", [{"id": name, "text": "x"} for name in ids])
    message = refused(path)
    assert "4 rows repeat an id of column 'id': 'a' (a.jsonl line 1 and a.jsonl line 3), 'b' (" in message
    assert message.endswith(f"...; make them unique, or use --id-column {ROW_NUMBER}")


@pytest.mark.parametrize(
    ("value", "words"), [(None, "missing"), (1.5, "the number 1.5"), (True, "true"), ([], "a list")]
)
def test_an_id_that_is_no_name_stops(tmp_path, value, words):
    path = write_lines(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}, {"id": value, "text": "x"}])
    assert f"a.jsonl line 2: the id in column 'id' is {words}" in refused(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv"])
def test_an_empty_data_set_stops(tmp_path, name):
    (tmp_path / name).write_text("")
    assert "has no rows" in refused(tmp_path / name)


def test_a_path_that_is_not_there_says_so_and_names_the_nearest(tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    assert f"no such file or folder; did you mean {tmp_path / 'test.jsonl'}?" in refused(tmp_path / "tst.jsonl")
    assert "no such file, and no folder" in refused(tmp_path / "deeper" / "test.jsonl")
    for name in ("./data", "~/nothing-here", "data.jsonl", "a/b/c", "x.txt.gz"):
        assert "no such file" in refused(name), name
    assert "is neither a file, a folder nor a hub id" in refused("two words")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "--limit 0: at least one row is needed"),
        ({"sample_by": "paragraf"}, "did you mean paragraph?"),
        ({"format": "gsm"}, "did you mean gsm8k?"),
        ({"split": "train"}, "is one file, which has no splits; leave --split out"),
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path, options, words):
    assert words in refused(write_lines(tmp_path / "a.jsonl", ROWS), **options)


def test_a_folder_without_data_names_the_folders_inside(tmp_path):
    (tmp_path / "data").mkdir()
    assert "it has the folders data: name one of them" in refused(tmp_path)


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {"train": ROWS[:4], "test": ROWS[4:]}
    dataset = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    dataset.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    return tmp_path / "saved"


def test_a_saved_data_set_is_read_by_split(saved):
    source = read_source(str(saved), split="train")
    assert (source.kind, [row.fields for row in source.rows]) == ("saved", ROWS[:4])
    assert sorted(source.files) == [f"train/data-0000{i}-of-00002.arrow" for i in range(2)]
    assert len(read_source(str(saved), split="train", limit=1).rows) == 1
    assert [row.fields for row in read_source(str(saved / "test")).rows] == ROWS[4:]
    assert "has the splits train, test; choose one with --split" in refused(saved)
    assert "did you mean train?" in refused(saved, split="trian")
    next((saved / "test").glob("*.arrow")).write_bytes(b"broken")
    assert "not a sound arrow file" in refused(saved, split="test")


def test_a_hub_data_set_comes_with_its_split_and_revision(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    build = datasets.load_dataset_builder
    asked = []

    def from_hub(name, config):
        asked.append((name, config))
        builder = build("json", data_files={"train": path}, cache_dir=str(tmp_path / "cache"))
        builder.hash = "0123456789abcdef0123456789abcdef01234567"
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", from_hub)
    source = read_source("owner/name:main", limit=2)
    assert asked == [("owner/name", "main")]
    assert (source.kind, source.revision, source.files) == ("hub", "0123456789abcdef0123456789abcdef01234567", {})
    assert [row.fields for row in source.rows] == ROWS[:2]
    assert "owner/name: --split tran is unknown; choose one of train; did you mean train?" in refused(
        "owner/name", split="tran"
    )


def test_a_hub_id_without_the_datasets_library_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "a hub data set needs the package datasets; install it, or give a local file" in refused("owner/name")


def test_a_hub_id_offline_and_not_in_the_cache_fails_with_one_line(tmp_path):
    pytest.importorskip("datasets")
    code = "from uncertainty.data.sources import read_source; read_source('nobody/has-this-data-set')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert "InputError: nobody/has-this-data-set is not in the cache and HF_HUB_OFFLINE is set" in last


SPY = """
import socket, sys
def refuse(*arguments, **options):
    raise SystemExit("a socket was opened")
socket.socket.__init__ = refuse
socket.getaddrinfo = refuse
from uncertainty.data.sources import read_source
for dataset in sys.argv[1:]:
    assert read_source(dataset).rows
assert "datasets" not in sys.modules and "torch" not in sys.modules
"""


def test_local_paths_open_no_socket_write_no_cache_and_need_no_datasets_library(tmp_path, saved):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    (tmp_path / "c.csv").write_text("question,answer\n1,2\n")
    (tmp_path / "d.txt").write_text("hello")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "e.parquet")
    home = tmp_path / "home"
    home.mkdir()
    paths = [folder, *(tmp_path / name for name in ("b.json", "c.csv", "d.txt", "e.parquet")), saved / "train"]
    environment = os.environ | {"HOME": str(home), "HF_HOME": str(home)}
    subprocess.run([sys.executable, "-c", SPY, *map(str, paths)], check=True, env=environment)
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize(
    ("name", "format", "rows", "skipped"),
    [
        ("gsm8k/test.jsonl", "gsm8k", 1319, {}),
        ("alpaca/validation.parquet", "alpaca", 1150, {}),
        ("alpaca/alpaca_en_demo.json", "alpaca", 999, {}),
        ("dolly/dolly_3k.jsonl", "alpaca", 2996, {}),
        ("sharegpt/sharegpt_sample.jsonl.gz", "sharegpt", 977, {}),
        ("sharegpt/dummy_conversation.json", "sharegpt", 500, {}),
        ("sharegpt/glaive_toolcall_en_demo.json", "sharegpt", 300, {"unknown_role": 153}),
        ("tinystories/tinystories_cs336_sample.txt", "text", 5, {}),
        ("books/test.parquet", "text", 256, {}),
    ],
)
def test_real_files_are_read_whole(shared_data, name, format, rows, skipped):
    source = read_source(str(shared_data / name))
    reasons: Counter[str] = Counter()
    for row in source.rows:
        try:
            assert conversation(row, source.format)
        except UnusableRow as unusable:
            reasons[unusable.reason] += 1
    assert (source.format, len(source.rows), dict(reasons)) == (format, rows, skipped)


def test_real_files_of_no_known_format_are_refused(shared_data):
    assert "no format has these columns" in refused(shared_data / "mt_bench" / "question.jsonl")
    assert "name one file" in refused(shared_data / "gsm8k")
