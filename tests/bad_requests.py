"""What a user can get wrong with ``unc-score``: what is given, and the line that must come back.

The commands run in a folder that holds ``FILES``, the tiny model ``model`` and what ``break_models`` makes of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

GOOD = [{"question": "a?", "answer": "b b b"}, {"question": "c?", "answer": "d"}]


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FILES: dict[str, bytes] = {
    "good.jsonl": _lines(*GOOD),
    "malformed.jsonl": _lines(GOOD[0]) + b'{"question": "a", "answer": b}\n',
    "utf16.jsonl": _lines(*GOOD).decode().encode("utf-16"),
    "latin1.jsonl": '{"question": "é", "answer": "b"}\n'.encode("latin-1"),
    "surrogate.jsonl": b'{"question": "\\ud800", "answer": "b"}\n',
    "truncated.jsonl": _lines(*GOOD)[:-8],
    "number.jsonl": _lines(*GOOD, {"question": "a", "answer": 5}),
    "columns.jsonl": _lines({"foo": "a", "bar": "b"}),
    "nothing.jsonl": _lines({"question": "a", "answer": ""}, {"question": "a", "answer": None}),
    "twice.jsonl": _lines({"id": "x", **GOOD[0]}, {"id": "x", **GOOD[1]}),
    "kept.jsonl": _lines({"prompt": "p", **GOOD[0]}),
    "roles.jsonl": _lines({"messages": [{"role": "wizard", "content": "x"}]}),
    "string.jsonl": _lines({"messages": "hello"}),
    "blank.jsonl": b"",
    "book.xlsx": b"x",
    "fields.csv": b"question,answer\na,b,c\n",
    "broken.jsonl.gz": b"hello",
    "broken.parquet": b"hello",
    "object.json": b'{\n"a": 1}',
    "empty/.hidden": b"",
    "foreign/mine.txt": b"mine",
    "unknown.yaml": b"passes: 2\npases: 3\n",
    "nested.yaml": b"passes:\n  many: 3\n",
    "unclosed.yaml": b"passes: [\n",
}


def break_models(model: Path, folder: Path) -> None:
    """Copies of a model, each with one fault."""
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"

    def copy(fault: str, changed: dict[str, Any] | None) -> Path:
        path = folder / fault
        shutil.copytree(model, path)
        (path / "model.safetensors").unlink()
        if changed is not None:
            save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        return path

    damaged = weights[name].clone()
    damaged[3, 2] = float("nan")
    copy("nan", {**weights, name: damaged})
    copy("lacking", {key: value for key, value in weights.items() if key != name})
    copy("weightless", None)
    copy("huge", {key: value * 1e4 if "mlp" in key else value for key, value in weights.items()})
    cut = copy("cut", weights) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    (copy("garbled", weights) / "config.json").write_text("{")
    for file in copy("speechless", weights).glob("tokenizer*"):
        file.unlink()


# what is wrong: (options added to those of a good command, the line that comes back)
BAD: dict[str, tuple[Sequence[str], str]] = {
    "no such model folder": (["--model", "./nope"], r"there is no model folder \./nope; check the path"),
    "a file as the model": (["--model", "good.jsonl"], r"good\.jsonl is a file; give the folder"),
    "no model in the folder": (["--model", "empty"], r"the folder empty holds no config\.json; give the folder"),
    "a tensor with NaN": (["--model", "nan"], r"tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"),
    "a tensor that is missing": (["--model", "lacking"], r"lacks 1 tensors .*model\.layers\.1\.mlp\.up_proj\.weight"),
    "weights that are cut off": (["--model", "cut"], r"cannot load cut: .*incomplete metadata"),
    "no weights": (["--model", "weightless"], r"cannot load weightless: .*model\.safetensors"),
    "a config that is no JSON": (["--model", "garbled"], r"cannot load garbled: .*config\.json.* not a valid JSON"),
    "no tokenizer": (["--model", "speechless"], r"cannot load speechless: .*tokenizer"),
    "weights too large for float16": (["--model", "huge", "--dtype", "float16"], r"LlamaForCausalLM|finite"),
    "a revision of a folder": (["--revision", "abc"], r"--revision abc: model is a folder, which has no revisions"),
    "a device that is not there": (["--device", "cuda:99"], r"--device cuda:99 cannot be used here .*try --device cpu"),
    "a device nobody knows": (["--device", "abacus"], r"--device abacus cannot be used here .*try --device cpu"),
    "an unknown dtype": (["--dtype", "int8"], r"--dtype: 'int8' is not one of auto, float32"),
    "a model without data": (["--dataset", ""], r"--model is given without --dataset; give both"),
    "data without a model": (["--model", ""], r"--dataset is given without --model; give both"),
    "no such data set": (["--dataset", "god.jsonl"], r"god\.jsonl: no such file or folder; did you mean good\.jsonl\?"),
    "malformed JSON": (["--dataset", "malformed.jsonl"], r"malformed\.jsonl line 2 column 29: .*mend the file"),
    "UTF-16": (["--dataset", "utf16.jsonl"], r"utf16\.jsonl line 1 column 1: the file is UTF-16; save it as UTF-8"),
    "Latin 1": (["--dataset", "latin1.jsonl"], r"latin1\.jsonl line 1 column 15: the byte 0xE9 is not UTF-8"),
    "a lone surrogate": (["--dataset", "surrogate.jsonl"], r"surrogate\.jsonl line 1 column 15: the lone surrogate"),
    "a truncated line": (["--dataset", "truncated.jsonl"], r"truncated\.jsonl line 2 column \d+: .* cut off here"),
    "a wrong type": (["--dataset", "number.jsonl"], r"number\.jsonl line 3 column 29: answer is the number 5 where a"),
    "unknown columns": (["--dataset", "columns.jsonl"], r"columns\.jsonl has the columns foo, bar: .*rename them"),
    "no usable row": (["--dataset", "nothing.jsonl"], r"no row .* \(empty_completion 1, missing_completion 1; first: "),
    "ids that repeat": (["--dataset", "twice.jsonl"], r"twice\.jsonl: 1 rows repeat an id .*--id-column row-number"),
    "an unknown role": (["--dataset", "roles.jsonl"], r"no row .*\(unknown_role 1; .*'wizard'"),
    "no list of messages": (["--dataset", "string.jsonl"], r"line 1 column 14: messages is a string where a list"),
    "an empty file": (["--dataset", "blank.jsonl"], r"blank\.jsonl has no rows; give a data set"),
    "an unknown suffix": (["--dataset", "book.xlsx"], r"book\.xlsx: the suffix \.xlsx is unknown; .*\.parquet"),
    "a CSV row too long": (["--dataset", "fields.csv"], r"fields\.csv line 2: 3 fields where the header has 2"),
    "no gzip": (["--dataset", "broken.jsonl.gz"], r"broken\.jsonl\.gz line 1 .*gzip stream is damaged"),
    "no parquet": (["--dataset", "broken.parquet"], r"broken\.parquet: not a sound parquet file"),
    "one object as the data": (["--dataset", "object.json"], r"object\.json line 1 column 1: the file is one object"),
    "a folder without data": (["--dataset", "empty"], r"empty: no file here ends in \.jsonl"),
    "an unknown format": (["--format", "alpacca"], r"--format: 'alpacca' is not one of .*did you mean alpaca\?"),
    "a format that does not fit": (
        ["--format", "alpaca"],
        r"columns question, answer: format alpaca needs instruction",
    ),
    "an unknown template": (["--template", "fancy"], r"--template fancy is unknown; choose auto, chat"),
    "no such template file": (["--template", "no.jinja"], r"--template no\.jinja: cannot be read .*check the path"),
    "a split of a file": (["--split", "test"], r"--split test: good\.jsonl is one file, which has no splits"),
    "an unknown id column": (["--id-column", "key"], r"--id-column key is unknown; choose one of question, answer"),
    "an unknown column to keep": (["--keep-columns", "topic"], r"--keep-columns topic: .* it has question, answer"),
    "a column to keep twice": (
        ["--dataset", "kept.jsonl", "--format", "gsm8k", "--keep-columns", "prompt"],
        r"--keep-columns: 'prompt' is already a column of the examples table",
    ),
    "no row": (["--limit", "0"], r"--limit 0 is too small; give at least 1"),
    "longer than the context": (["--max-length", "5000"], r"--max-length 5000 is longer than .* give at most 512"),
    "shorter than the prompt": (["--max-length", "5"], r"no row .*prompt_longer_than_context 2; .*--max-length"),
    "no pass": (["--passes", "0"], r"--passes 0 is too small; give at least 1"),
    "half a pass": (["--passes", "2.5"], r"--passes: '2\.5' is not a whole number; the default is 100"),
    "a rate above 1": (["--rate", "2"], r"--rate 2\.0 is not a dropout rate; give a number from 0"),
    "a rate of 1": (["--rate", "1"], r"--rate 1\.0 is not a dropout rate"),
    "a negative rate": (["--rate=-0.1"], r"--rate -0\.1 is not a dropout rate"),
    "no number as the rate": (["--rate", "nan"], r"--rate: 'nan' is not a finite number"),
    "a rate too near 0": (["--rate", "1e-9"], r"--rate 1e-09 is too near 0 or 1; rates are multiples of 1/65536"),
    "unknown sites": (["--sites", "attention,nonsense"], r"--sites nonsense is not known; choose native, or one"),
    "no sites": (["--sites", ""], r"--sites names no site; choose native"),
    "an unknown rng": (["--rng", "dice"], r"--rng: 'dice' is not one of keyed, kernel"),
    "an unknown vocabulary": (["--vocabulary", "mine"], r"--vocabulary: 'mine' is not one of model, tokenizer"),
    "no tokens per batch": (["--tokens-per-batch", "0"], r"--tokens-per-batch 0 is too small; give at least 1"),
    "no number of tokens": (["--tokens-per-batch", "few"], r"--tokens-per-batch: 'few' is not a whole number or auto"),
    "no examples in a shard": (["--shard-examples", "0"], r"--shard-examples 0 is too small; give at least 1"),
    "a negative number to show": (["--show", "-1"], r"--show -1 is too small"),
    "an unknown option": (["--pases", "3"], r"unknown option --pases; did you mean --passes\?"),
    "an argument without a name": (["good.jsonl"], r"unexpected argument 'good\.jsonl'"),
    "no such YAML file": (["--config", "no.yaml"], r"--config: cannot read no\.yaml: No such file"),
    "an unknown YAML key": (
        ["--config", "unknown.yaml"],
        r"unknown\.yaml line 2: unknown option 'pases'; did you mean",
    ),
    "nested YAML": (["--config", "nested.yaml"], r"nested\.yaml line 1: passes: .*options are not nested"),
    "no YAML": (["--config", "unclosed.yaml"], r"unclosed\.yaml line 2, column 1: not YAML"),
    "a file as the run folder": (["--out", "good.jsonl"], r"good\.jsonl is, or lies under, a file; choose a folder"),
    "a run folder under a file": (["--out", "good.jsonl/run"], r"good\.jsonl/run is, or lies under, a file"),
    "a folder with other files": (["--out", "foreign"], r"foreign holds other files \('mine\.txt'\) and no run"),
    "no run folder": (["--out", ""], r"--out: '' is not a path"),
    "another run's folder": (
        ["--passes", "3"],
        r"run holds a run with other settings: passes: 2 -> 3; add --overwrite",
    ),
    "a template the model lacks": (["--model", "plain", "--template", "chat"], r"the tokenizer has no chat template"),
}
