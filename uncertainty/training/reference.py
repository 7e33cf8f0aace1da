"""The reference of a training run: opened by its name, kept on disk where asked, refused where it is void."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from accelerate import PartialState

from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.model import LoadedModel, hidden_size
from uncertainty.objectives import Objective
from uncertainty.reference import Reference, identical_to_student
from uncertainty.reference_cache import CachedReference, build_cache, is_cache, predicted_bytes
from uncertainty.reference_choice import choose_reference, vocabulary_sha256
from uncertainty.selection_rules import Rule
from uncertainty.training.processes import on_main
from uncertainty.training.settings import TrainSettings

Say = Callable[[str], None]


def needs_reference(goal: Objective, rule: Rule | None) -> bool:
    """Whether the objective or its selection looks at the reference."""
    return goal.needs_reference or (rule is not None and rule.needs_reference)


def open_reference(
    settings: TrainSettings,
    model: Any,
    loaded: LoadedModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    state: PartialState,
    say: Say,
) -> Reference:
    """The reference that is named, or its hidden states on disk where a cache is asked for.

    Args:
        settings: its ``reference`` and ``reference_cache``.
        model: the student.
        loaded: its base, as it was loaded.
        examples: that will be trained on.
        held_out: that will be evaluated on; a cache that is made here holds them too.
        state: the processes; the first one writes.
        say: takes lines for a person.

    Raises:
        InputError: nothing is there under the name, or it does not belong to the student.
    """
    student = LoadedModel(model, loaded.tokenizer, loaded.record)
    reference = choose_reference(
        settings.reference,
        student,
        examples=examples,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    say(f"reference: {reference.record['kind']} {reference.record.get('name', '')}".rstrip())
    if settings.reference_cache is None or is_cache(settings.reference):
        return reference
    covered = [*examples, *held_out]
    size = predicted_bytes(covered, hidden_size(loaded.model), loaded.model.dtype)
    say(f"reference cache: {settings.reference_cache}, {size / 1e6:,.0f} MB of hidden states")
    sha256 = vocabulary_sha256(loaded.tokenizer)
    cache = settings.reference_cache
    on_main(state, lambda: asdict(build_cache(cache, reference, covered, vocabulary_sha256=sha256)))
    return choose_reference(cache, student, examples=examples)


def measures_kl(reference: Reference | None, held_out: Sequence[Example], say: Say) -> bool:
    """Whether held-out sets can be compared with the reference: a cache may lack them."""
    if reference is None or not isinstance(reference, CachedReference):
        return reference is not None
    try:
        reference.check_covers(held_out)
    except InputError as error:
        say(f"note: no KL to the reference is measured on held-out data: {error}")
        return False
    return True


def refuse_void(goal: Objective, rule: Rule | None, reference: Reference, model: Any, check: Any) -> None:
    """Refuse a student that starts as the reference where there is nothing else to learn from.

    Raises:
        InputError: objective or selection would be void.
    """
    only_distils = goal.on_selected is None
    ranks_by_difference = rule is not None and rule.by in ("rho", "kl")
    if (only_distils or ranks_by_difference) and identical_to_student(reference, model, check):
        what = f"objective {goal.name}" if only_distils else f"selection by {rule.by}"  # type: ignore[union-attr]
        raise InputError(
            f"the reference equals the model that is to be trained, which leaves nothing for {what}: "
            "give another --reference (auto makes one by vanilla maximum likelihood)"
        )
