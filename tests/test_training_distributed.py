"""Two processes train what one does: the same selection, the same losses, the same adapter up to rounding."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

TEXTS = [
    ("How many apples?", "There are 12 - 7 = 5 apples in the box."),
    ("Who said it?", "She went home."),
    ("What is in the garden?", "The answer is in the garden, and then she went home to the box of apples."),
    ("And then?", "Once upon a time there was a girl."),
    ("How many?", "5"),
    ("Where?", "In the box, in the garden, at home: she took 7 of them."),
    ("Is it?", "The answer is 5."),
]


@pytest.fixture
def model(tiny_folder, tmp_path):
    return tiny_folder("llama", tmp_path / "models")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in TEXTS))
    return path


def train(processes, out, model, data, *options):
    """Run ``unc-train``; what it logged, and its adapter."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    start = [sys.executable, *(launcher if processes > 1 else []), "-m", "uncertainty.cli.train"]
    # Four examples a step of seven: the last step is short, and leaves one of two processes with less to do.
    steps = ["--batch", "4", "--epochs", "2", "--log-every", "1", "--learning-rate", "1e-3", "--clip", "0.5"]
    files = ["--model", str(model), "--dataset", str(data), "--out", str(out), "--eval-data", f"own={data}"]
    done = subprocess.run(
        [*start, *files, *steps, "--device", "cpu", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return rows, load_file(out / "adapter" / "adapter_model.safetensors"), done


NUMBERS = ("loss", "grad_norm", "learning_rate", "fraction_kept", "threshold", "nll_selected", "nll_rest", "kl_rest")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--objective", "masked-mle+distill", "--micro-batch", "1"],
        ["--objective", "masked-mle", "--level", "document", "--packing"],
    ],
    ids=["distill", "documents, packed"],
)
def test_two_processes_train_what_one_does(options, model, data, tmp_path):
    one, adapter_one, _ = train(1, tmp_path / "one", model, data, *options)
    two, adapter_two, said = train(2, tmp_path / "two", model, data, *options)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for first, second in zip(one, two, strict=True):
        names = [name for name in first if name in NUMBERS or name.startswith("eval_")]
        assert {name: second[name] for name in names} == pytest.approx({name: first[name] for name in names}, rel=2e-4)
    assert any(row.get("fraction_kept") for row in one)
    # Adam divides by the gradient's size, so that where that is rounding alone an element may move either way.
    for name, tensor in adapter_one.items():
        assert float((adapter_two[name] - tensor).norm()) <= 2e-3 * float(tensor.norm()), name
    curricula = [(tmp_path / run / "curriculum.jsonl").read_text().splitlines() for run in ("one", "two")]
    selected = [[json.loads(line)["n_selected"] for line in lines] for lines in curricula]
    assert selected[0] == selected[1]
    assert said.stdout.count("next:") == 1  # only one process speaks


@pytest.mark.slow
def test_what_one_process_refuses_all_refuse(model, data, tmp_path):
    """A process that waits for one that has ended would wait for ever."""
    (tmp_path / "foreign").mkdir()
    train(1, tmp_path / "run", model, data, "--objective", "mle", "--max-steps", "1")
    with pytest.raises(AssertionError, match="holds a training run with other settings"):
        train(2, tmp_path / "run", model, data, "--objective", "mle", "--max-steps", "2")
