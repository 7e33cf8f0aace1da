"""The front end as its users meet it: precedence, refusals, help, the printed configuration, exit codes."""

import resource
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uncertainty.cli.options import command, dump_yaml, option, parse, positional
from uncertainty.errors import InputError

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Toy:
    """One option of every type."""

    run: Path = positional("folder of the run")
    others: tuple[str, ...] = positional("names", many=True, default=())
    passes: int = option(100, "stochastic forwards, not 100% of them", unit="passes", group="sampling")
    rate: float = option(0.1, "dropout probability", unit="fraction", group="sampling")
    tokens_per_batch: int | Literal["auto"] = option("auto", "size of a batch", unit="tokens")
    limit: int | None = option(None, "use the first N examples only", unit="examples")
    target: float | None = option(0.5, "stop there")
    split: str = option("train", "part of the data set")
    format: str | None = option(None, "format of the rows", choices=("messages", "alpaca", "text"))
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    sites: tuple[str, ...] = option(("native",), "where dropout acts", choices=("native", "attention", "mlp"))
    keep_columns: tuple[str, ...] = option((), "columns to keep", repeat=True)
    ranks: tuple[int, ...] = option((1, 2), "ranks", metavar="RANKS")
    out: Path = option(Path("out/demo"), "folder of the results")
    cache: Path | None = option(None, "folder of the cache")
    overwrite: bool = option(False, "start anew")
    progress: bool = option(True, "show a bar")

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"--rate: {self.rate} is not in [0, 1); give a probability such as 0.1")


def read(*argv: str) -> Toy:
    return parse(Toy, argv, prog="unc-toy", description="A toy.")


def read_file(tmp_path: Path, text: str, *argv: str) -> Toy:
    (tmp_path / "run.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
    return read("folder", "--config", str(tmp_path / "run.yaml"), *argv)


def test_defaults_hold_where_nothing_is_given() -> None:
    toy = read("folder")
    assert toy == Toy(run=Path("folder"))


def test_every_type_is_read_from_the_command_line() -> None:
    toy = read(
        *("folder", "a", "b,c", "--passes", "1_000", "--rate=1e-1", "--tokens-per-batch", "4096", "--limit", "7"),
        *("--target", "none", "--split", "no", "--format", "text", "--device", "cpu", "--sites", "attention, mlp"),
        *("--keep-columns", "x,y", "--keep-columns", "z", "--ranks", "3,5", "--out", "o", "--cache", "c"),
        *("--overwrite", "--no-progress"),
    )
    assert toy == Toy(
        run=Path("folder"), others=("a", "b,c"), passes=1000, rate=0.1, tokens_per_batch=4096, limit=7, target=None,
        split="no", format="text", device="cpu", sites=("attention", "mlp"), keep_columns=("x", "y", "z"),
        ranks=(3, 5), out=Path("o"), cache=Path("c"), overwrite=True, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "argv",
    [("--tokens-per-batch", "8"), ("--tokens_per_batch", "8"), ("--tokens_per-batch=8",), ("--tokens_per_batch=8",)],
)
def test_dashes_and_underscores_both_spell_an_option(argv: tuple[str, ...]) -> None:
    assert read("folder", *argv).tokens_per_batch == 8


def test_underscores_inside_a_value_are_left_alone() -> None:
    assert read("folder", "--split=my_split").split == "my_split"
    assert read("folder", "--split", "my_split").split == "my_split"


def test_arguments_may_stand_anywhere_among_options() -> None:
    toy = read("--passes", "3", "folder", "--overwrite", "a", "--limit", "2", "--", "-b", "--limit")
    assert (toy.run, toy.others, toy.limit) == (Path("folder"), ("a", "-b", "--limit"), 2)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    toy = read_file(tmp_path, "passes: 20\nlimit: 5\noverwrite: yes\nkeep-columns: [q]\n", "--passes", "30")
    assert (toy.passes, toy.limit, toy.overwrite, toy.keep_columns, toy.rate) == (30, 5, True, ("q",), 0.1)
    toy = read_file(tmp_path, "limit: 5\noverwrite: yes\n", "--limit", "none", "--no-overwrite")
    assert (toy.limit, toy.overwrite) == (None, False)


def test_a_required_argument_may_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: from-file\nothers: [a, 'b,c']\n")
    toy = read("--config", str(tmp_path / "run.yaml"))
    assert (toy.run, toy.others) == (Path("from-file"), ("a", "b,c"))


def test_yaml_guesses_no_types(tmp_path: Path) -> None:
    toy = read_file(
        tmp_path,
        """\
        rate: 1e-1      # YAML 1.1 reads text
        split: no       # YAML 1.1 reads false
        passes: 010     # YAML 1.1 reads eight
        out: 2026-01-02 # YAML 1.1 reads a date
        limit: ~
        keep_columns: a, on
        sites:
          - mlp
          - attention
        """,
    )
    assert (toy.rate, toy.split, toy.passes, toy.out) == (0.1, "no", 10, Path("2026-01-02"))
    assert (toy.limit, toy.keep_columns, toy.sites) == (None, ("a", "on"), ("mlp", "attention"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "RUN is missing: folder of the run"),
        (["x", "--pases", "3"], "unknown option --pases; did you mean --passes?"),
        (["x", "--pases=3"], "unknown option --pases; did you mean --passes?"),
        (["x", "--pass", "3"], "unknown option --pass; did you mean --passes?"),
        (["x", "--tokens_per_bach", "3"], "unknown option --tokens_per_bach; did you mean --tokens-per-batch?"),
        (["x", "--keep", "3"], "unknown option --keep; did you mean --keep-columns?"),
        (["x", "--no-overwite"], "unknown option --no-overwite; did you mean --no-overwrite?"),
        (["x", "--zzz"], "unknown option --zzz; --help lists the options"),
        (["x", "-q"], "unknown option -q; --help lists the options"),
        (["x", "--passes"], "--passes: expected one argument"),
        (["x", "--passes", "many"], "--passes: 'many' is not a whole number; the default is 100"),
        (["x", "--passes", "1.0"], "--passes: '1.0' is not a whole number; the default is 100"),
        (["x", "--passes", "٣"], "--passes: '٣' is not a whole number; the default is 100"),
        (["x", "--rate", "nan"], "--rate: 'nan' is not a finite number; the default is 0.1"),
        (["x", "--rate", "-inf"], "--rate: expected one argument"),
        (["x", "--rate=-inf"], "--rate: '-inf' is not a finite number; the default is 0.1"),
        (["x", "--rate", "1e400"], "--rate: '1e400' is not a finite number; the default is 0.1"),
        (["x", "--rate", ""], "--rate: '' is not a finite number; the default is 0.1"),
        (["x", "--rate", "1.5"], "--rate: 1.5 is not in [0, 1); give a probability such as 0.1"),
        (["x", "--tokens-per-batch", "all"], "--tokens-per-batch: 'all' is not a whole number or auto; "
                                             "the default is auto"),
        (["x", "--format", "alpca"], "--format: 'alpca' is not one of messages, alpaca, text; did you mean alpaca?"),
        (["x", "--device", "tpu"], "--device: 'tpu' is not one of auto, cpu, cuda; did you mean cpu?"),
        (["x", "--sites", "native,mpl"], "--sites: 'mpl' is not one of native, attention, mlp; did you mean mlp?"),
        (["x", "--keep-columns", "a,,b"], "--keep-columns: nothing between two commas; write them as a,b,c"),
        (["x", "--out", ""], "--out: '' is not a path; the default is out/demo"),
        (["x", "--overwrite=maybe"], "--overwrite/--no-overwrite: ignored explicit argument 'maybe'"),
        (["x", "--config", "a", "--config", "b"], "--config: given more than once; put all the options in one file"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_refused_in_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        read(*argv)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\npases: 3\n", "line 2: unknown option 'pases'; did you mean passes?"),
        ("zoom: 3\n", "line 1: unknown option 'zoom'; --help lists the options"),
        ("config: other.yaml\n", "line 1: unknown option 'config'; --help lists the options"),
        ("passes: many\n", "line 1: passes: 'many' is not a whole number; the default is 100"),
        ("passes: 1.5\n", "line 1: passes: '1.5' is not a whole number; the default is 100"),
        ("passes: true\n", "line 1: passes: 'true' is not a whole number; the default is 100"),
        ("passes:\n", "line 1: passes: has no value; give one or leave the line out"),
        ("passes: [1, 2]\n", "line 1: passes: takes one value, not a list"),
        ("rate: .inf\n", "line 1: rate: '.inf' is not a finite number; the default is 0.1"),
        ("overwrite: 1\n", "line 1: overwrite: '1' is not true or false; the default is no"),
        ("format: no\n", "line 1: format: 'no' is not one of messages, alpaca, text"),
        ("passes: 3\npasses: 4\n", "line 2: passes: given twice; keep one of the lines"),
        ("keep-columns: a\nkeep_columns: b\n", "line 2: keep_columns: given twice; keep one of the lines"),
    ],
)
def test_a_wrong_file_is_refused_naming_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        read_file(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 'run.yaml'} {message}"


def test_an_unexpected_argument_is_refused() -> None:
    @dataclass(frozen=True)
    class Small:
        run: str = positional("folder", default="here")

    assert parse(Small, [], prog="p", description="") == Small("here")
    with pytest.raises(InputError, match="unexpected argument 'b'; --help shows what the command takes"):
        parse(Small, ["a", "b"], prog="p", description="")


def test_an_option_without_a_default_is_required() -> None:
    from dataclasses import MISSING

    @dataclass(frozen=True)
    class Small:
        model: str = option(MISSING, "folder of the model")

    assert parse(Small, ["--model", "m"], prog="p", description="") == Small("m")
    with pytest.raises(InputError, match="--model is missing: folder of the model"):
        parse(Small, [], prog="p", description="")


texts = st.text(max_size=12)
words = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Toy,
        run=words.map(lambda text: Path("x" + text)),
        others=st.lists(texts, max_size=3).map(tuple),
        passes=st.integers(),
        rate=st.floats(0, 1, exclude_max=True),
        tokens_per_batch=st.integers() | st.just("auto"),
        limit=st.none() | st.integers(),
        target=st.none() | finite,
        split=texts,
        format=st.sampled_from([None, "messages", "alpaca", "text"]),
        device=st.sampled_from(["auto", "cpu", "cuda"]),
        sites=st.lists(st.sampled_from(["native", "attention", "mlp"])).map(tuple),
        keep_columns=st.lists(texts, max_size=3).map(tuple),
        ranks=st.lists(st.integers(), max_size=3).map(tuple),
        out=words.map(lambda text: Path("x" + text)),
        cache=st.none() | words.map(lambda text: Path("x" + text)),
        overwrite=st.booleans(),
        progress=st.booleans(),
    )
)
def test_the_printed_configuration_gives_the_same_options(tmp_path_factory: pytest.TempPathFactory, toy: Toy) -> None:
    file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    file.write_text(dump_yaml(toy), encoding="utf-8")
    assert parse(Toy, ["--config", str(file)], prog="unc-toy", description="") == toy


def test_print_config_prints_every_option_with_its_unit_and_ends(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        read("folder", "--passes", "7", "--print-config")
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "passes: 7  # passes\n" in printed
    assert "limit: null  # examples\n" in printed
    assert all(f"\n{field.name.replace('_', '-')}: " in printed for field in fields(Toy))
    (tmp_path / "printed.yaml").write_text(printed)
    assert read("--config", str(tmp_path / "printed.yaml")) == read("folder", "--passes", "7")


def test_the_help_shows_defaults_units_choices_and_one_spelling(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(lambda _: 5, Toy, ["--help"], prog="unc-toy", description="50% toy.", epilog="the 100% end") == 0
    text = capsys.readouterr().out
    assert "usage: unc-toy [options] RUN [OTHERS ...]" in text
    assert "stochastic forwards, not 100% of them (passes; default: 100)" in text
    assert "--device auto|cpu|cuda" in text
    assert "--sites native|attention|mlp,..." in text
    assert "--tokens-per-batch auto|N" in text
    assert "--overwrite, --no-overwrite" in text
    assert "50% toy." in text
    assert "the 100% end" in text
    assert "tokens_per_batch" not in text


def test_the_version_is_the_installed_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(lambda _: 5, Toy, ["--version"], prog="unc-toy", description="") == 0
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"unc-toy {project['version']}\n"


def test_a_field_that_is_not_stated_as_an_option_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True)
    class Bare:
        passes: int = 3

    @dataclass(frozen=True)
    class Odd:
        passes: dict[str, int] = option(None, "odd")

    with pytest.raises(TypeError, match=r"Bare\.passes: state it with option"):
        parse(Bare, [], prog="p", description="")
    with pytest.raises(TypeError, match=r"Odd\.passes: .* is not a type that an option can have"):
        parse(Odd, [], prog="p", description="")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_the_body_returns(returned: int | None, code: int) -> None:
    assert command(lambda _: returned, Toy, ["x"], prog="unc-toy", description="") == code


def test_input_errors_become_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def body(_: Toy) -> None:
        raise InputError("rows.jsonl line 3:\nnot JSON")

    assert command(body, Toy, ["x"], prog="unc-toy", description="") == 2
    assert capsys.readouterr() == ("", "unc-toy: rows.jsonl line 3: not JSON\n")
    assert command(body, Toy, ["x", "--pases"], prog="unc-toy", description="") == 2
    assert capsys.readouterr() == ("", "unc-toy: unknown option --pases; did you mean --passes?\n")


def test_an_interrupt_is_130_and_other_errors_keep_their_traceback() -> None:
    def interrupted(_: Toy) -> None:
        raise KeyboardInterrupt

    def broken(_: Toy) -> None:
        raise ZeroDivisionError

    assert command(interrupted, Toy, ["x"], prog="unc-toy", description="") == 130
    with pytest.raises(ZeroDivisionError):
        command(broken, Toy, ["x"], prog="unc-toy", description="")


TOY_PROGRAM = """
import sys
from dataclasses import dataclass
from uncertainty.cli.options import command, option

@dataclass(frozen=True)
class Toy:
    lines: int = option(3, "lines to print")

def body(options):
    for number in range(options.lines):
        print(number)

code = command(body, Toy, prog="unc-toy", description="A toy.")
"""


def test_a_reader_that_goes_away_is_met_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TOY_PROGRAM + "sys.exit(code)", "--lines", "1_000_000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


HEAVY = ("torch", "numpy", "pandas", "pyarrow", "transformers", "datasets", "matplotlib", "scipy", "yaml")
SAY_MODULES = f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"


def cpu_seconds_of(program: str, *argv: str) -> tuple[float, str]:
    """Run a Python program; its CPU-seconds and what it wrote to stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    runs = [cpu_seconds_of(TOY_PROGRAM + SAY_MODULES, "--help") for _ in range(3)]
    assert runs[0][1] == "0 []\n"
    assert min(seconds for seconds, _ in runs) < 0.5


SCRIPTS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_help_of_every_command_is_quick_and_imports_nothing_heavy(name: str) -> None:
    module, function = SCRIPTS[name].split(":")
    program = f"import sys\nfrom {module} import {function}\ncode = {function}()\n" + SAY_MODULES
    runs = [cpu_seconds_of(program, "--help") for _ in range(3)]
    assert runs[0][1] == "0 []\n"
    assert min(seconds for seconds, _ in runs) < 0.5
