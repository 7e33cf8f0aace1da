"""FSDP, two processes on a CPU: the same selection, losses and weights as one process, and the same after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import save_tiny
from safetensors.torch import load_file
from test_training_distributed import NUMBERS, TEXTS

from uncertainty.cli.train import main as train

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("fsdp_on_cpu.py")
# Four examples a step of seven: the last step is short, and leaves one of two processes with less to do.
STEPS = ["--batch", "4", "--epochs", "2", "--micro-batch", "1", "--log-every", "1", "--learning-rate", "1e-3"]
STEPS += ["--clip", "0.5", "--save-every", "2", "--device", "cpu"]
CACHED = ("--objective", "masked-mle+distill", "--reference", "base", "--reference-cache", "CACHE")
# Each with the family of its model: Gemma's head is tied to its embedding, Llama's is not.
RUNS = {
    "adapters": ("llama", "--objective", "masked-mle+distill"),
    "whole": ("gemma", "--objective", "masked-mle+distill", "--reference", "base", "--tuning", "full"),
    "head": ("llama", "--objective", "masked-mle", "--level", "document", "--tuning", "full"),
    "16 bit": ("llama", *CACHED, "--precision", "bfloat16", "--gradient-checkpointing"),
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """``options(name, out)``: the command line of a run without the command."""
    folder = tmp_path_factory.mktemp("fsdp")
    models = {name: save_tiny(name, folder) for name in ("llama", "gemma")}
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in TEXTS))

    def line(name, out):
        family, *rest = RUNS[name]
        rest = [str(out.with_name(f"{out.name}-cache")) if option == "CACHE" else option for option in rest]
        files = [
            "--model",
            str(models[family]),
            "--dataset",
            str(data),
            "--out",
            str(out),
            "--eval-data",
            f"own={data}",
        ]
        return [*files, *STEPS, *rest]

    return line


def launch(*lines, **environment):
    """Run ``unc-train`` once for each command line, in two processes under FSDP."""
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    launcher += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    launcher += ["--fsdp_cpu_ram_efficient_loading", "false"]
    joined = [part for line in lines for part in ("--then", *line)][1:]
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), *joined],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
    )


@pytest.fixture(scope="module")
def sharded(options, tmp_path_factory):
    """The folder of all runs, each made by two processes."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(*(options(name, folder / name) for name in RUNS))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next:") == len(RUNS)  # only one process speaks
    return folder


def weights(run):
    adapter = run / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else run / "model" / "model.safetensors")


def rows(run, name="metrics.jsonl"):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_does(name, options, sharded, tmp_path):
    assert train(options(name, tmp_path / name)) == 0
    one, two = tmp_path / name, sharded / name
    # The weights were dealt out: each process wrote its part of them, and of the optimizer's state.
    shards = sorted((two / "checkpoints" / "checkpoint-4" / "pytorch_model_fsdp_0").glob("*.distcp"))
    assert len(shards) == 2
    assert min(shard.stat().st_size for shard in shards) > 0.3 * max(shard.stat().st_size for shard in shards)

    assert [row["step"] for row in rows(one)] == [row["step"] for row in rows(two)]
    for first, second in zip(rows(one), rows(two), strict=True):
        names = [key for key in first if key in NUMBERS or key.startswith("eval_")]
        assert {key: second[key] for key in names} == pytest.approx({key: first[key] for key in names}, rel=2e-4)
    selected = [[row["n_selected"] for row in rows(run, "curriculum.jsonl")] for run in (one, two)]
    assert selected[0] == selected[1]
    expected, found = weights(one), weights(two)
    assert found.keys() == expected.keys()
    # Adam divides by the gradient's size, so that where that is rounding alone an element may move either way.
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert float((found[key] - tensor).norm()) <= 2e-3 * float(tensor.norm()), key


def test_a_run_killed_under_fsdp_goes_on_to_the_same_bytes(options, sharded, tmp_path):
    """Killed in the reference's run; going on, the second half of that is trained, and then the run itself."""
    out = tmp_path / "adapters"
    killed = launch(options("adapters", out), KILLED_AT="2")
    assert f"Signal {int(signal.SIGKILL)} " in killed.stderr
    assert [path.name for path in (out / "reference" / "checkpoints").iterdir() if "2" in path.name] == ["checkpoint-2"]
    assert not (out / "checkpoints").exists()
    done = launch(options("adapters", out))
    assert done.returncode == 0, done.stderr
    assert "going on after step 2" in done.stderr
    for name in ("adapter", "reference/adapter"):
        file = f"{name}/adapter_model.safetensors"
        assert (out / file).read_bytes() == (sharded / "adapters" / file).read_bytes()
    assert rows(out, "curriculum.jsonl") == rows(sharded / "adapters", "curriculum.jsonl")


def test_a_run_made_under_fsdp_is_not_gone_on_with_without_it(options, sharded, capsys):
    assert train(options("whole", sharded / "whole")) == 2
    assert "sharding" in capsys.readouterr().err
