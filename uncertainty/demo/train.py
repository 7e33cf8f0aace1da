"""Make the embedded demo model: ``python -m uncertainty.demo.train`` writes all of ``model/`` and ``data/``.

A small Llama with attention dropout, trained in train mode by the loss on completion tokens, on a stream
of conversations that is read once. The only file of this folder that imports torch; a plain loop, about
ten minutes of one core. ``--out DIR`` writes elsewhere, ``--steps N`` makes it shorter, ``--checkpoints 300,1000``
also keeps the model as it was after those steps, in ``DIR/step-000300`` and so on.

Which tokens are completion is not computed from the chat template here: the generator knows which tokens
it drew, and those are the labels. A test holds this equal to the rendering of the same conversations.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uncertainty.demo.card import model_card
from uncertainty.demo.facts import RANKED_FACTS
from uncertainty.demo.language import Point, fine_tune_jsonl, generate, held_out_jsonl
from uncertainty.demo.oracle import FACTS_SEEN_PATH, fact_group, oracle, read_points
from uncertainty.demo.tokenizer import CHAT_TEMPLATE, word_tokenizer
from uncertainty.demo.words import ID_OF, VOCABULARY, split_words

IGNORED: Final = -100
POOL_BATCHES: Final = 16
"""Batches drawn together and sorted by length, so that little of a batch is padding."""
CURVE_EVERY: Final = 50
FIRST_LOSSES: Final = 20


@dataclass(frozen=True)
class Settings:
    """All that decides the weights, beside the versions of the software."""

    seed: int = 7
    steps: int = 5000
    conversations_per_batch: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    final_learning_rate_fraction: float = 0.02
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    attention_dropout: float = 0.1
    max_position_embeddings: int = 192


@dataclass(frozen=True)
class Tokens:
    """One conversation as token ids, with the `Point` of every completion token, None elsewhere."""

    ids: list[int]
    points: list[Point | None]


@dataclass(frozen=True)
class Trained:
    """A trained model, the loss of every step (nats a token), how often each fact was told, CPU time."""

    model: LlamaForCausalLM
    losses: list[float]
    facts_seen: dict[str, int]
    cpu_seconds: float


def encode(example: Mapping[str, Any]) -> Tokens:
    """Return a conversation as the model sees it, completion tokens with what is true of them."""
    answers: dict[int, list[tuple[str, Point]]] = defaultdict(list)
    for turn, word, point in read_points(example):
        answers[turn].append((word, point))
    spelt: list[tuple[str, Point | None]] = [("<|bos|>", None)]
    for turn, message in enumerate(example["messages"]):
        spelt.append((f"<|{message['role']}|>", None))
        asked = [*split_words(message["content"]), "<|end|>"]
        spelt.extend(answers[turn] or [(word, None) for word in asked])
    return Tokens([ID_OF[word] for word, _ in spelt], [point for _, point in spelt])


def new_model(settings: Settings) -> LlamaForCausalLM:
    """Return the untrained model; its weights come from torch's global generator."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.max_position_embeddings,
        attention_dropout=settings.attention_dropout,
        tie_word_embeddings=True,
        pad_token_id=ID_OF["<|pad|>"],
        bos_token_id=ID_OF["<|bos|>"],
        eos_token_id=ID_OF["<|end|>"],
    )
    return LlamaForCausalLM(config)


def train(
    settings: Settings,
    *,
    stop_after: int | None = None,
    report: Callable[[int, float], None] | None = None,
    look: Callable[[int, LlamaForCausalLM, Mapping[str, int]], None] | None = None,
) -> Trained:
    """Train the demo model from nothing.

    Args:
        settings: What decides the weights.
        stop_after: Stop after so many steps of the same road (the learning rate still follows
            ``settings.steps``); None for all.
        report: Called with (steps done, loss of the step) after each step.
        look: Called with (steps done, model, how often each fact was told so far) after each step; must only read.
    """
    started = time.process_time()
    losses: list[float] = []
    seen: Counter[str] = Counter(dict.fromkeys(RANKED_FACTS, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = new_model(settings).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        for step, batch in enumerate(islice(_batches(settings), stop_after)):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _learning_rate_fraction(step, settings)
            seen.update(point.fact for tokens in batch for point in tokens.points if point and point.fact)
            loss = _loss(model, batch, lambda point: True)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            losses.append(loss.item())
            if report:
                report(step + 1, losses[-1])
            if look:
                look(step + 1, model, seen)
    return Trained(model.eval(), losses, dict(seen), time.process_time() - started)


def evaluate(model: LlamaForCausalLM, seen: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return loss and truth of the held-out part by token class and, for facts, by how often they were told.

    Returns:
        Group ("all", a token class, or "fact, told 1-9 times") -> ``tokens``, and in nats a token ``loss``
        of the model with dropout off, ``true_loss`` (-log of the true probability) and ``true_entropy``.
    """
    examples = [json.loads(line) for line in held_out_jsonl().splitlines()]
    batch = [encode(example) for example in examples]
    groups = defaultdict(list)
    for truth in (truth for example in examples for truth in oracle(example, seen=seen)):
        groups["all"].append(truth)
        groups[truth.token_class].append(truth)
        if truth.fact_seen is not None:
            groups[fact_group(truth.fact_seen)].append(truth)
    return {
        name: {
            "tokens": len(truths),
            "loss": _mean_loss(model, batch, name, seen),
            "true_loss": _mean([truth.loss for truth in truths]),
            "true_entropy": _mean([truth.entropy for truth in truths]),
        }
        for name, truths in groups.items()
    }


def save(trained: Trained, settings: Settings, out: Path) -> None:
    """Write model, tokenizer, record, card, facts seen and held-out conversations under ``out``."""
    model_path, data_path = out / "model", out / "data"
    data_path.mkdir(parents=True, exist_ok=True)
    _save_model(trained.model, settings, model_path)
    record = _record(trained, settings)
    (model_path / "training.json").write_text(_as_json(record), encoding="utf-8")
    (model_path / "README.md").write_text(model_card(record), encoding="utf-8")
    (data_path / "facts_seen.json").write_text(_as_json(trained.facts_seen), encoding="utf-8")
    (data_path / "held_out.jsonl").write_text(held_out_jsonl(), encoding="utf-8")
    (data_path / "fine_tune.jsonl").write_text(fine_tune_jsonl(), encoding="utf-8")
    (data_path / "fine_tune_held_out.jsonl").write_text(fine_tune_jsonl(held_out=True), encoding="utf-8")


def save_checkpoint(model: LlamaForCausalLM, facts_seen: Mapping[str, int], settings: Settings, folder: Path) -> None:
    """Write a model in the middle of its training, its tokenizer, and how often each fact was told it so far."""
    _save_model(model, settings, folder)
    (folder / FACTS_SEEN_PATH.name).write_text(_as_json(dict(facts_seen)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with the settings of the embedded model and write it."""
    parser = argparse.ArgumentParser(prog="python -m uncertainty.demo.train", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="optimizer steps (default %(default)s)")
    parser.add_argument("--checkpoints", default="", help="also keep the model after these steps, as 300,1000,2500")
    options = parser.parse_args(arguments)
    kept = [part.strip() for part in options.checkpoints.split(",") if part.strip()]
    if not all(step.isdecimal() and 1 <= int(step) <= options.steps for step in kept):
        parser.error(f"--checkpoints {options.checkpoints}: give steps from 1 to {options.steps}, as 300,1000,2500")
    torch.set_num_threads(1)  # the sums of a step, and so the weights, depend on the number of threads
    settings = replace(Settings(), steps=options.steps)

    def look(step: int, model: LlamaForCausalLM, seen: Mapping[str, int]) -> None:
        if step in map(int, kept):
            save_checkpoint(model, seen, settings, options.out / f"step-{step:06d}")

    save(train(settings, report=_report, look=look), settings, options.out)


def _batches(settings: Settings) -> Iterator[list[Tokens]]:
    """Yield the batches of the stream, of about equal length each, in random order within a pool."""
    size = settings.conversations_per_batch
    rng = random.Random(settings.seed)
    stream = map(encode, generate(settings.steps * size, settings.seed))
    while pool := list(islice(stream, size * POOL_BATCHES)):
        pool.sort(key=lambda tokens: len(tokens.ids))
        batches = [pool[start : start + size] for start in range(0, len(pool), size)]
        yield from sorted(batches, key=lambda _: rng.random())


def _learning_rate_fraction(step: int, settings: Settings) -> float:
    """Linear warm-up, then linear decay to the final fraction."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    left = (settings.steps - step) / max(1, settings.steps - settings.warmup_steps)
    return settings.final_learning_rate_fraction + (1 - settings.final_learning_rate_fraction) * left


def _loss(model: LlamaForCausalLM, batch: Sequence[Tokens], counts: Callable[[Point], bool]) -> Tensor:
    """Return the mean loss over the completion tokens of a batch for which ``counts`` holds, nats.

    Padding is on the right, where causal attention hides it from every token that counts: no mask needed.
    """
    length = max(len(tokens.ids) for tokens in batch)
    input_ids_BT = torch.full((len(batch), length), ID_OF["<|pad|>"])
    labels_BT = torch.full((len(batch), length), IGNORED)
    for row, tokens in enumerate(batch):
        ids_T = torch.tensor(tokens.ids)
        counted_T = torch.tensor([point is not None and counts(point) for point in tokens.points])
        input_ids_BT[row, : len(ids_T)] = ids_T
        labels_BT[row, : len(ids_T)] = torch.where(counted_T, ids_T, IGNORED)
    loss: Tensor = model(input_ids=input_ids_BT, labels=labels_BT, use_cache=False).loss
    return loss


@torch.no_grad()
def _mean_loss(model: LlamaForCausalLM, batch: Sequence[Tokens], group: str, seen: Mapping[str, int]) -> float:
    def counts(point: Point) -> bool:
        names = {"all", point.token_class, fact_group(seen[point.fact]) if point.fact else ""}
        return group in names

    return _loss(model, batch, counts).item()


def _save_model(model: LlamaForCausalLM, settings: Settings, folder: Path) -> None:
    model.save_pretrained(folder)
    _tokenizer(settings).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone


def _tokenizer(settings: Settings) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(),
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=settings.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )


def _record(trained: Trained, settings: Settings) -> dict[str, Any]:
    losses = trained.losses
    means = [[end, _mean(losses[end - CURVE_EVERY : end])] for end in range(CURVE_EVERY, len(losses) + 1, CURVE_EVERY)]
    return {
        "command": "python -m uncertainty.demo.train",
        "settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(trained.cpu_seconds),
        "conversations": settings.steps * settings.conversations_per_batch,
        "first_losses": losses[:FIRST_LOSSES],
        "mean_loss_every_50_steps": means,
        "held_out": evaluate(trained.model, trained.facts_seen),
    }


def _as_json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _report(steps: int, loss: float) -> None:
    if steps % CURVE_EVERY == 0:
        sys.stderr.write(f"step {steps}: loss {loss:.4f}\n")


if __name__ == "__main__":
    main()
