"""From the settings of a run to rendered examples, before any weights are loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uncertainty.data.files import READERS
from uncertainty.data.pieces import spell
from uncertainty.data.render import Example, contains_special_text, render
from uncertainty.data.sources import HUB_ID, Row, Source, UnusableRow, conversation, read_source
from uncertainty.data.templates import Template, choose_template
from uncertainty.errors import InputError
from uncertainty.loading import load_config, load_tokenizer, reachable
from uncertainty.model import LoadedModel, context_length, is_local
from uncertainty.scores import ExampleText
from uncertainty.settings import ScoreSettings, check_settings

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before weights are loaded.

    Attributes:
        settings: as given.
        source: what was read.
        template: how conversations are rendered.
        tokenizer: the model's tokenizer.
        config: the model's configuration.
        max_length: longest example, tokens.
        examples: rendered, in the order of the data set.
        rows: the row of each example.
        skipped: rows with nothing to score: row, where, id, reason, detail.
        notices: what a person should know, one line each.
    """

    settings: ScoreSettings
    source: Source
    template: Template
    tokenizer: Any
    config: Any
    max_length: int
    examples: list[Example]
    rows: list[Row]
    skipped: list[dict[str, Any]]
    notices: list[str] = field(default_factory=list)

    @property
    def completion_tokens(self) -> int:
        """Rows of the token table to be."""
        return sum(sum(example.completion) for example in self.examples)


def go_offline(settings: ScoreSettings) -> str | None:
    """Keep the Hugging Face libraries from opening a socket when model and data are local.

    Likewise for a data set of the hub when the hub is out of reach: left to itself `datasets` tries again for half a
    minute before it looks into its cache. They read these variables when they are imported, so this is called before.
    Variables that are set already are left alone.

    Returns:
        a notice for the user where the hub was out of reach.
    """
    notice = None
    if _on_the_hub(settings.dataset_source):
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        if any(name in os.environ for name in OFFLINE[:2]) or reachable(hub):
            return None
        notice = f"{hub} cannot be reached: HF_HUB_OFFLINE is set for this run, only what is in the cache is used"
    elif not (is_local(settings.model_source) and Path(settings.dataset_source).expanduser().exists()):
        return None
    for name in OFFLINE:
        os.environ.setdefault(name, "1")
    return notice


def prepare(settings: ScoreSettings, loaded: LoadedModel | None = None) -> Prepared:
    """Read the data set, load tokenizer and configuration (or take those of ``loaded``), and render every row.

    Raises:
        InputError: whatever is wrong with the settings or the data, or no row is usable.
    """
    check_settings(settings)
    if settings.revision is not None and is_local(settings.model_source):
        raise InputError(
            f"--revision {settings.revision}: {settings.model_source} is a folder, which has no revisions; leave it out"
        )
    if loaded is not None:
        tokenizer, config = loaded.tokenizer, loaded.model.config
    else:
        revision, trust = settings.revision, settings.trust_remote_code
        tokenizer = load_tokenizer(settings.model_source, revision=revision, trust_remote_code=trust)
        config = load_config(settings.model_source, revision=revision, trust_remote_code=trust)
    max_length = _max_length(settings, config, tokenizer)
    source = read_source(
        settings.dataset_source,
        split=settings.split,
        format=settings.format,
        id_column=settings.id_column,
        limit=settings.limit,
        sample_by=settings.sample_by,
    )
    _check_kept(settings, source)
    template = choose_template(settings.template, tokenizer, source.format)
    prepared = Prepared(settings, source, template, tokenizer, config, max_length, [], [], [])
    for row, outcome in _rendered(prepared):
        if isinstance(outcome, UnusableRow):
            prepared.skipped.append(_skip(row, outcome.reason, outcome.detail))
        else:
            prepared.examples.append(outcome)
            prepared.rows.append(row)
    if not prepared.examples:
        raise InputError(_nothing_usable(prepared))
    prepared.notices.extend(_notices(prepared))
    return prepared


def example_text(example: Example, row: Row, tokenizer: Any, keep_columns: tuple[str, ...]) -> ExampleText:
    """What the score table says of an example besides its measures."""
    pieces = spell(tokenizer, example.input_ids)
    position = [p for p, inside in enumerate(example.completion) if inside]
    starts, ends, completion, covered, shift, last = [], [], "", 0, 0, -2
    for p in position:
        if p != last + 1:  # a new run of completion tokens: the prompt before it is not part of the text
            covered = pieces.char_start[p]
            shift = covered - len(completion)
        completion += pieces.text[covered : pieces.char_end[p]]
        covered = max(covered, pieces.char_end[p])
        starts.append(pieces.char_start[p] - shift)
        ends.append(pieces.char_end[p] - shift)
        last = p
    prompt_end = pieces.char_start[position[0]] if position else len(pieces.text)
    return ExampleText(
        id=example.id,
        prompt=pieces.text[:prompt_end],
        completion=completion,
        messages=[dict(message) for message in example.messages],
        input_ids=list(example.input_ids),
        truncated=example.truncated,
        n_prompt_tokens=len(example.input_ids) - len(position),
        turn=[example.turn[p] for p in position],
        position=position,
        tokens=[pieces.tokens[p] for p in position],
        char_start=starts,
        char_end=ends,
        is_special=[pieces.is_special[p] for p in position],
        kept={name: row.fields.get(name) for name in keep_columns},
    )


def _on_the_hub(dataset: str) -> bool:
    """Whether a data set can only be one of the hub; a slip in a local path must not go out to it."""
    path = Path(dataset).expanduser()
    local = path.exists() or ("/" in dataset and path.parent.is_dir()) or dataset.lower().endswith(tuple(READERS))
    return not local and HUB_ID.fullmatch(dataset) is not None


def _rendered(prepared: Prepared) -> Iterator[tuple[Row, Example | UnusableRow]]:
    for row in prepared.source.rows:
        try:
            messages = conversation(row, prepared.source.format)
            yield (
                row,
                render(
                    messages,
                    prepared.tokenizer,
                    id=row.id,
                    template=prepared.template,
                    max_length=prepared.max_length,
                ),
            )
        except UnusableRow as unusable:
            yield row, unusable


def _skip(row: Row, reason: str, detail: str) -> dict[str, Any]:
    return {"row": row.number, "where": row.where, "id": row.id, "reason": reason, "detail": detail}


def _max_length(settings: ScoreSettings, config: Any, tokenizer: Any) -> int:
    context = context_length(config)
    if settings.max_length is not None:
        if context is not None and settings.max_length > context:
            raise InputError(
                f"--max-length {settings.max_length} is longer than the model's context of {context} tokens; "
                f"give at most {context}"
            )
        return settings.max_length
    if context is not None:
        return context
    if tokenizer.model_max_length < 10**6:  # tokenizers without a limit carry a huge number
        return int(tokenizer.model_max_length)
    raise InputError("neither the model nor its tokenizer says how long its context is; give --max-length")


def _check_kept(settings: ScoreSettings, source: Source) -> None:
    missing = [name for name in settings.keep_columns if name not in source.columns]
    if missing:
        raise InputError(
            f"--keep-columns {missing[0]}: {source.origin} has no such column; it has {', '.join(source.columns)}"
        )


def _nothing_usable(prepared: Prepared) -> str:
    reasons = Counter(skip["reason"] for skip in prepared.skipped)
    first = prepared.skipped[0]
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return (
        f"no row of {prepared.source.origin} can be scored ({counts}; first: {first['where']}: {first['detail']}); "
        "check --format, --template and --max-length"
    )


def _notices(prepared: Prepared) -> list[str]:
    notices = []
    cut = sum(example.truncated for example in prepared.examples)
    if cut:
        notices.append(f"{cut} examples are longer than {prepared.max_length} tokens: cut, and flagged truncated")
    unknown = sum(example.unknown for example in prepared.examples)
    if unknown:
        notices.append(f"{unknown:,} tokens stand for text outside the tokenizer's vocabulary")
    if prepared.template.kind == "chat":
        risky = sum(contains_special_text(example.messages, prepared.tokenizer) for example in prepared.examples)
        if risky:
            notices.append(
                f"{risky} examples contain text that the chat template turns into control tokens (such as an "
                "end-of-turn mark typed by a user)"
            )
    return notices
