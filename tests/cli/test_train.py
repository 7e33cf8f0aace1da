"""``unc-train`` from the first word to the last: what a user gives, sees and finds on disk."""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from score_runs import Done
from training_runs import make_inputs

from uncertainty.cli.score import main as score
from uncertainty.cli.train import TrainOptions, main
from uncertainty.prepare import OFFLINE
from uncertainty.scores import read_scores
from uncertainty.training.folder import read_card, read_evaluations
from uncertainty.training.settings import DEMO, TrainSettings

PROCESS = [sys.executable, "-m", "uncertainty.cli.train"]
ALONE = os.environ | {"OMP_NUM_THREADS": "1"}
SMALL = shlex.split("--device cpu --batch 4 --micro-batch 2 --lora-rank 4 --learning-rate 0.01 --max-steps 2")


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch):
    """The command may set these for its own process: put them back."""
    for name in OFFLINE:
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def unc_train(capsys):
    """Run the command here; numbers and paths may stand among the arguments."""

    def run(*arguments) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run


@pytest.fixture
def request_of(inputs, tmp_path):
    """The arguments of a small run into ``tmp_path/run``."""
    model, data, held_out = inputs
    return ["--model", model, "--dataset", data, "--eval-data", f"held={held_out}", "--out", tmp_path / "run", *SMALL]


@pytest.mark.slow
def test_with_no_arguments_the_demo_learns_and_the_printed_command_scores_it(tmp_path, monkeypatch, unc_train):
    monkeypatch.chdir(tmp_path)
    done = unc_train("--max-steps", 8, "--objective", "mle")
    assert done.code == 0, done.err
    (before, after, _), old = (read_evaluations("out/demo-train")[name] for name in ("new-facts", "old-skills"))
    assert re.search(rf"new-facts +{before:.4f} +{after:.4f}", done.out)
    assert after < before - 0.05
    assert old[1] < old[0] + 0.05
    assert read_card("out/demo-train").settings["learning_rate"] == DEMO["learning_rate"]
    (line,) = re.findall(r"^next: +unc-score (.*)$", done.out, flags=re.MULTILINE)
    assert score([*shlex.split(line), "--passes", "2", "--limit", "64"]) == 0
    assert read_scores("out/demo-train/scores")["loss"].mean() == pytest.approx(after, rel=1e-3)


def test_results_go_to_stdout_and_the_rest_to_stderr(request_of, unc_train, tmp_path):
    done = unc_train(*request_of)
    assert done.code == 0, done.err
    run = tmp_path / "run"
    assert done.out.splitlines()[0] == "2 steps on 9 examples by masked-mle+distill"
    for name, path in {"adapter": "adapter", "reference": "reference/adapter", "run card": "train.json"}.items():
        assert re.search(rf"^{name}: +{re.escape(str(run / path))}$", done.out, flags=re.MULTILINE)
        assert (run / path).exists()
    before, after, kl = read_evaluations(run)["held"]
    assert re.search(rf"held +{before:.4f} +{after:.4f} +{kl:.4f}", done.out)
    assert "reference: the same model trained by vanilla maximum likelihood on the same data, made first" in done.err
    assert "9 examples" in done.err
    assert "Loading weights" not in done.err
    assert read_card(run).record["command"] == ["unc-train", *map(str, request_of)]
    again = unc_train(*request_of)
    assert again.code == 0
    assert again.out == done.out
    assert f"{run} holds this run, finished: nothing was left to do" in again.err
    other = unc_train(*request_of, "--seed", 1, "--lora-rank", 8)
    assert other.code == 2
    assert "lora_rank: 4 -> 8" in other.last
    assert "seed: 0 -> 1" in other.last


WRONG = {
    "an unknown objective": (["--objective", "masked-mel"], "masked-mle"),
    "an unknown signal": (["--select-by", "entropi"], "entropy"),
    "a fraction above 1": (["--fraction", "1.5"], "fraction"),
    "a schedule that is none": (["--fraction", "linear:1"], "linear"),
    "a missing evaluation file": (["--eval-data", "x=/nowhere/x.jsonl"], "/nowhere/x.jsonl"),
    "a logger that is not there": (["--report-to", "nope"], "--report-to nope"),
    "a negative learning rate": (["--learning-rate", "-1"], "--learning-rate"),
    "a micro-batch above the batch": (["--micro-batch", "8"], "--micro-batch 8 is larger than --batch 4"),
    "everything cut away": (["--max-length", "5"], "--max-length"),
    "an option that is none": (["--learning-rat", "1"], "did you mean --learning-rate?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_one_line_exit_2_and_nothing_is_written(case, request_of, unc_train, tmp_path):
    arguments, message = WRONG[case]
    done = unc_train(*request_of, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith("unc-train: ")
    assert message in done.last
    assert not (tmp_path / "run").exists()


def test_4_bits_without_bitsandbytes_are_one_line_and_exit_2(request_of, unc_train, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    done = unc_train(*request_of, "--tuning", "qlora")
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith("unc-train: 4-bit weights (--tuning qlora) need a recent bitsandbytes, which is not")
    assert not (tmp_path / "run").exists()


def test_only_a_model_or_only_data_is_refused(unc_train):
    done = unc_train("--model", "x")
    assert (done.code, done.last) == (
        2,
        "unc-train: --model is given without --dataset; give both (or neither, for the embedded demo)",
    )


def test_foreign_folders_and_files_are_refused_before_anything_is_read(request_of, unc_train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    done = unc_train(*request_of, "--overwrite")
    assert done.code == 2
    assert "holds other files (mine.txt)" in done.err
    assert done.err.count("\n") == 1


def test_help_needs_no_torch_and_little_time():
    program = """
        import resource, sys
        from uncertainty.cli.train import main
        assert main(["--help"]) == 0
        usage = resource.getrusage(resource.RUSAGE_SELF)
        loaded = [name for name in ("torch", "transformers", "numpy", "pandas", "pyarrow") if name in sys.modules]
        print(loaded, usage.ru_utime + usage.ru_stime, file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    loaded, seconds = done.stderr.rsplit(" ", 1)
    assert ast.literal_eval(loaded) == []
    assert float(seconds) < 0.5
    assert done.stdout.startswith("usage: unc-train [options]")
    text = " ".join(done.stdout.split())
    assert "default: 0.0001; the demo: 0.003" in text
    for option in ("--objective", "--select-by", "--fraction", "--reference", "--lora-rank", "--eval-data", "--probe"):
        assert f" {option} " in text


def test_every_setting_is_an_option_with_its_default():
    options, settings = TrainOptions(model="m", dataset="d").settings(), TrainSettings(model="m", dataset="d")
    assert options == settings
    demo = TrainOptions().settings()
    assert (demo.learning_rate, demo.epochs) == (DEMO["learning_rate"], DEMO["epochs"])
    assert TrainOptions(learning_rate=1e-5).settings().learning_rate == 1e-5


def test_print_config_and_config_are_the_same_run(request_of, unc_train, tmp_path):
    request = [*request_of, "--band", "0.5,0.75", "--keep", "band", "--eval-data", f"again={request_of[3]}"]
    printed = unc_train(*request, "--print-config")
    assert printed.code == 0
    (tmp_path / "run.yaml").write_text(printed.out)
    assert unc_train("--config", tmp_path / "run.yaml", "--print-config").out == printed.out
    assert "band: ['0.5', '0.75']" in printed.out


def test_the_folder_is_named_after_model_data_and_objective():
    options = TrainOptions(model="a/Some-1B", dataset="data/chat.v2.jsonl.gz", objective="mle+distill")
    assert str(options.folder()) == "out/Some-1B-chat-mle+distill"
    assert str(TrainOptions().folder()) == "out/demo-train"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT"])
def test_an_interrupted_command_ends_in_one_line_and_goes_on(name, request_of, unc_train, tmp_path):
    request = [str(word) for word in [*request_of, "--objective", "mle", "--save-every", "1"]]
    request[request.index("--max-steps") + 1] = "400"
    request += ["--epochs", "200"]
    running = subprocess.Popen([*PROCESS, *request], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ALONE)
    until = time.monotonic() + 60
    while not (tmp_path / "run/checkpoints/checkpoint-2/receipt.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(getattr(signal, name))
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert out == b""
    assert "Traceback" not in err.decode()
    assert err.decode().splitlines()[-1].startswith("interrupted; checkpoints up to now are safe in ")
    card = json.loads((tmp_path / "run/train.json").read_text())
    assert card["status"] == "running"


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(request_of, unc_train, monkeypatch, tmp_path):
    request = [*request_of, "--objective", "mle"]
    assert "step/s" not in unc_train(*request).err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = unc_train(*request, "--overwrite")
    assert re.search(r"2/2 \[", done.err.replace("\r", "\n"))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_program_ends_with_its_exit_code_however_many_processes_there_are(processes, tmp_path):
    code = (
        "import atexit, sys\n"
        "from uncertainty.cli.train import main\n"
        "atexit.register(print, 'said at the end')\n"
        "sys.argv = ['unc-train', '--fraction', '3']\n"
        "sys.exit(main())\n"
    )
    environment = os.environ | {"WORLD_SIZE": str(processes)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 2
    assert done.stdout == "said at the end\n"
    assert "fraction" in done.stderr
