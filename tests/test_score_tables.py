import dataclasses
import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy_run

from uncertainty.errors import InputError
from uncertainty.score_schema import TOKEN_SCHEMA, example_schema, kept_types, token_schema
from uncertainty.score_tables import ROW_GROUP_ROWS, parquet_bytes, rows_sha256, shard_tables
from uncertainty.scores import MEASURE_COLUMNS, ExampleText, TokenScores


def tables(shard=0, **more):
    examples = toy_run.texts(shard)
    return shard_tables(toy_run.scores(examples, **more), examples, toy_run.kept())


def read(content, **more):
    return pq.ParquetFile(pa.BufferReader(content), **more)


MEASURES = ("loss", "entropy", "total", "aleatoric", "epistemic", "epistemic_se", "mc_loss", "label_prob", "margin")


# --- schema


def test_token_columns_have_the_documented_names_types_and_order():
    int_, text, real = "int32", "string", "float"
    assert [(item.name, str(item.type)) for item in TOKEN_SCHEMA] == [
        ("example_id", text),
        ("turn", int_),
        ("position", int_),
        ("index_in_completion", int_),
        ("token_id", int_),
        ("token", text),
        ("char_start", int_),
        ("char_end", int_),
        ("is_special", "bool"),
        *((name, real) for name in MEASURES),
        ("label_rank", int_),
        ("n_passes", int_),
    ]
    nullable = {item.name for item in TOKEN_SCHEMA if item.nullable}
    assert nullable == {*MEASURE_COLUMNS, "label_rank"}


def test_example_columns_are_text_counts_three_statistics_of_each_measure_and_the_kept_ones():
    names = example_schema({"topic": pa.string()}).names
    own = ["id", "prompt", "completion", "messages", "input_ids", "n_prompt_tokens", "n_completion_tokens", "truncated"]
    statistics = [f"{word}_{name}" for name in MEASURE_COLUMNS for word in ("mean", "sum", "max")]
    assert names == [*own, *statistics, "topic"]


def test_every_column_says_its_unit_and_meaning_in_the_file():
    for table in tables():
        for item in read(parquet_bytes(table, b"{}")).schema_arrow:
            assert set(item.metadata) >= {b"unit", b"meaning"}, item.name
            assert item.metadata[b"meaning"], item.name
    loss = read(parquet_bytes(tables()[0], b"{}")).schema_arrow.field("loss")
    assert loss.metadata[b"unit"] == b"nats"


# --- tables


def test_rows_follow_the_texts_although_the_engine_went_backwards():
    tokens, examples = tables()
    assert tokens.schema == TOKEN_SCHEMA
    texts = toy_run.texts(0)
    assert examples["id"].to_pylist() == [text.id for text in texts]
    rows = tokens.to_pylist()
    expected = [
        (text.id, position, index, text.input_ids[position], text.tokens[index], text.char_start[index])
        for text in texts
        for index, position in enumerate(text.position)
    ]
    names = ("example_id", "position", "index_in_completion", "token_id", "token", "char_start")
    assert [tuple(row[name] for name in names) for row in rows] == expected
    for row, example in ((row, text) for text in texts for row in rows if row["example_id"] == text.id):
        assert example.completion[row["char_start"] : row["char_end"]] == row["token"]
        assert row["is_special"] == (row["token"] == "</s>")
        assert row["turn"] == 1


def test_a_token_without_a_prediction_has_nulls_and_no_other_has():
    tokens, _ = tables()
    for row in tokens.to_pylist():
        values = [row[name] for name in (*MEASURE_COLUMNS, "label_rank")]
        assert [value is None for value in values] == [row["position"] == 0] * len(values)
        assert row["n_passes"] == (20 if row["position"] else 0)
    assert sum(position == 0 for position in tokens["position"].to_pylist()) == 1


def test_measures_keep_the_engines_values_to_float32():
    texts = toy_run.texts(0)
    (block,) = [b for b in toy_run.scores(texts) if texts[0].id in b.ids]
    mine = block.example_N == block.ids.index(texts[0].id)
    order = np.argsort(block.position_N[mine])
    tokens, _ = tables()
    rows = tokens.filter(pa.compute.equal(tokens["example_id"], texts[0].id))
    for name in MEASURE_COLUMNS:
        expected = block.measures[name][mine][order].astype(np.float32)
        np.testing.assert_array_equal(rows[name].to_numpy(), expected)


def test_statistics_of_an_example_are_those_of_its_predicted_tokens():
    tokens, examples = tables()
    frame = tokens.to_pandas()
    for row in examples.to_pylist():
        loss = frame[frame.example_id == row["id"]].loss.dropna().to_numpy(dtype=np.float64)
        assert row["mean_loss"] == pytest.approx(loss.mean(), rel=1e-6)
        assert row["sum_loss"] == pytest.approx(math.fsum(loss), rel=1e-6)
        assert row["max_loss"] == pytest.approx(max(loss), rel=1e-6)
        assert row["n_completion_tokens"] == (frame.example_id == row["id"]).sum()
        assert row["n_prompt_tokens"] + row["n_completion_tokens"] == len(row["input_ids"])
        assert json.loads(row["messages"])[1] == {"role": "assistant", "content": "Ünïcode"}


def test_an_example_whose_only_token_has_no_prediction_has_null_statistics():
    one = toy_run.text("one", 0, ["Hel"])
    _, examples = shard_tables([toy_run.block_scores([one], 0, ())], [one])
    row = examples.to_pylist()[0]
    assert {row[f"{word}_{name}"] for word in ("mean", "sum", "max") for name in MEASURE_COLUMNS} == {None}


def test_unusable_examples_are_in_neither_table_and_a_shard_of_them_is_an_empty_one():
    texts = toy_run.texts(1)
    tokens, examples = tables(1)
    assert toy_run.BROKEN in {text.id for text in texts}
    assert toy_run.BROKEN not in set(tokens["example_id"].to_pylist()) | set(examples["id"].to_pylist())
    empty = shard_tables(toy_run.scores(texts, unusable=[text.id for text in texts]), texts, toy_run.kept())
    assert [table.num_rows for table in empty] == [0, 0]
    for table, full in zip(empty, (tokens, examples), strict=True):
        assert read(parquet_bytes(table, b"{}")).schema_arrow.equals(full.schema, check_metadata=True)


def spoilt(**changes):
    text = toy_run.text("row", 2, toy_run.PIECES)
    block = toy_run.block_scores([text], 0, ())
    return [dataclasses.replace(block, **{name: change(getattr(block, name)) for name, change in changes.items()})], [
        text
    ]


def first_nan(measure):
    def change(measures):
        values = measures[measure].copy()
        values[0] = np.nan
        return {**measures, measure: values}

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": lambda ids: ("other",)}, "different examples.*'other', 'row'"),
        ({"ids": lambda ids: ("row", "row")}, "one twice.*'row'"),
        ({"position_N": lambda position_N: position_N + 1}, "'row' are not at its completion tokens"),
        ({"token_id_N": lambda token_id_N: token_id_N + 1}, "'row' are not at its completion tokens"),
        ({"n_passes_N": lambda n_passes_N: n_passes_N[1:]}, "values of n_passes for"),
        ({"measures": lambda m: {name: m[name] for name in MEASURE_COLUMNS[1:]}}, "hold the measures"),
        ({"measures": lambda m: {**m, "new": m["loss"]}}, "hold the measures"),
        ({"measures": first_nan("loss")}, "loss is nan but label_rank"),
        ({"measures": first_nan("epistemic")}, "epistemic is nan .* of example 'row'"),
        ({"label_rank_N": lambda rank_N: np.full_like(rank_N, -1)}, "loss is .* but label_rank -1"),
        ({"unusable": lambda _: {"row": "broken"}}, "rows of examples that they call unusable: \\['row'\\]"),
    ],
)
def test_scores_that_do_not_fit_their_texts_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shard_tables(*spoilt(**changes))


def test_texts_with_the_same_id_are_refused():
    blocks, texts = spoilt()
    with pytest.raises(ValueError, match="one twice"):
        shard_tables(blocks, texts * 2)


def test_one_pass_has_no_standard_error_and_no_pass_has_no_member_measures():
    alone = dict.fromkeys(["epistemic_se"])
    none = dict.fromkeys(["total", "aleatoric", "epistemic", "epistemic_se", "mc_loss"])
    for passes, missing in ((1, alone), (0, none)):
        blocks, texts = spoilt(
            measures=lambda m, missing=missing: {k: v * np.nan if k in missing else v for k, v in m.items()},
            n_passes_N=lambda n, passes=passes: np.full_like(n, passes),
        )
        tokens, examples = shard_tables(blocks, texts)
        assert {name for name in MEASURE_COLUMNS if tokens[name].null_count == tokens.num_rows} == set(missing)
        assert examples["mean_epistemic_se"].null_count == 1
        assert examples["mean_loss"].null_count == 0


# --- kept columns


def test_kept_columns_have_one_type_in_all_shards():
    rows = [
        {"flag": True, "count": 1, "mixed": 1, "name": "a", "odd": "a", "empty": None, "huge": 1},
        {"flag": None, "count": None, "mixed": 0.5, "name": None, "odd": 3, "empty": None, "huge": 2**70},
    ]
    types = kept_types(rows)
    kinds = {"flag": "bool", "count": "int64", "mixed": "double", "huge": "string"}
    assert {name: str(kind) for name, kind in types.items()} == {
        **kinds,
        "name": "string",
        "odd": "string",
        "empty": "string",
    }
    for row in rows:
        text = toy_run.text("row", 2, ["a"], kept=row)
        _, examples = shard_tables([toy_run.block_scores([text], 0, ())], [text], types)
        found = examples.to_pylist()[0]
        as_text = {"odd": "a" if row["odd"] == "a" else "3", "huge": str(row["huge"])}
        assert {name: found[name] for name in row} == {**row, **as_text}


def test_a_missing_number_of_a_data_frame_is_null_and_structures_are_json():
    rows = [{"score": float("nan"), "tags": ["ü", {"a": 1}]}, {"score": 2.0, "tags": []}]
    types = kept_types(rows)
    texts = [toy_run.text(f"row-{i}", 2, ["a"], kept=row) for i, row in enumerate(rows)]
    _, examples = shard_tables([toy_run.block_scores(texts, 0, ())], texts, types)
    assert examples["score"].to_pylist() == [None, 2.0]
    assert examples["tags"].to_pylist() == ['["ü", {"a": 1}]', "[]"]


@pytest.mark.parametrize("name", ["id", "completion", "mean_loss"])
def test_a_kept_column_may_not_have_the_name_of_one_of_ours(name):
    with pytest.raises(InputError, match=f"--keep-columns: '{name}' is already a column"):
        kept_types([{name: 1}])


# --- files


def test_the_same_table_gives_the_same_bytes_and_the_footer_stands_once_under_our_key():
    footer = b'{"settings": "0123456789"}'
    first, second = (parquet_bytes(tables()[0], footer) for _ in range(2))
    assert first == second
    assert read(first).metadata.metadata[b"token_uncertainty"] == footer
    assert first.count(footer) == 1


def test_encodings_are_those_that_were_measured_to_be_small():
    content = parquet_bytes(tables()[0], b"{}")
    group = read(content).metadata.row_group(0)
    for index in range(group.num_columns):
        column = group.column(index)
        name = column.path_in_schema
        assert column.compression == "ZSTD"
        assert ("BYTE_STREAM_SPLIT" in column.encodings) == (name in MEASURE_COLUMNS), name
        dictionary = "PLAIN_DICTIONARY" in column.encodings or "RLE_DICTIONARY" in column.encodings
        assert dictionary == (name in {"example_id", "turn", "token_id", "token", "n_passes"}), name
        assert column.is_stats_set, name


def test_page_checksums_stand_in_the_file_and_find_a_flipped_bit():
    content = bytearray(parquet_bytes(tables()[0], b"{}"))
    column = read(bytes(content)).metadata.row_group(0).column(TOKEN_SCHEMA.names.index("entropy"))
    # The last byte of the column's last page: data, not header.
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    with pytest.raises(OSError, match=r"crc|CRC|checksum"):
        read(bytes(content), page_checksum_verification=True).read(columns=["entropy"])


def test_the_rows_hash_sees_values_nulls_and_lengths_and_not_how_they_are_stored():
    tokens, examples = tables()
    assert rows_sha256(read(parquet_bytes(tokens, b"{}")).read()) == rows_sha256(tokens)
    in_chunks = pa.concat_tables([tokens.slice(0, 5), tokens.slice(5)])
    assert rows_sha256(in_chunks) == rows_sha256(tokens)
    assert rows_sha256(examples) == rows_sha256(pa.concat_tables([examples.slice(0, 1), examples.slice(1)]))
    values = {
        "int": [pa.array([1, 2], pa.int32()), pa.array([1, 3], pa.int32()), pa.array([1, None], pa.int32())],
        "order": [pa.array([None, 1], pa.int32()), pa.array([1, 2], pa.int64())],
        "text": [pa.array(["ab", "c"]), pa.array(["a", "bc"]), pa.array(["abc", None]), pa.array(["abc", ""])],
        "list": [pa.array(lists, pa.list_(pa.int32())) for lists in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3], None])],
        "bool": [pa.array([True, False]), pa.array([False, True])],
    }
    hashes = [rows_sha256(pa.table({"a": column})) for column in itertools.chain(*values.values())]
    assert len(set(hashes)) == len(hashes)


def realistic(n_tokens, words=50_000):
    """Values as skewed as real ones, full of digits, ids of a Zipf vocabulary, completions of about 65 tokens."""
    rng = np.random.default_rng(0)
    vocabulary = ["".join(map(chr, rng.integers(97, 123, rng.integers(1, 9)))) for _ in range(words)]
    texts, blocks = [], []
    while sum(len(text.position) for text in texts) < n_tokens:
        n_prompt, length = int(rng.integers(30, 120)), 1 + int(rng.negative_binomial(2, 2 / 67))
        ids = np.minimum(rng.zipf(1.25, length) - 1, words - 1)
        tokens = [vocabulary[index] for index in ids]
        ends = np.cumsum([len(token) for token in tokens])
        text = ExampleText(
            id=f"row-{len(texts):06d}",
            prompt="",
            completion="".join(tokens),
            messages=[],
            input_ids=[*range(n_prompt), *ids.tolist()],
            truncated=False,
            n_prompt_tokens=n_prompt,
            turn=[1] * length,
            position=list(range(n_prompt, n_prompt + length)),
            tokens=tokens,
            char_start=[0, *ends[:-1].tolist()],
            char_end=ends.tolist(),
            is_special=[False] * (length - 1) + [True],
        )
        texts.append(text)
        blocks.append(
            TokenScores(
                ids=(text.id,),
                example_N=np.zeros(length, np.int64),
                position_N=np.arange(n_prompt, n_prompt + length),
                token_id_N=ids,
                n_passes_N=np.full(length, 100),
                label_rank_N=np.minimum(rng.geometric(0.4, length) ** 3 - 1, words),
                measures={name: rng.gamma(0.4, 1.0, length) for name in MEASURE_COLUMNS},
            )
        )
    return blocks, texts


def test_a_realistic_table_takes_about_40_bytes_a_token_and_a_full_row_group_is_131072_rows():
    tokens, _ = shard_tables(*realistic(20_000))
    assert 30 < len(parquet_bytes(tokens, b"{}")) / tokens.num_rows < 45
    large = pa.concat_tables([tokens] * 7)
    metadata = read(parquet_bytes(large, b"{}")).metadata
    assert ROW_GROUP_ROWS == 131_072
    assert metadata.row_group(0).num_rows == 131_072
    assert metadata.num_row_groups == 2


# --- measures that a run adds


def test_added_measures_stand_after_those_of_every_run_in_both_tables():
    added = ("epistemic_corrected", "unresolved")
    text = toy_run.text("row", 2, toy_run.PIECES)
    (block,) = (toy_run.block_scores([text], 0, ()),)
    more = {name: np.arange(len(block.position_N), dtype=float) for name in added}
    block = dataclasses.replace(block, measures=block.measures | more)
    tokens, examples = shard_tables([block], [text], {}, added)
    assert tokens.schema == token_schema(added)
    assert tokens.column_names.index("epistemic_corrected") == tokens.column_names.index("margin") + 1
    assert tokens["unresolved"].to_pylist() == sorted(more["unresolved"], reverse=True)  # the engine went backwards
    assert examples["mean_epistemic_corrected"].to_pylist() == [np.mean(more["unresolved"])]
    with pytest.raises(ValueError, match="hold the measures"):
        shard_tables([block], [text])


def test_a_spread_that_dependent_members_leave_unknown_is_null_but_not_at_some_tokens_only():
    def unknown(measures):
        return {**measures, "epistemic_se": measures["epistemic_se"] * np.nan}

    tokens, _ = shard_tables(*spoilt(measures=unknown))
    assert tokens["epistemic_se"].null_count == tokens.num_rows
    with pytest.raises(ValueError, match="epistemic_se is nan"):
        shard_tables(*spoilt(measures=first_nan("epistemic_se")))
