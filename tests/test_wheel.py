"""The wheel built from the tree holds all that runs and nothing else, and runs where nothing else of ours is."""

import configparser
import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, with the build backend of the environment where it has one."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", folder, CHECKOUT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_every_file_of_both_packages(names: set[str]) -> None:
    wanted = {
        str(file.relative_to(CHECKOUT))
        for package in ("uncertainty", "analysis")
        for file in (CHECKOUT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    held = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert held == wanted


def test_it_holds_the_embedded_model_and_its_data(names: set[str]) -> None:
    from uncertainty.demo import demo_data_path, demo_model_path

    model = Path(demo_model_path()).relative_to(CHECKOUT)
    data = Path(demo_data_path()).relative_to(CHECKOUT)
    assert {f"{model}/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")} <= names
    assert str(data) in names


def test_it_is_named_and_entered_as_the_project_says(wheel: Path, names: set[str]) -> None:
    assert wheel.name == f"token_uncertainty-{PROJECT['version']}-py3-none-any.whl"
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    parser = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        parser.read_string(archive.read(entry_points).decode())
    assert dict(parser["console_scripts"]) == PROJECT["scripts"]


def test_its_commands_run_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        lib,
        wheel,
    ]
    subprocess.run(install, check=True)

    def run_away(*command: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(lib)}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    for name in PROJECT["scripts"]:
        assert run_away(lib / "bin" / name, "--help").startswith(f"usage: {name} ")
    program = "import uncertainty, analysis; print(uncertainty.__file__, analysis.__file__, sep='\\n')"
    assert all(Path(line).is_relative_to(lib) for line in run_away(sys.executable, "-c", program).splitlines())
