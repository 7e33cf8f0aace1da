"""The lines that the README shows, run as they stand on a small score folder."""

import json
import re
import shlex
from pathlib import Path

import pytest

from uncertainty.scoring import score_dataset

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
SHELL = [line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README's lines name: my-model, gsm8k.jsonl and a scored out/gsm8k."""
    from conftest import save_tiny

    folder = tmp_path_factory.mktemp("readme")
    save_tiny("llama", folder).rename(folder / "my-model")
    rows = [{"question": f"{i} + 1 = ?", "answer": f"{i + 1}."} for i in range(3)]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_dataset(folder / "my-model", folder / "gsm8k.jsonl", folder / "out/gsm8k", passes=3, limit=3)
    return folder


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_readmes_python_runs(number, place, monkeypatch, tmp_path):
    for name in ("polars", "duckdb", "datasets"):
        if re.search(rf"\b{name}\b", PYTHON[number]):
            pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = PYTHON[number].replace('out="out/gsm8k", passes=100', 'out="out/again", passes=3')
    names: dict = {}
    exec(compile(code, f"README block {number}", "exec"), names)
    assert len(names) > 1


def test_there_is_a_line_for_pandas_polars_duckdb_and_datasets():
    text = "\n".join(PYTHON)
    for name in ("pandas", "polars", "duckdb", "datasets", "score_dataset"):
        assert name in text


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("unc-")])
def test_the_readmes_commands_are_understood(line, capsys):
    import tomllib
    from importlib import import_module

    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    command, *arguments = shlex.split(line, comments=True)
    module, function = scripts[command].split(":")
    assert getattr(import_module(module), function)([*arguments, "--print-config"]) == 0
    assert capsys.readouterr().out


def test_every_make_target_and_picture_that_is_named_is_there():
    targets = {line.split()[1] for line in SHELL if line.startswith("make ")}
    makefile = (CHECKOUT / "Makefile").read_text()
    assert targets == {"demo", "test"}
    assert all(f"\n{target}:" in makefile for target in targets)
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (CHECKOUT / picture).is_file(), picture


def test_every_path_of_the_house_is_there():
    house = README.split("## The house")[1].split("```")[1]
    for line in house.strip().splitlines():
        assert (CHECKOUT / line.split()[0]).exists(), line
