"""All settings of a scoring run, their defaults, and what they may be. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty.demo import demo_data_path, demo_model_path
from uncertainty.errors import InputError
from uncertainty.measure_columns import parse_measures
from uncertainty.stopping import TargetError, parse_target

FAMILY_NAMES = ("dropout", "adapter-ensemble", "checkpoint-ensemble", "weight-noise")
OF_MEMBERS = ("adapter-ensemble", "checkpoint-ensemble")  # families whose members are listed


@dataclass(frozen=True)
class ScoreSettings:
    """All settings of a scoring run and their defaults (the defaults stand nowhere else).

    Attributes:
        model: folder or hub id; empty with an empty ``dataset`` takes the embedded demo model.
        dataset: file, folder or hub id; empty with an empty ``model`` takes the embedded data set.
        split: split of a hub or saved-to-disk data set.
        format: name of ``FORMATS``; None decides from the column names.
        template: ``auto``, ``chat``, ``plain``, ``alpaca``, ``raw`` or a .jinja file.
        sample_by: how a .txt file is cut: ``paragraph``, ``line`` or ``document``.
        id_column: the column with the examples' ids; None takes ``id`` or the row number.
        limit: only the first so many rows.
        max_length: longest example in tokens; None takes the model's context.
        keep_columns: input columns to copy into the examples table.
        family: how members are drawn, a name of ``FAMILY_NAMES``.
        members: of an ensemble: folders of adapters or models, or ``@REVISION`` of the model.
        passes: members of each example (K); of an ensemble their number, for which the default stands; the
            most that one gets where ``target_se`` is given.
        target_se: draw passes in rounds until the standard error of epistemic is so small, in nats (``"0.01"``) or as
            a share of the value (``"5%"``), at 95 % of an example's tokens; None draws ``passes`` for every example.
        rate: dropout rate of every site; of weight noise its scale, see ``families.weight_noise``.
        sites: ``native`` or kinds of ``families.sites.KINDS``; of weight noise ``native``, ``attention`` or ``mlp``.
        rng: ``keyed`` or ``kernel``, see ``families.dropout``.
        masks: ``iid`` (the paper's setting) or ``balanced`` over the passes, see ``families.balanced``.
        noise: ``gaussian`` or ``low-rank:RANK``, of weight noise.
        seed: of the members.
        measures: what to compute beside the columns of every run: names of ``measure_columns.ADDED_COLUMNS``, or
            ``("all",)``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``.
        device: ``auto`` or a torch device.
        vocabulary: ``model`` (all logits) or ``tokenizer`` (only the tokenizer's tokens, where logits are padded).
        revision: hub revision of the model.
        trust_remote_code: run code that comes with the model.
        allow_pickle: read .bin weights.
        tokens_per_batch: rows times length of one forward pass; None takes the device's default.
        shard_examples: examples of one shard, the unit of resuming.
    """

    model: str = ""
    dataset: str = ""
    split: str | None = None
    format: str | None = None
    template: str = "auto"
    sample_by: str = "paragraph"
    id_column: str | None = None
    limit: int | None = None
    max_length: int | None = None
    keep_columns: tuple[str, ...] = ()
    family: str = "dropout"
    members: tuple[str, ...] = ()
    passes: int = 100
    target_se: str | None = None
    rate: float = 0.1
    sites: str = "native"
    rng: str = "keyed"
    masks: str = "iid"
    noise: str = "gaussian"
    seed: int = 0
    measures: tuple[str, ...] = ()
    dtype: str = "auto"
    device: str = "auto"
    vocabulary: str = "model"
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    tokens_per_batch: int | None = None
    shard_examples: int = 256

    def __post_init__(self) -> None:
        if self.family in OF_MEMBERS and self.passes == type(self).passes and not isinstance(self.members, str):
            object.__setattr__(self, "passes", max(1, len(self.members)))

    @property
    def is_demo(self) -> bool:
        """Whether the embedded model and data set are meant."""
        return not self.model and not self.dataset

    @property
    def model_source(self) -> str:
        """The model's folder or hub id."""
        return str(demo_model_path()) if self.is_demo else self.model

    @property
    def dataset_source(self) -> str:
        """The data set's path or hub id."""
        return str(demo_data_path()) if self.is_demo else self.dataset

    @property
    def target(self) -> TargetError | None:
        """When an example has had enough passes."""
        return None if self.target_se is None else parse_target(self.target_se)


def check_settings(settings: ScoreSettings) -> None:
    """Refuse settings that cannot be right whatever the model and data are.

    Raises:
        InputError: names the option and what it may be.
    """
    if bool(settings.model) != bool(settings.dataset):
        given, missing = ("--model", "--dataset") if settings.model else ("--dataset", "--model")
        raise InputError(f"{given} is given without {missing}; give both (or neither, for the embedded demo)")
    if isinstance(settings.keep_columns, str):
        raise InputError(f"keep_columns is the text {settings.keep_columns!r}; give a tuple of column names")
    if isinstance(settings.members, str):
        raise InputError(f"members is the text {settings.members!r}; give a tuple of folders")
    _check_members(settings)
    parse_measures(settings.measures)
    if settings.target is not None and settings.rng == "kernel":
        raise InputError(
            "--target-se stops each example by itself, and under --rng kernel its masks depend on the others; give "
            "--rng keyed"
        )
    least = {"passes": 1, "limit": 1, "max_length": 2, "tokens_per_batch": 1, "shard_examples": 1}
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} {value} is too small; give at least {low}")
    if settings.vocabulary not in ("model", "tokenizer"):
        raise InputError(f"--vocabulary {settings.vocabulary} is not known; choose model or tokenizer")


def _check_members(settings: ScoreSettings) -> None:
    if settings.family not in FAMILY_NAMES:
        raise InputError(f"--family {settings.family} is not known; choose one of {', '.join(FAMILY_NAMES)}")
    count = len(settings.members)
    if settings.family not in OF_MEMBERS:
        return
    if count < 2:
        raise InputError(
            f"--family {settings.family} needs at least 2 --members, comma separated, and has {count}; one "
            "model has no spread"
        )
    if settings.passes != count:
        raise InputError(f"--passes {settings.passes}, but {count} --members are given, one pass each; leave it out")
