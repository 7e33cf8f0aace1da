"""All settings of a training run, their defaults, and what they may be. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from uncertainty.demo import demo_data_path, demo_model_path, demo_new_facts_path, demo_training_path
from uncertainty.errors import InputError
from uncertainty.settings import ScoreSettings

TUNINGS = ("lora", "full", "qlora")
PRECISIONS = ("auto", "float32", "bfloat16")
# The names of objectives.OBJECTIVES, here because that file imports torch; a test holds them equal.
OBJECTIVE_NAMES = (
    "mle",
    "masked-mle",
    "masked-mle+distill",
    "masked-mle+distill-topk",
    "masked-mle+reverse-kl",
    "masked-mle+jsd",
    "masked-distill",
    "mle+distill",
    "distill",
    "distill-topk",
    "reverse-kl",
    "jsd",
    "weighted",
)
TAILS = ("unnormalised", "renormalised", "bucket")  # of terms.TAILS, likewise
SCHEDULES = ("cosine", "linear", "constant")
# What the embedded demo takes where nothing is said: 16 steps at the paper's learning rate, which is one for models a
# thousand times larger, change nothing that could be seen.
DEMO = {"learning_rate": 3e-3, "epochs": 2.0}


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a training run and their defaults (the defaults stand nowhere else).

    Those of model and data mean what they mean in ``ScoreSettings``. The paper (arXiv:2503.16511, section 4) states
    LoRA of rank 32 and alpha 64 on all linear layers, batches of 32 examples, a learning rate of 1e-4 with a cosine
    schedule, one epoch, and the top quarter by loss. It does not say the rest; ours is AdamW without weight decay,
    no warm-up, gradients clipped at norm 1, no LoRA dropout.

    Attributes:
        model: folder or hub id; empty with an empty ``dataset`` fine-tunes the embedded demo model.
        dataset: file, folder or hub id to train on.
        split: split of a hub or saved-to-disk data set.
        format: what the columns mean; None decides from their names.
        template: how a conversation becomes text.
        sample_by: how a .txt file is cut.
        id_column: the column with the examples' ids; None takes ``id`` or the row number.
        limit: only the first so many rows.
        max_length: longest example in tokens; None takes the model's context.
        revision: hub revision of the model.
        trust_remote_code: run code that comes with the model.
        allow_pickle: read .bin weights.
        device: ``auto`` or a torch device.
        objective: a name of ``objectives.OBJECTIVES``.
        distill_weight: lambda, what the reference's term weighs against maximum likelihood (1 in the paper).
        temperature: of student and reference in that term (1 in the paper).
        top_k: reference tokens kept by the truncated objectives.
        tail: what becomes of the others there: ``unnormalised`` (left out, as in the paper), ``renormalised`` (the
            kept ones sum to 1) or ``bucket`` (the others count as one token).
        beta: place of the mixture in the Jensen-Shannon objectives, between 0 (near forward KL) and 1.
        select_by: what tokens are ranked by, a name of ``selection_rules.SIGNALS``.
        keep: which end of the ranking is selected, a key of ``selection_rules.KEEPS``.
        fraction: share selected, or its schedule (``0.25``, ``linear:1:0.25``, ...).
        band: for ``keep=band``: two quantiles, such as (0.5, 0.75).
        threshold: for ``keep=threshold``: in the unit of the signal.
        level: ``token`` or ``document``.
        scope: ``step`` (exact over the whole optimizer step), ``micro`` or ``running`` (cheaper approximations).
        scores: folder of a scored run over the same data, where ``select_by`` or ``weights`` is a column of it.
        column: that column (``epistemic``), for ``select_by=column`` and the objective ``weighted``.
        reference: ``auto`` (made first, by vanilla maximum likelihood on the same data), ``base``, or a folder: of an
            adapter, a model, or a cache of hidden states.
        reference_cache: folder to keep the reference's hidden states in, so that other runs need not compute them.
        tuning: ``lora``, ``full`` or ``qlora`` (4-bit base, needs bitsandbytes).
        lora_rank: r of the adapter.
        lora_alpha: alpha of the adapter; its output is scaled by alpha / r.
        lora_dropout: dropout on the adapter's input.
        lora_targets: ``all-linear``, or names of modules, comma separated.
        learning_rate: peak learning rate of AdamW.
        schedule: of the learning rate: ``cosine``, ``linear`` or ``constant``.
        warmup: share of the steps over which the learning rate rises to its peak.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
        epochs: passes over the data.
        max_steps: stop after so many optimizer steps; None trains all epochs.
        batch: examples of one optimizer step, all processes together.
        micro_batch: examples of one forward pass; None takes what fits. It decides speed and memory only.
        packing: lay the examples of a micro-batch end to end, without attention across them, instead of padding.
        gradient_checkpointing: compute activations twice instead of keeping them.
        precision: of the forward pass: ``auto`` is bfloat16 on a GPU that can and float32 elsewhere.
        seed: of the data order, the adapter's start, dropout and random selection.
        eval_data: data sets to evaluate on, ``PATH`` or ``NAME=PATH``; each has the format that its columns say.
        eval_limit: only the first so many rows of each.
        eval_every: optimizer steps between evaluations; None evaluates before and after training.
        log_every: optimizer steps of one logging window.
        save_every: optimizer steps between checkpoints.
        keep_checkpoints: how many of them stay.
        probe: examples to score as a table while training: 0 for none.
        probe_every: optimizer steps between probes; None probes before, in the middle and after.
        probe_passes: stochastic passes of a probe.
        report_to: loggers of the Trainer, such as ``tensorboard`` or ``wandb``.
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
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    device: str = "auto"

    objective: str = "masked-mle+distill"
    distill_weight: float = 1.0
    temperature: float = 1.0
    top_k: int = 64
    tail: str = "unnormalised"
    beta: float = 0.5
    select_by: str = "loss"
    keep: str = "top"
    fraction: str = "0.25"
    band: tuple[float, ...] = ()
    threshold: float | None = None
    level: str = "token"
    scope: str = "step"
    scores: str | None = None
    column: str | None = None

    reference: str = "auto"
    reference_cache: str | None = None

    tuning: str = "lora"
    lora_rank: int = 32
    lora_alpha: float = 64.0
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"

    learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0
    epochs: float = 1.0
    max_steps: int | None = None
    batch: int = 32
    micro_batch: int | None = None
    packing: bool = False
    gradient_checkpointing: bool = False
    precision: str = "auto"
    seed: int = 0

    eval_data: tuple[str, ...] = ()
    eval_limit: int | None = None
    eval_every: int | None = None
    log_every: int = 10
    save_every: int = 100
    keep_checkpoints: int = 2
    probe: int = 0
    probe_every: int | None = None
    probe_passes: int = 20
    report_to: tuple[str, ...] = ()

    @property
    def is_demo(self) -> bool:
        """Whether the embedded model and data are meant."""
        return not self.model and not self.dataset

    @property
    def data_settings(self) -> ScoreSettings:
        """Model and data of the run as ``prepare`` takes them: the same road as that of scoring."""
        shared = {f.name for f in fields(ScoreSettings)} & {f.name for f in fields(TrainSettings)}
        settings = ScoreSettings(**{name: getattr(self, name) for name in shared})
        if self.is_demo:
            settings = replace(settings, model=str(demo_model_path()), dataset=str(demo_training_path()))
        return settings

    @property
    def held_out(self) -> dict[str, str]:
        """Name -> path of every evaluation set; for the demo what it is to learn, and what it knew before."""
        if self.is_demo and not self.eval_data:
            return {"new-facts": str(demo_new_facts_path()), "old-skills": str(demo_data_path())}
        found: dict[str, str] = {}
        for text in self.eval_data:
            name, equals, path = text.partition("=")
            if not equals:
                name, path = text.rstrip("/").rpartition("/")[2].split(".")[0], text
            if not name or not path:
                raise InputError(f"--eval-data {text}: give a path, or NAME=PATH")
            if name in found:
                raise InputError(f"--eval-data: two sets are called {name}; name them, as in --eval-data a={path}")
            found[name] = path
        return found


def check_train_settings(settings: TrainSettings) -> None:
    """Refuse settings that cannot be right whatever the model and data are.

    Objective, selection and reference are checked by those who own them.

    Raises:
        InputError: names the option and what it may be.
    """
    if bool(settings.model) != bool(settings.dataset):
        given, missing = ("--model", "--dataset") if settings.model else ("--dataset", "--model")
        raise InputError(f"{given} is given without {missing}; give both (or neither, for the embedded demo)")
    least = {"limit": 1, "max_length": 2, "lora_rank": 1, "max_steps": 1, "batch": 1, "micro_batch": 1, "top_k": 1}
    least |= {"eval_limit": 1, "eval_every": 1, "log_every": 1, "save_every": 1, "keep_checkpoints": 1}
    least |= {"probe": 0, "probe_every": 1, "probe_passes": 1}
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} {value} is too small; give at least {low}")
    for name in ("learning_rate", "epochs", "temperature", "lora_alpha"):
        value = getattr(settings, name)
        if not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value:g} must be a positive number")
    for name in ("distill_weight", "weight_decay", "clip"):
        value = getattr(settings, name)
        if not 0 <= value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value:g} must be zero or a positive number")
    for name, below in (("warmup", 1.0), ("lora_dropout", 1.0)):
        value = getattr(settings, name)
        if not 0 <= value < below:
            raise InputError(f"--{name.replace('_', '-')} {value:g} must be at least 0 and below {below:g}")
    if not 0 < settings.beta < 1:
        raise InputError(f"--beta {settings.beta:g} must be between 0 and 1, both left out")
    choices = {"tuning": TUNINGS, "precision": PRECISIONS, "schedule": SCHEDULES, "tail": TAILS}
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            raise InputError(f"--{name} {value} is not known; choose one of {', '.join(known)}")
    if settings.micro_batch is not None and settings.micro_batch > settings.batch:
        raise InputError(
            f"--micro-batch {settings.micro_batch} is larger than --batch {settings.batch}; give at most as many"
        )
    settings.held_out  # noqa: B018  two sets of one name are refused here
