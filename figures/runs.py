"""The runs that the figures show: those named on the command line, or runs of the small models at hand.

At hand are always the embedded demo, and, where they lie beside the checkout, the pretrained models of
``../shared/models`` with GSM8K of ``../shared/data``. Their runs are kept in ``out/figures`` and scored only once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analysis.heatmap import run_facts
from analysis.heatmap_figure import save_figure
from uncertainty import score_dataset
from uncertainty.cli.options import option, positional
from uncertainty.scores import read_run

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared"
OWN_RUNS = Path("out/figures")  # under the folder in which the command is run
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
PRETRAINED = ("tinystories-656k", "stories260K")
# In the models' own domain, and far from it: name -> file under ../shared/data, rows of a run, rows of a sweep.
DATA = {
    "tinystories": ("tinystories/tinystories_excerpt.txt", 60, 60),
    "gsm8k": ("gsm8k/test.jsonl", 40, 30),
}

# Small enough for two cores: a quarter of an hour for the runs, and as much for the sweeps.
RUN = {"passes": 100}
SWEEP = {"passes": 50, "sites": "attention"}
DEMO_SWEEP_ROWS = 48


@dataclass(frozen=True)
class FigureOptions:
    """The options of every figure script."""

    runs: tuple[Path, ...] = positional(
        "folders of finished runs; without any, the small models at hand are scored into out/figures",
        many=True,
        default=(),
    )
    out: Path | None = option(None, "the picture, a .png (default: beside the script)", metavar="FILE")


@dataclass(frozen=True)
class AtHand:
    """A model at hand and what it is scored on; model and data set are empty for the demo."""

    name: str
    model: str = ""
    dataset: str = ""
    rows: int | None = None
    sweep_rows: int = DEMO_SWEEP_ROWS


def at_hand(datasets: Sequence[str] = tuple(DATA)) -> list[AtHand]:
    """The demo, and the pretrained models that lie beside the checkout, on each data set named."""
    found = [AtHand("demo")]
    for model in (SHARED / "models" / name for name in PRETRAINED):
        for dataset in datasets:
            path, rows, sweep_rows = DATA[dataset]
            file = SHARED / "data" / path
            if model.is_dir() and file.is_file():
                found.append(AtHand(f"{dataset}-{model.name}", str(model), str(file), rows, sweep_rows))
    return found


def own_runs() -> list[Path]:
    """One run for each model at hand and its data, at the paper's rate and number of passes."""
    return [_score(one, OWN_RUNS / one.name, limit=one.rows, **RUN) for one in at_hand()]


def own_sweeps() -> list[Path]:
    """One sweep over ``RATES`` for the demo and for each pretrained model on GSM8K, laid out as ``unc-sweep`` does."""
    folders = []
    for one in at_hand(["gsm8k"]):
        folders.append(OWN_RUNS / f"sweep-{one.name}")
        for rate in RATES:
            _score(one, folders[-1] / f"{SWEEP['sites']}-{rate}", rate=rate, limit=one.sweep_rows, **SWEEP)
    return folders


def save_picture(
    figure: Figure, script: str, out: Path | None, title: str, runs: Sequence[Path], *, n_colours: int | None = 256
) -> None:
    """Write the figure as a PNG, beside its script unless told otherwise; it tells its runs in its metadata.

    Args:
        figure: what to write.
        script: path of the script.
        out: where to write instead.
        title: for the metadata, and for what is printed.
        runs: the runs that it shows.
        n_colours: colours of the picture, which are a third of the bytes of all; None keeps all, for a heatmap.
    """
    file = out or Path(os.path.relpath(Path(script).with_suffix(".png")))
    facts = "; ".join(run_facts(read_run(run)) for run in runs)
    save_figure(figure, file, "png", title=title, facts=facts)
    if n_colours is not None:
        told = PngInfo()
        for key, text in (("Title", title), ("Description", facts)):
            told.add_itxt(key, text)
        with Image.open(file) as picture:
            few = picture.convert("RGB").quantize(n_colours, dither=Image.Dither.NONE)
        few.save(file, optimize=True, pnginfo=told)
    print(f"{file}: {title}")


def _score(one: AtHand, folder: Path, **settings: Any) -> Path:
    if not (folder / "run.json").exists():
        print(f"scoring {folder}", file=sys.stderr)
    return score_dataset(one.model, one.dataset, folder, **settings).path
