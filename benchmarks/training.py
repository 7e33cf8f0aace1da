"""The trainer against its peers: seconds and peak memory of an optimizer step, same model, same batches, one run.

    python benchmarks/training.py                     three small Llamas on this machine's CPU
    python benchmarks/training.py --device cuda       Llama-3.2-1B's shape in bfloat16 on a GPU
    python benchmarks/training.py --save NAME         also writes benchmarks/results/NAME.json and .md

The peers are the plain ``transformers.Trainer`` (the honest baseline), TRL's ``SFTTrainer`` and ``GKDTrainer`` where
TRL is installed. All train the same LoRA (rank 32 on all linear layers) on the same batches, every position of which is
completion. Each variant runs in a process of its own, variants take turns; a step's time is the median over the steps
after the first two, memory is the peak of training above model, adapter and libraries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the script's neighbours, wherever it is started from
import machine  # noqa: E402
import networks  # noqa: E402

BASELINE = "transformers Trainer"
SKIPPED = 2  # first steps of a process set up kernels and the optimizer's state


@dataclass(frozen=True)
class Case:
    """A model's shape, and the batch of one step."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    examples: int
    length: int
    steps: int
    dtype: str = "float32"


CASES = {
    # Llama-3.2-1B with every width and the vocabulary divided by four: the head has its share of the work.
    "quarter of Llama-3.2-1B": Case(32_064, 512, 2048, 16, 8, 2, 2, 256, 7),
    # The vocabulary is most of the work: what the losses themselves cost.
    "V=32k": Case(32_000, 256, 688, 6, 4, 4, 4, 256, 8),
    "V=128k": Case(128_256, 256, 688, 2, 4, 4, 2, 256, 8),
}
CUDA_CASES = {"Llama-3.2-1B": Case(128_256, 2048, 8192, 16, 32, 8, 16, 512, 12, "bfloat16")}


def main() -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", help="only this one")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every variant (default: 3)")
    parser.add_argument("--save", help="name of the files to write to benchmarks/results")
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(*options.worker, device=options.device)))
        return 0
    cases = CASES if options.device == "cpu" else CUDA_CASES
    if options.case is not None:
        if options.case not in cases:
            parser.error(f"--case {options.case} is not known; choose one of {', '.join(cases)}")
        cases = {options.case: cases[options.case]}
    results = {name: compare(name, options) for name in cases}
    text = "\n\n".join(table(name, cases[name], results[name]) for name in cases)
    print(text)
    if options.save:
        where = machine.facts(options.device, ("torch", "transformers", "peft", "accelerate"))
        where |= {"trl": _trl_version(), "rounds": options.rounds}
        content = {"where": where, "cases": {name: vars(case) for name, case in cases.items()}, "results": results}
        machine.save(options.save, "benchmarks/training.py", content, text)
    return 0


def compare(case: str, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run every variant in turn, ``rounds`` times."""
    names = [name for name in VARIANTS if _trl_version() or not name.startswith("trl")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            print(f"{case}: round {number + 1} of {options.rounds}, {name}", file=sys.stderr)
            command = [sys.executable, __file__, "--worker", case, name, "--device", options.device]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def measure(case_name: str, variant: str, *, device: str) -> dict[str, float]:
    """Train a few steps by one variant: seconds of a step (median) and peak bytes of training."""
    import torch
    import transformers

    case = (CASES | CUDA_CASES)[case_name]
    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        window_started = 0.0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - self.window_started)

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = VARIANTS[variant](case, Path(folder), device, [clock])
        # The whole step counts: fetching its window and selecting in it come before on_step_begin.
        fetch = trainer.get_batch_samples

        def timed(*args: Any, **kwargs: Any) -> Any:
            clock.window_started = time.perf_counter()
            return fetch(*args, **kwargs)

        trainer.get_batch_samples = timed
        with machine.peak_memory(device) as peak:
            trainer.train()
    return {"seconds": statistics.median(times[SKIPPED:]), "peak_bytes": peak.bytes}


def with_adapter(model: Any) -> Any:
    """The model with the LoRA that every variant trains."""
    from uncertainty.lora import LoraSettings, attach_lora

    return attach_lora(model, LoraSettings())


def rows(case: Case) -> list[list[int]]:
    """Random token ids; all variants see the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (case.examples * case.steps, case.length)
    return torch.randint(3, case.vocabulary, shape, generator=generator).tolist()


def arguments(case: Case, folder: Path, device: str, kind: Any = None, **more: Any) -> Any:
    """Training arguments that are the same for all."""
    import transformers

    return (kind or transformers.TrainingArguments)(
        output_dir=str(folder),
        max_steps=case.steps,
        per_device_train_batch_size=case.examples,
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        bf16=case.dtype == "bfloat16",
        save_strategy="no",
        logging_steps=10**6,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=device == "cpu",
        log_level="error",
        **more,
    )


def collated(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tensors of a batch whose rows are equally long; the first token has no prediction."""
    import torch

    ids_BT = torch.tensor([row["input_ids"] for row in batch])
    mask_BT = torch.ones_like(ids_BT)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": ids_BT.clone(), "prompts": ids_BT[:, :1]}


def plain_trainer(case: Case, folder: Path, device: str, callbacks: list[Any]) -> Any:
    """``transformers.Trainer`` as it comes."""
    import transformers

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in collated(batch).items() if name != "prompts"}

    data = [{"input_ids": row} for row in rows(case)]
    model = with_adapter(networks.llama(case, device, pad_token_id=0))
    return transformers.Trainer(
        model, arguments(case, folder, device), collate, train_dataset=data, callbacks=callbacks
    )


def trl_sft(case: Case, folder: Path, device: str, callbacks: list[Any]) -> Any:
    """TRL's SFTTrainer with its default loss."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in collated(batch).items() if name != "prompts"}

    data = datasets.Dataset.from_dict({"input_ids": rows(case)})
    args = arguments(case, folder, device, SFTConfig, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    model = with_adapter(networks.llama(case, device, pad_token_id=0))
    return SFTTrainer(
        model, args, collate, train_dataset=data, processing_class=word_tokenizer(case), callbacks=callbacks
    )


def trl_gkd(case: Case, folder: Path, device: str, callbacks: list[Any]) -> Any:
    """TRL's GKDTrainer, distilling from a second model on the data's own texts."""
    import datasets
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    data = datasets.Dataset.from_dict({"input_ids": rows(case)})
    skip = {"skip_prepare_dataset": True}
    args = arguments(case, folder, device, GKDConfig, dataset_kwargs=skip, max_length=None, lmbda=0.0, beta=0.0)
    return GKDTrainer(
        model=with_adapter(networks.llama(case, device, pad_token_id=0)),
        teacher_model=networks.llama(case, device, pad_token_id=0),
        args=args,
        data_collator=collated,
        train_dataset=data,
        processing_class=word_tokenizer(case),
        callbacks=callbacks,
    )


def word_tokenizer(case: Case) -> Any:
    """A tokenizer with as many words as the model has: TRL asks for one, the batches are made already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(case.vocabulary)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")


def ours(
    objective: str, *, cached: bool = False, micro: int | None = None
) -> Callable[[Case, Path, str, list[Any]], Any]:
    """Our trainer by an objective: the reference a second adapter, or its hidden states on disk."""

    def make(case: Case, folder: Path, device: str, callbacks: list[Any]) -> Any:
        import torch

        from uncertainty.adapters import read_adapter
        from uncertainty.data.render import Example
        from uncertainty.objectives import objective as goal_of
        from uncertainty.objectives import rest_term
        from uncertainty.reference import AdapterReference
        from uncertainty.reference_cache import CachedReference, build_cache
        from uncertainty.selection_rules import Rule
        from uncertainty.trainer import TokenTrainer
        from uncertainty.training.step import Recipe
        from uncertainty.training.windows import Collator, Windows

        examples = [
            Example(str(i), row, [False] + [True] * (len(row) - 1), [0] * len(row), False, [])
            for i, row in enumerate(rows(case))
        ]
        goal = goal_of(objective)
        model = with_adapter(networks.llama(case, device, pad_token_id=0))
        reference: Any = None
        if goal.needs_reference:
            torch.manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # an adapter that does something
                    torch.nn.init.normal_(parameter, std=0.02)
            model.save_pretrained(folder / "reference")
            config = folder / "reference" / "adapter_config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "none/none"}))
            reference = AdapterReference(model, read_adapter(folder / "reference"))
            if cached:
                build_cache(folder / "cache", reference, examples, vocabulary_sha256="")
                model = with_adapter(networks.llama(case, device, pad_token_id=0))
                reference = CachedReference(folder / "cache", student=model, examples=examples)
        windows = Windows(len(examples), batch=case.examples, micro=micro or case.examples, seed=0)
        args = arguments(case, folder, device, gradient_accumulation_steps=windows.accumulation)
        args.per_device_train_batch_size = windows.micro
        recipe = Recipe(goal, Rule() if goal.needs_selection else None, reference, rest_term(goal))
        return TokenTrainer(
            model, args, recipe, examples=examples, windows=windows, collator=Collator(examples[0]), callbacks=callbacks
        )

    return make


VARIANTS: dict[str, Callable[[Case, Path, str, list[Any]], Any]] = {
    BASELINE: plain_trainer,
    "trl SFTTrainer": trl_sft,
    "trl GKDTrainer, second model": trl_gkd,
    "ours, mle": ours("mle"),
    "ours, masked-mle": ours("masked-mle"),
    "ours, masked-mle+distill, adapter reference": ours("masked-mle+distill"),
    "ours, masked-mle+distill, cached reference": ours("masked-mle+distill", cached=True),
    "ours, masked-mle, micro-batches of 1": ours("masked-mle", micro=1),
    "ours, masked-mle+distill, micro-batches of 1": ours("masked-mle+distill", micro=1),
}


def table(name: str, case: Case, found: dict[str, list[dict[str, float]]]) -> str:
    """Medians of one case, and how many times the baseline's each is."""
    median = {
        variant: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for variant, runs in found.items()
    }
    base = median[BASELINE]
    lines = [
        f"{name}: {case.layers} layers, width {case.width}, {case.dtype}, {case.examples} examples of {case.length} "
        "tokens a step, LoRA rank 32",
        "",
        "| variant | seconds a step, median (min to max) | times the plain Trainer's | peak MB of training | times |",
        "|---|---|---|---|---|",
    ]
    for variant, runs in found.items():
        times, row = [run["seconds"] for run in runs], median[variant]
        lines.append(
            f"| {variant} | {row['seconds']:.3f} ({min(times):.3f} to {max(times):.3f}) "
            f"| {row['seconds'] / base['seconds']:.2f} | {row['peak_bytes'] / 1e6:.0f} "
            f"| {row['peak_bytes'] / base['peak_bytes']:.2f} |"
        )
    return "\n".join(lines)


def _trl_version() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("trl")
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
