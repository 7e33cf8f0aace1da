"""The floors of the house: who may import whom, as data. Deferred imports count.

A module may import its own floor's list, ``uncertainty.errors`` and whatever is not ours. ``a.b`` in a list is that one
module (of a package: its ``__init__.py``), ``a.b.*`` the package and all in it. A module follows the longest key that
matches it; a module without one has no place yet, and the test asks for it.
"""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("uncertainty", "analysis", "figures", "benchmarks")

GROUND = "uncertainty.errors"
FLOORS: dict[str, tuple[str, ...]] = {
    # pure arithmetic, one model, one way of drawing members, one step of the data road: nothing of ours but siblings
    "uncertainty.errors": (),
    "uncertainty.measures": (
        "uncertainty.member_terms", "uncertainty.member_sweep", "uncertainty.pass_groups", "uncertainty.estimators",
        "uncertainty.divergence_measures", "uncertainty.probability_measures",
    ),
    "uncertainty.pass_groups": (),
    "uncertainty.member_terms": (),
    "uncertainty.member_sweep": ("uncertainty.member_terms", "uncertainty.pass_groups"),
    "uncertainty.estimators": ("uncertainty.member_terms", "uncertainty.member_sweep"),
    "uncertainty.divergence_measures": ("uncertainty.member_sweep",),
    "uncertainty.probability_measures": ("uncertainty.member_terms", "uncertainty.member_sweep"),
    "uncertainty.measure_columns": (),
    "uncertainty.head": (),
    "uncertainty.model": ("uncertainty.head",),
    "uncertainty.selection_schedule": (),
    "uncertainty.selection_rules": ("uncertainty.selection_schedule",),
    "uncertainty.selection_signals": ("uncertainty.selection_rules", "uncertainty.families.keyed"),
    "uncertainty.selection": ("uncertainty.selection_rules", "uncertainty.selection_signals"),
    "uncertainty.running_quantile": ("uncertainty.selection",),
    "uncertainty.families.*": ("uncertainty.families.*", "uncertainty.pass_groups"),
    "uncertainty.families.adapter_ensemble": (
        "uncertainty.families.*", "uncertainty.adapters", "uncertainty.lora", "uncertainty.model",
    ),
    "uncertainty.families.checkpoint_ensemble": (
        "uncertainty.families.*", "uncertainty.adapters", "uncertainty.head", "uncertainty.loading",
        "uncertainty.model",
    ),
    "uncertainty.family_choice": (
        "uncertainty.families.*", "uncertainty.engine", "uncertainty.settings", "uncertainty.pass_groups",
    ),
    "uncertainty.data.*": ("uncertainty.data.*",),
    "uncertainty.demo.*": ("uncertainty.demo.*",),
    # the score table and its folder on disk
    "uncertainty.durable": (),
    "uncertainty.run_info": (),
    "uncertainty.scores": ("uncertainty.run_info", "uncertainty.measure_columns"),
    "uncertainty.score_schema": ("uncertainty.scores", "uncertainty.measure_columns"),
    "uncertainty.score_tables": ("uncertainty.scores", "uncertainty.score_schema", "uncertainty.measure_columns"),
    "uncertainty.run_folder": (
        "uncertainty.durable", "uncertainty.run_info", "uncertainty.scores", "uncertainty.score_tables",
    ),
    "uncertainty.summary": ("uncertainty.scores", "uncertainty.stopping"),
    # what the trainer selected, step by step; and the model in its middle scored like any other
    "uncertainty.token_classes": (),
    "uncertainty.training.curriculum": ("uncertainty.token_classes",),
    "uncertainty.training.curriculum_rows": ("uncertainty.token_classes",),
    "uncertainty.training.probe": (
        "uncertainty.prepare", "uncertainty.scoring", "uncertainty.model", "uncertainty.families.sites",
        "uncertainty.run_info",
    ),
    # the engine and the trainer never meet
    "uncertainty.budget": ("uncertainty.model",),
    "uncertainty.measured_tokens": ("uncertainty.measure_columns", "uncertainty.scores", "uncertainty.data.batches"),
    "uncertainty.engine": (
        "uncertainty.measures", "uncertainty.measured_tokens", "uncertainty.scores", "uncertainty.model",
        "uncertainty.budget", "uncertainty.data.batches", "uncertainty.adaptive", "uncertainty.stopping",
        "uncertainty.head",
    ),
    "uncertainty.calibration": ("uncertainty.engine", "uncertainty.budget", "uncertainty.data.batches"),
    "uncertainty.pass_curve": (
        "uncertainty.engine", "uncertainty.budget", "uncertainty.measures", "uncertainty.estimators",
        "uncertainty.data.batches",
    ),
    "uncertainty.stopping": (),
    "uncertainty.adaptive": ("uncertainty.stopping", "uncertainty.data.batches"),
    "uncertainty.preflight": ("uncertainty.engine", "uncertainty.model", "uncertainty.data.*"),
    "uncertainty.four_bit": (),
    "uncertainty.lora": ("uncertainty.model",),
    "uncertainty.adapters": ("uncertainty.lora", "uncertainty.model"),
    "uncertainty.loading": ("uncertainty.model", "uncertainty.adapters", "uncertainty.four_bit"),
    # the reference: live, on disk, by name
    "uncertainty.batch_hidden": ("uncertainty.model", "uncertainty.data.*"),
    "uncertainty.reference": (
        "uncertainty.model", "uncertainty.lora", "uncertainty.adapters", "uncertainty.batch_hidden",
        "uncertainty.training.student", "uncertainty.data.*",
    ),
    "uncertainty.stored_head": ("uncertainty.head", "uncertainty.run_info"),
    "uncertainty.reference_shards": (
        "uncertainty.durable", "uncertainty.model", "uncertainty.run_info", "uncertainty.data.*",
    ),
    "uncertainty.reference_cache": (
        "uncertainty.reference", "uncertainty.reference_shards", "uncertainty.stored_head", "uncertainty.durable",
        "uncertainty.head", "uncertainty.model", "uncertainty.run_info", "uncertainty.data.*",
    ),
    "uncertainty.reference_choice": (
        "uncertainty.reference", "uncertainty.reference_cache", "uncertainty.reference_shards",
        "uncertainty.adapters", "uncertainty.loading", "uncertainty.lora", "uncertainty.model", "uncertainty.data.*",
    ),
    "uncertainty.terms": ("uncertainty.measures",),
    "uncertainty.objectives": ("uncertainty.terms",),
    "uncertainty.vocabulary_chunks": ("uncertainty.head", "uncertainty.terms"),
    "uncertainty.token_losses": ("uncertainty.head", "uncertainty.terms", "uncertainty.vocabulary_chunks"),
    # the trainer: one optimizer step, then one run; it and the engine never meet but in a run's probe
    "uncertainty.training": (),
    "uncertainty.training.sharding": (),
    "uncertainty.training.student": ("uncertainty.batch_hidden", "uncertainty.training.sharding", "uncertainty.data.*"),
    "uncertainty.training.windows": ("uncertainty.data.*",),
    "uncertainty.training.step_record": (
        "uncertainty.training.curriculum", "uncertainty.token_losses", "uncertainty.training.windows",
    ),
    "uncertainty.training.step": (
        "uncertainty.objectives", "uncertainty.terms", "uncertainty.token_losses", "uncertainty.training.student",
        "uncertainty.reference", "uncertainty.lora", "uncertainty.batch_hidden", "uncertainty.selection",
        "uncertainty.selection_rules", "uncertainty.selection_signals", "uncertainty.running_quantile",
        "uncertainty.training.windows", "uncertainty.training.step_record",
    ),
    "uncertainty.trainer": (
        "uncertainty.training.step", "uncertainty.training.student", "uncertainty.lora", "uncertainty.batch_hidden",
        "uncertainty.running_quantile", "uncertainty.training.windows", "uncertainty.training.step_record",
        "uncertainty.training.curriculum", "uncertainty.training.checkpoints", "uncertainty.training.sharding",
        "uncertainty.data.*",
    ),
    "uncertainty.training.checks": ("uncertainty.trainer", "uncertainty.batch_hidden", "uncertainty.data.*"),
    "uncertainty.sft": (
        "uncertainty.training.step", "uncertainty.objectives", "uncertainty.token_losses",
        "uncertainty.training.student", "uncertainty.reference", "uncertainty.selection_rules",
        "uncertainty.running_quantile", "uncertainty.training.windows", "uncertainty.training.step_record",
        "uncertainty.data.*",
    ),
    "uncertainty.training.settings": ("uncertainty.settings", "uncertainty.demo"),
    "uncertainty.training.folder": ("uncertainty.durable", "uncertainty.run_info"),
    "uncertainty.training.checkpoints": ("uncertainty.durable", "uncertainty.run_info", "uncertainty.training.folder"),
    "uncertainty.provenance": (),
    "uncertainty.training.setup": (
        "uncertainty.training.settings", "uncertainty.objectives", "uncertainty.terms", "uncertainty.token_losses",
        "uncertainty.selection_rules", "uncertainty.lora", "uncertainty.batch_hidden", "uncertainty.training.windows",
        "uncertainty.data.*",
    ),
    "uncertainty.training.inputs": (
        "uncertainty.training.settings", "uncertainty.prepare", "uncertainty.model", "uncertainty.provenance",
        "uncertainty.reference_shards", "uncertainty.run_info", "uncertainty.scores", "uncertainty.training.windows",
        "uncertainty.training.sharding", "uncertainty.data.*",
    ),
    "uncertainty.training.callbacks": (
        "uncertainty.training.settings", "uncertainty.training.folder", "uncertainty.prepare",
        "uncertainty.training.probe",
    ),
    "uncertainty.training.progress": (),
    "uncertainty.training.processes": (),
    "uncertainty.training.reference": (
        "uncertainty.training.settings", "uncertainty.training.processes", "uncertainty.objectives",
        "uncertainty.selection_rules", "uncertainty.reference", "uncertainty.reference_cache",
        "uncertainty.reference_choice", "uncertainty.model", "uncertainty.data.*",
    ),
    "uncertainty.training.result": (
        "uncertainty.trainer", "uncertainty.training.folder", "uncertainty.training.processes",
        "uncertainty.training.settings", "uncertainty.training.sharding",
    ),
    "uncertainty.training.run": (
        "uncertainty.training.result", "uncertainty.training.inputs",
        "uncertainty.training.settings", "uncertainty.training.folder",
        "uncertainty.training.reference", "uncertainty.training.processes", "uncertainty.training.sharding",
        "uncertainty.training.setup", "uncertainty.training.callbacks", "uncertainty.training.windows",
        "uncertainty.trainer", "uncertainty.training.step", "uncertainty.training.checks",
        "uncertainty.training.checkpoints", "uncertainty.training.curriculum", "uncertainty.training.curriculum_rows",
        "uncertainty.token_classes", "uncertainty.objectives", "uncertainty.terms", "uncertainty.selection_rules",
        "uncertainty.reference",
        "uncertainty.batch_hidden", "uncertainty.lora", "uncertainty.loading", "uncertainty.four_bit",
        "uncertainty.model", "uncertainty.prepare", "uncertainty.run_info", "uncertainty.scores", "uncertainty.data.*",
    ),
    # one run: what is asked, what is read, what is done
    "uncertainty.settings": ("uncertainty.demo", "uncertainty.measure_columns", "uncertainty.stopping"),
    "uncertainty.prepare": (
        "uncertainty.settings", "uncertainty.data.*", "uncertainty.loading", "uncertainty.model",
        "uncertainty.scores",
    ),
    "uncertainty.run_card": (
        "uncertainty.prepare", "uncertainty.model", "uncertainty.budget", "uncertainty.measure_columns",
        "uncertainty.provenance",
    ),
    "uncertainty.scoring": (
        "uncertainty.settings", "uncertainty.prepare", "uncertainty.data.*", "uncertainty.model",
        "uncertainty.measure_columns", "uncertainty.family_choice", "uncertainty.loading", "uncertainty.preflight",
        "uncertainty.engine", "uncertainty.calibration", "uncertainty.budget", "uncertainty.run_info",
        "uncertainty.run_card", "uncertainty.scores", "uncertainty.score_schema", "uncertainty.score_tables",
        "uncertainty.run_folder",
    ),
    "uncertainty": ("uncertainty.settings", "uncertainty.scoring", "uncertainty.scores"),
    # commands: everything beside them, and nothing of each other but the front end
    "uncertainty.cli.fields": (),
    "uncertainty.cli.console": ("uncertainty.prepare", "uncertainty.scoring"),
    "uncertainty.cli.yaml_file": (),
    "uncertainty.cli.options": ("uncertainty.cli.fields", "uncertainty.cli.yaml_file"),
    "uncertainty.cli.*": (
        "uncertainty.*", "-uncertainty.cli.*", "uncertainty.cli.options", "uncertainty.cli.console",
    ),
    # options of model and data are unc-score's
    "uncertainty.cli.train": (
        "uncertainty.*", "-uncertainty.cli.*", "uncertainty.cli.options", "uncertainty.cli.console",
        "uncertainty.cli.score",
    ),
    # the reader of score tables, and the commands that score and draw; kinds of tokens must mean the same in a report
    # and in the trainer's record of what it selected, so both take them from one place
    "analysis.*": (
        "analysis.*", "-analysis.cli.*", "uncertainty.scores", "uncertainty.token_classes", "uncertainty.pass_groups",
        "uncertainty.stopping",
    ),
    "analysis.cli.*": (
        "analysis.*", "-analysis.cli.*", "uncertainty", "uncertainty.scores", "uncertainty.cli.options",
    ),
    # it scores too: the options of scoring are unc-score's, and one loaded model serves every run of a sweep
    "analysis.cli.sweep": (
        "analysis.*", "-analysis.cli.*", "uncertainty.scores", "uncertainty.cli.options", "uncertainty.cli.console",
        "uncertainty.cli.score",
        "uncertainty.settings", "uncertainty.prepare", "uncertainty.scoring",
    ),
    "analysis.cli.convergence": (
        "analysis.*", "-analysis.cli.*", "uncertainty.scores", "uncertainty.cli.options", "uncertainty.cli.console",
        "uncertainty.cli.score",
        "uncertainty.settings", "uncertainty.prepare", "uncertainty.scoring", "uncertainty.pass_curve",
        "uncertainty.data.batches",
    ),
    "figures.oracle_checkpoints": (
        "figures.runs", "uncertainty", "uncertainty.batch_hidden", "uncertainty.data.*", "uncertainty.demo.*",
        "uncertainty.loading", "uncertainty.model", "uncertainty.prepare", "uncertainty.settings",
    ),
    "figures.oracle_statistics": ("figures.oracle_checkpoints", "analysis.*", "-analysis.cli.*", "uncertainty.demo.*"),
    "figures.*": (
        "figures.*", "analysis.*", "-analysis.cli.*", "uncertainty", "uncertainty.scores", "uncertainty.cli.options",
    ),
    "benchmarks.*": ("benchmarks.*", "uncertainty.*", "-uncertainty.cli.*", "uncertainty.cli.options"),
}  # fmt: skip

MODEL_LIBRARIES = ("torch", "transformers", "accelerate", "peft")
WITHOUT_MODEL_LIBRARIES = (
    *("uncertainty.measure_columns", "uncertainty.stopping", "uncertainty.pass_groups"),
    *("uncertainty.errors", "uncertainty.durable", "uncertainty.run_info", "uncertainty.scores"),
    *("uncertainty.score_schema", "uncertainty.score_tables", "uncertainty.run_folder", "uncertainty.summary"),
    *("uncertainty.settings", "uncertainty.cli.fields", "uncertainty.cli.options", "uncertainty.cli.yaml_file"),
    *("uncertainty.selection_rules", "uncertainty.selection_schedule"),
    *(
        "uncertainty.training.settings",
        "uncertainty.training.folder",
        "uncertainty.training.checkpoints",
        "uncertainty.provenance",
    ),
    *("uncertainty.token_classes", "uncertainty.training.curriculum", "uncertainty.training.curriculum_rows"),
    "analysis.*",
)

NAMELESS = {"utils", "util", "helpers", "helper", "common", "base", "manager", "registry", "misc"}

# Tests of the whole, which mirror no module.
WHOLE = {
    "tests/test_floors.py": "the house's own rules",
    "tests/test_mutations.py": "planted bugs, each caught by a named check",
    "tests/test_peers.py": "the measures against other toolkits",
    "tests/test_wheel.py": "what the built package holds",
    "tests/test_training_fsdp.py": "the same under FSDP",
    "tests/test_training_distributed.py": "two processes train what one does",
    "tests/test_readme.py": "the lines the README shows",
    "tests/test_explorer_page.py": "the explorer's page in a browser",
    "tests/figures/test_scripts.py": "every figure script, from a run to its picture",
    "tests/test_fixed_point.py": "where training by each selection comes to rest, through the real objectives",
    "tests/families/test_contract.py": "what every stochastic family must keep",
    "tests/families/test_balanced_scores.py": "balanced masks from the command to the scores",
    "tests/test_demo_run.py": "the embedded run against the truth of its language",
}


@dataclass(frozen=True)
class Import:
    """One import of a module, wherever in its file it stands."""

    module: str
    imported: str
    where: str  # "uncertainty/engine.py:12"


def modules(root: Path) -> dict[str, Path]:
    """Find every module of ours: dotted name -> file."""
    found = {}
    for file in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(root: Path) -> Iterator[Import]:
    """Read every import off the syntax trees: at the top, deferred, under TYPE_CHECKING, and by name."""
    known = modules(root)
    for module, file in known.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            where = f"{file.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            for name in imported_names(node, package, known):
                yield Import(module, name, where)


def imported_names(node: ast.AST, package: str, known: dict[str, Path]) -> list[str]:
    """Name the modules that one statement imports; a submodule taken from its package counts as itself."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        taken = [f"{source}.{alias.name}" for alias in node.names]
        return sorted({name if name in known else source for name in taken})
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return [str(node.args[0].value)] if called in ("import_module", "__import__") else []
    return []


def matches(module: str, pattern: str) -> bool:
    if pattern.endswith(".*"):
        return module == pattern[:-2] or module.startswith(pattern[:-1])
    return module == pattern


def floor_of(module: str) -> str | None:
    """Find the longest key of FLOORS that a module matches."""
    return max((key for key in FLOORS if matches(module, key)), key=len, default=None)


def may_import(floor: str, imported: str) -> bool:
    """Read a floor's list from left to right: the last entry that matches decides."""
    allowed = imported == GROUND
    for pattern in FLOORS[floor]:
        if matches(imported, pattern.removeprefix("-")):
            allowed = not pattern.startswith("-")
    return allowed


def wrong_imports(root: Path) -> list[str]:
    """List the imports that the floors do not allow, and the modules that have no floor."""
    found = [f"{module}: has no floor; give it one in FLOORS" for module in modules(root) if floor_of(module) is None]
    for one in imports(root):
        floor = floor_of(one.module)
        ours = one.imported.split(".")[0] in PACKAGES
        if floor and ours and one.imported != one.module and not may_import(floor, one.imported):
            found.append(f"{one.where}: {one.module} may not import {one.imported}")
    return found


def wrong_libraries(root: Path) -> list[str]:
    """List the imports of torch and its like in modules that read tables or options only."""
    return [
        f"{one.where}: {one.module} may not import {one.imported}"
        for one in imports(root)
        if one.imported.split(".")[0] in MODEL_LIBRARIES
        and any(matches(one.module, pattern) for pattern in WITHOUT_MODEL_LIBRARIES)
    ]


def circle(root: Path) -> list[str]:
    """Find one circle of imports among our modules, deferred ones included; empty where there is none."""
    known = modules(root)
    edges: dict[str, set[str]] = {module: set() for module in known}
    for one in imports(root):
        if one.imported in known and one.imported != one.module:
            edges[one.module].add(one.imported)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for following in sorted(edges[module]):
            if found := walk(following, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := walk(module, []))), [])


def blind_handlers(root: Path) -> list[str]:
    """List the handlers of every error, but for BaseException handlers that end by raising it again."""
    found = []
    for file in modules(root).values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {"BaseException" if one is None else getattr(one, "id", "") for one in caught}
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            if "Exception" in names or ("BaseException" in names and not raises_again):
                found.append(f"{file.relative_to(root)}:{node.lineno}")
    return found


def nameless_files(root: Path) -> list[str]:
    """List the files and folders whose name says no subject."""
    return [
        str(path.relative_to(root))
        for package in (*PACKAGES, "tests")
        for path in sorted((root / package).rglob("*"))
        if path.stem in NAMELESS and (path.suffix == ".py" or path.is_dir())
    ]


def orphan_tests(root: Path) -> list[str]:
    """List the test files that mirror no module and are not tests of the whole."""
    found = []
    for file in sorted((root / "tests").rglob("test_*.py")):
        inside = file.relative_to(root / "tests")
        module = inside.with_name(inside.name.removeprefix("test_"))
        folder = root if inside.parts[0] in PACKAGES[1:] else root / "uncertainty"
        if str(file.relative_to(root)) not in WHOLE and not (folder / module).is_file():
            found.append(f"{file.relative_to(root)}: there is no {(folder / module).relative_to(root)}")
    return found


def test_imports_go_down_the_floors() -> None:
    assert wrong_imports(CHECKOUT) == []


def test_score_tables_analysis_and_the_front_end_never_import_torch() -> None:
    assert wrong_libraries(CHECKOUT) == []


def test_imports_make_no_circle() -> None:
    assert circle(CHECKOUT) == []


def test_no_error_is_caught_blindly() -> None:
    assert blind_handlers(CHECKOUT) == []


def test_every_file_is_named_for_its_subject() -> None:
    assert nameless_files(CHECKOUT) == []


def test_every_test_file_mirrors_a_module() -> None:
    assert orphan_tests(CHECKOUT) == []


def test_reading_scores_loads_no_model_library() -> None:
    """What is imported on the way counts too, such as the package's own ``__init__.py``."""
    names = [name for name in modules(CHECKOUT) if any(matches(name, one) for one in WITHOUT_MODEL_LIBRARIES)]
    program = f"""
        import importlib, sys
        for name in {names!r}:
            importlib.import_module(name)
        print([name for name in {MODEL_LIBRARIES!r} if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))


GOOD_HOUSE = {
    "uncertainty/__init__.py": "def __getattr__(name):\n    from uncertainty.scoring import score_dataset\n",
    "uncertainty/errors.py": "",
    "uncertainty/measures.py": "import torch\nfrom uncertainty.errors import InputError\n",
    "uncertainty/scores.py": "import numpy\nfrom .errors import InputError\n",
    "uncertainty/data/__init__.py": "",
    "uncertainty/data/batches.py": "from . import render\n",
    "uncertainty/data/render.py": "from ..errors import InputError\n",
    "uncertainty/engine.py": "from uncertainty import measures\nfrom uncertainty.data import batches\n",
    "uncertainty/scoring.py": "import uncertainty.engine\n",
    "uncertainty/cli/options.py": "",
    "uncertainty/cli/score.py": "from uncertainty import engine\nfrom uncertainty.cli.options import command\n",
    "analysis/correlation.py": "from uncertainty.scores import read_scores\n",
    "analysis/cli/heatmap.py": "from analysis.correlation import f\nfrom uncertainty import score_dataset\n",
    "figures/one.py": "from uncertainty import score_dataset\nimport analysis.correlation\n",
    "tests/data/test_batches.py": "",
    "tests/analysis/cli/test_heatmap.py": "",
}


def test_a_good_house_passes(tmp_path: Path) -> None:
    plant(tmp_path, GOOD_HOUSE)
    assert wrong_imports(tmp_path) == wrong_libraries(tmp_path) == circle(tmp_path) == []
    assert blind_handlers(tmp_path) == nameless_files(tmp_path) == orphan_tests(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "text", "finding"),
    [
        (
            "uncertainty/measures.py",
            "\nfrom uncertainty.scores import TokenScores\n",
            "uncertainty/measures.py:2: uncertainty.measures may not import uncertainty.scores",
        ),
        (
            "uncertainty/engine.py",
            "def score():\n    from uncertainty.families.dropout import McDropout\n",
            "uncertainty/engine.py:2: uncertainty.engine may not import uncertainty.families.dropout",
        ),
        (
            "uncertainty/data/render.py",
            "from .. import engine\n",
            "uncertainty/data/render.py:1: uncertainty.data.render may not import uncertainty.engine",
        ),
        (
            "uncertainty/data/render.py",
            "from .. import score_dataset\n",
            "uncertainty/data/render.py:1: uncertainty.data.render may not import uncertainty",
        ),
        (
            "uncertainty/scoring.py",
            "import analysis.correlation as c\n",
            "uncertainty/scoring.py:1: uncertainty.scoring may not import analysis.correlation",
        ),
        (
            "uncertainty/scoring.py",
            "from uncertainty.cli.options import command\n",
            "uncertainty/scoring.py:1: uncertainty.scoring may not import uncertainty.cli.options",
        ),
        (
            "uncertainty/cli/other.py",
            "import uncertainty.cli.score\n",
            "uncertainty/cli/other.py:1: uncertainty.cli.other may not import uncertainty.cli.score",
        ),
        (
            "analysis/correlation.py",
            "import importlib\nimportlib.import_module('uncertainty.engine')\n",
            "analysis/correlation.py:2: analysis.correlation may not import uncertainty.engine",
        ),
        (
            "analysis/cli/heatmap.py",
            "from uncertainty import engine\n",
            "analysis/cli/heatmap.py:1: analysis.cli.heatmap may not import uncertainty.engine",
        ),
        (
            "figures/one.py",
            "from analysis.cli.heatmap import main\n",
            "figures/one.py:1: figures.one may not import analysis.cli.heatmap",
        ),
        ("uncertainty/cupboard.py", "", "uncertainty.cupboard: has no floor; give it one in FLOORS"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, text: str, finding: str) -> None:
    plant(tmp_path, GOOD_HOUSE | {file: text})
    assert wrong_imports(tmp_path) == [finding]


@pytest.mark.parametrize("text", ["import torch.nn\n", "def f():\n    from torch import nn\n"])
def test_a_planted_torch_is_found(tmp_path: Path, text: str) -> None:
    line = text.count("\n")
    plant(tmp_path, GOOD_HOUSE | {"uncertainty/scores.py": text, "analysis/correlation.py": text})
    found = {one.split(": ")[0] for one in wrong_libraries(tmp_path)}
    assert found == {f"uncertainty/scores.py:{line}", f"analysis/correlation.py:{line}"}


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    deferred = "def f():\n    from uncertainty.data.batches import Batch\n"
    plant(tmp_path, GOOD_HOUSE | {"uncertainty/data/render.py": deferred})
    assert circle(tmp_path) == ["uncertainty.data.batches", "uncertainty.data.render", "uncertainty.data.batches"]


@pytest.mark.parametrize(
    ("handler", "is_found"),
    [
        ("except Exception:\n    pass", True),
        ("except (ValueError, Exception) as error:\n    raise", True),
        ("except:\n    pass", True),
        ("except BaseException:\n    pass", True),
        ("except BaseException:\n    tidy()\n    raise", False),
        ("except ValueError:\n    pass", False),
    ],
)
def test_a_planted_blind_handler_is_found(tmp_path: Path, handler: str, is_found: bool) -> None:
    plant(tmp_path, GOOD_HOUSE)
    (tmp_path / "uncertainty/scores.py").write_text(f"try:\n    f()\n{handler}\n")
    assert blind_handlers(tmp_path) == (["uncertainty/scores.py:3"] if is_found else [])


def test_planted_names_and_orphan_tests_are_found(tmp_path: Path) -> None:
    plant(tmp_path, GOOD_HOUSE | {"uncertainty/utils.py": "", "tests/common/x.py": "", "tests/data/test_gone.py": ""})
    assert nameless_files(tmp_path) == ["uncertainty/utils.py", "tests/common"]
    assert orphan_tests(tmp_path) == ["tests/data/test_gone.py: there is no uncertainty/data/gone.py"]
