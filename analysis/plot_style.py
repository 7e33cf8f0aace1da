"""How every plot looks: ink, type, colours that hold in light and dark and for colour-blind readers.

Use as ``with matplotlib.rc_context(STYLE): ...`` around the drawing and the saving of a figure. The colours that a page
must turn over in the dark are few and named, so that an SVG can follow its page (``THEME``).
"""

from __future__ import annotations

from typing import Any

INK, MUTED, GRID, PAPER = "#20242a", "#6a727d", "#dde1e6", "#ffffff"
# What stands for each of them in a page's style sheet.
THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}

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
