"""What a run's members are called: a dropout run has passes and masks, an ensemble has members.

The one place of these words: whatever is written or drawn of a run takes them by the run's family. A family that is
added to ``uncertainty/families`` gets its line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from uncertainty.scores import RunInfo


@dataclass(frozen=True)
class FamilyWords:
    """The words of one stochastic family.

    Attributes:
        family: its name in ``run.json``.
        members: several members, after a number in a line of facts: ``100 dropout passes``.
        passes: what a reader of this run calls them in a sentence: ``passes`` or ``members``.
        one: one of them.
        over: what a mean is taken over: ``averaged over the dropout passes``.
        off: how the deterministic pass was made, after a comma: ``dropout off``.
        base: the deterministic pass as that from which members diverge.
        of_base: the same after ``the prediction``.
        repeated: who would score the same tokens anew, up to the verb ``would``.
        noise: what makes the Monte Carlo error, before ``hardly matters``.
        noise_title: heading of the section about it.
        setting: what an interval does not cover, after ``another model, another data set or``.
        meaning: what epistemic uncertainty measures in this family, and what it does not see.
        is_given: the members are listed, not drawn: there are no further ones to be had by asking.
    """

    family: str
    members: str
    passes: str
    one: str
    over: str
    off: str
    base: str
    of_base: str
    repeated: str
    noise: str
    noise_title: str
    setting: str
    meaning: str
    is_given: bool = False


def family_name(info: RunInfo) -> str:
    """The family that a run was drawn by; a run that does not say is of the time when there was only dropout."""
    family = info.settings.get("family")
    return str(family.get("family", "dropout")) if isinstance(family, dict) else "dropout"


def family_words(info: RunInfo) -> FamilyWords:
    """The words for a run.

    >>> family_words(RunInfo({"family": {"family": "weight-noise"}})).off, family_words(RunInfo({})).off
    ('noise off', 'dropout off')
    """
    name = family_name(info)
    return next((words for words in FAMILIES if words.family == name), DROPOUT)


def masks_of(info: RunInfo) -> str:
    """``iid`` or ``balanced``, of a run drawn by dropout; "" of another family."""
    if family_name(info) != "dropout":
        return ""
    family = info.settings.get("family")
    return str(family.get("masks", "iid")) if isinstance(family, dict) else "iid"


def family_summary(info: RunInfo) -> str:
    """What the members are made of, as far as the run says.

    Dropout: ``4 attention sites (native), rate 0.1, iid masks (keyed)``; weight noise: ``16 attention layers, 0.05 of
    each one's root mean square, gaussian``; an ensemble: its members' names.
    """
    family = info.settings.get("family")
    family = family if isinstance(family, dict) else {}
    name = family_name(info)
    if family_words(info).is_given:
        resolved = info.record.get("resolved")
        listed = resolved.get("members") if isinstance(resolved, dict) else None
        return ", ".join(map(str, listed)) if isinstance(listed, list) else ""
    rate = family.get("rate", info.settings.get("rate"))
    parts = [_sites(family, name)]
    if name == "weight-noise":
        parts += [f"{rate} of each one's root mean square", str(family.get("noise", ""))]
    else:
        rng = f" ({family['rng']})" if "rng" in family else ""
        parts += ["" if rate is None else f"rate {rate}", f"{family['masks']} masks{rng}" if "masks" in family else ""]
    return ", ".join(part for part in parts if part)


def _sites(family: dict[str, Any], name: str) -> str:
    """Sites by kind and origin: ``4 attention sites (native)``; weight noise calls them layers."""
    kinds: dict[tuple[str, str], int] = {}
    for site in family.get("sites", []):
        if isinstance(site, dict):
            kind = (str(site.get("kind")), str(site.get("origin")))
            kinds[kind] = kinds.get(kind, 0) + 1
    said = []
    what = "layer" if name == "weight-noise" else "site"
    for (of_kind, origin), number in kinds.items():
        where = "" if name == "weight-noise" else f" ({origin})"
        said.append(f"{number} {of_kind} {what}{'s' if number > 1 else ''}{where}")
    return ", ".join(said)


_OF_ENSEMBLES = (
    "It is blind to what all of them lack alike, and members are few: K of them cannot disagree by more than log K. "
    "Compare values only between runs of ensembles of the same kind and number."
)
DROPOUT = FamilyWords(
    family="dropout",
    members="dropout passes",
    passes="passes",
    one="pass",
    over="dropout passes",
    off="dropout off",
    base="dropout off",
    of_base="with dropout off",
    repeated="Scoring the same tokens again with other dropout masks",
    noise="dropout noise",
    noise_title="Monte Carlo noise",
    setting="another dropout rate",
    meaning="Epistemic uncertainty here is BALD from Monte Carlo dropout: how much the model's predictions under "
    "different dropout masks disagree. It measures how sensitive a prediction is to noise in the parameters, at this "
    "rate and at these sites. It is blind to what the model has not begun to learn (all masks agree on the same "
    "ignorance), and can stay high on what it does well. Compare values between runs only where sites and rate are the "
    "same.",
)
FAMILIES = (
    DROPOUT,
    FamilyWords(
        family="weight-noise",
        members="weight-noise passes",
        passes="passes",
        one="pass",
        over="noisy passes",
        off="noise off",
        base="noise off",
        of_base="with noise off",
        repeated="Scoring the same tokens again with other noise on the weights",
        noise="the noise of the passes",
        noise_title="Monte Carlo noise",
        setting="another scale of the noise",
        meaning="Epistemic uncertainty here is the mutual information of token and weights under random noise on the "
        "weights: how much the model's predictions under different draws of that noise disagree. It measures how "
        "sensitive a prediction is to noise in the parameters, at this scale and in these layers; the scale is chosen, "
        "not learnt, so it says which tokens are more uncertain than others rather than how uncertain they are. It is "
        "blind to what the model has not begun to learn (all draws agree on the same ignorance). Compare values "
        "between runs only where layers, kind and scale of the noise are the same.",
    ),
    FamilyWords(
        family="adapter-ensemble",
        members="members of an adapter ensemble",
        passes="members",
        one="member",
        over="members",
        off="by the base model alone",
        base="the base model",
        of_base="of the base model alone",
        repeated="As many other adapters, trained as these were,",
        noise="which adapters are asked",
        noise_title="Noise of so few members",
        setting="other adapters",
        meaning="Epistemic uncertainty here is the mutual information of token and member in an ensemble of adapters "
        "on one base: how much the adapters' predictions disagree. Loss and entropy are those of the base model "
        "alone, which is none of the members. " + _OF_ENSEMBLES,
        is_given=True,
    ),
    FamilyWords(
        family="checkpoint-ensemble",
        members="members of a checkpoint ensemble",
        passes="members",
        one="member",
        over="members",
        off="by the model given",
        base="the model given",
        of_base="of the model given",
        repeated="As many other models, trained as these were,",
        noise="which models are asked",
        noise_title="Noise of so few members",
        setting="other members",
        meaning="Epistemic uncertainty here is the mutual information of token and member in an ensemble of models: "
        "how much their predictions disagree. Models that were trained apart disagree more than checkpoints of one "
        "training, which also differ in how far they got. Loss and entropy are those of the model given, which may or "
        "may not be a member. " + _OF_ENSEMBLES,
        is_given=True,
    ),
)
