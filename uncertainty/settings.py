"""All settings of a scoring run, their defaults, and what they may be. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty.demo import demo_data_path, demo_model_path
from uncertainty.errors import InputError
from uncertainty.measure_columns import parse_measures


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
        passes: members of each example (K).
        rate: dropout rate of every site.
        sites: ``native`` or kinds of ``families.sites.KINDS``.
        rng: ``keyed`` or ``kernel``, see ``families.dropout``.
        masks: ``iid`` (the paper's setting) or ``balanced`` over the passes, see ``families.balanced``.
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
    passes: int = 100
    rate: float = 0.1
    sites: str = "native"
    rng: str = "keyed"
    masks: str = "iid"
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
    parse_measures(settings.measures)
    least = {"passes": 1, "limit": 1, "max_length": 2, "tokens_per_batch": 1, "shard_examples": 1}
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} {value} is too small; give at least {low}")
    if settings.vocabulary not in ("model", "tokenizer"):
        raise InputError(f"--vocabulary {settings.vocabulary} is not known; choose model or tokenizer")
