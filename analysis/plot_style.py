"""How every plot looks: ink, type, one colour per measure that holds in light and dark and for colour-blind readers.

Use as ``with matplotlib.rc_context(STYLE): ...`` around the drawing and the saving of a figure. The colours that a page
must turn over in the dark are few and named, so that an SVG can follow its page (``THEME``).
"""

from __future__ import annotations

from typing import Any

INK, MUTED, GRID, PAPER = "#20242a", "#6a727d", "#dde1e6", "#ffffff"
# What stands for each of them in a page's style sheet.
THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}

# Okabe and Ito's palette, the two darkest a little lighter: 3:1 or more on white and on #16191d.
COLOURS = {
    "loss": "#7a6a9f",
    "entropy": "#0b8f6a",
    "total": "#b8860b",
    "aleatoric": "#1f7fc0",
    "epistemic": "#d55e00",
    "epistemic_se": "#8a8f98",
    "mc_loss": "#a45fa8",
    "label_prob": "#4c8f9a",
}
LABELS = {
    "loss": "loss",
    "entropy": "entropy",
    "total": "total",
    "aleatoric": "aleatoric",
    "epistemic": "epistemic",
    "epistemic_se": "s.e. of epistemic",
    "mc_loss": "loss of the average",
    "label_prob": "probability of the token",
}
# For parts of a whole, in this order.
SERIES = ("#1f7fc0", "#d55e00", "#0b8f6a", "#b8860b", "#a45fa8", "#8a8f98", "#4c8f9a", "#7a6a9f")
DIVERGING = "RdBu_r"
DENSITY = "viridis"

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "axes.formatter.use_mathtext": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": PAPER,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "savefig.facecolor": PAPER,
    "savefig.bbox": None,
    "savefig.transparent": False,
    "pdf.fonttype": 42,  # TrueType: most venues refuse Type 3
    "svg.fonttype": "path",
    "path.simplify": True,
}


def axis_label(measure: str) -> str:
    """Name and unit of a measure, as an axis says them."""
    return LABELS[measure] if measure == "label_prob" else f"{LABELS[measure]} (nats)"
