"""A heatmap as one figure, and its file: PNG, PDF or SVG. No pyplot state is touched."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.heatmap import Heatmap
from analysis.heatmap_axes import (
    POINTS_PER_INCH,
    caption_height,
    draw_caption,
    draw_panel,
    draw_prompt,
    panel_height,
    prompt_height,
)
from analysis.look import Page
from analysis.typeface import Typeface, typeface_for
from uncertainty.errors import InputError

_MARGIN = 6.0  # points
_MAX_PIXELS = 2**16 - 1


def heatmap_figure(heatmap: Heatmap, page: Page = Page()) -> Figure:  # noqa: B008  (frozen)
    """The whole figure: example and prompt, one panel per measure, and a caption with the run's facts."""
    typeface = heatmap_typeface(heatmap, page)
    width = page.width * POINTS_PER_INCH - 2 * _MARGIN
    sections = _sections(heatmap, typeface, width)
    height = sum(section.height for section in sections) + 2 * _MARGIN
    figure = Figure(figsize=(page.width, height / POINTS_PER_INCH), dpi=page.dpi)
    figure.set_layout_engine("none")  # whatever the user's settings say
    left, share = _MARGIN / (width + 2 * _MARGIN), width / (width + 2 * _MARGIN)
    bottom = height - _MARGIN
    for section in sections:
        bottom -= section.height
        section.draw(figure.add_axes((left, bottom / height, share, section.height / height), label=section.name))
    return figure


def save_figure(figure: Figure, file: str | Path, format: str, *, title: str = "", facts: str = "") -> None:
    """Write a figure; the same heatmap gives the same bytes, and the file carries title and facts as metadata.

    Args:
        figure: What ``heatmap_figure`` returned.
        file: Path to write.
        format: ``png``, ``pdf`` or ``svg``.
        title: For the file's metadata.
        facts: Likewise: where the numbers come from.

    Raises:
        InputError: unknown format, too tall for a PNG, or the file cannot be written.
    """
    if format not in _METADATA:
        raise InputError(f"unknown picture format {format!r}; choose one of {', '.join(_METADATA)}")
    pixels = figure.get_figheight() * figure.dpi
    if format == "png" and pixels > _MAX_PIXELS:
        raise InputError(
            f"the picture would be {pixels:,.0f} pixels tall, more than {_MAX_PIXELS:,}: "
            "choose pdf, fewer measures or a lower dpi"
        )
    content = io.BytesIO()
    with matplotlib.rc_context(_SAVING):
        figure.savefig(content, format=format, metadata=_METADATA[format](title, facts))
    try:
        Path(file).write_bytes(content.getvalue())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); choose another file") from error


def heatmap_typeface(heatmap: Heatmap, page: Page = Page()) -> Typeface:  # noqa: B008  (frozen)
    """The fonts for a heatmap's text at the page's size; fonts that are installed fill in what these lack."""
    clusters = [*heatmap.prompt, *(cluster for block in heatmap.blocks for cluster in block.clusters)]
    return typeface_for((cluster.text for cluster in clusters), page.type_size, page.families)


@dataclass(frozen=True)
class _Section:
    name: str
    height: float
    draw: Callable[[Axes], Axes]


def _sections(heatmap: Heatmap, typeface: Typeface, width: float) -> list[_Section]:
    gap = 0.9 * typeface.size
    prompt = prompt_height(heatmap, typeface, width)
    caption = caption_height(heatmap, typeface, width)
    panels = [
        _Section(
            panel.measure,
            panel_height(heatmap, panel, typeface, width) + gap,
            lambda ax, panel=panel: draw_panel(ax, heatmap, panel, typeface),  # type: ignore[misc]
        )
        for panel in heatmap.panels
    ]
    return [
        _Section("prompt", prompt + gap, lambda ax: draw_prompt(ax, heatmap, typeface)),
        *panels,
        _Section("caption", caption, lambda ax: draw_caption(ax, heatmap, typeface)),
    ]


def _png_metadata(title: str, facts: str) -> dict[str, Any]:
    return {"Title": title, "Description": facts}


def _pdf_metadata(title: str, facts: str) -> dict[str, Any]:
    return {"Title": title, "Subject": facts, "CreationDate": None}


def _svg_metadata(title: str, facts: str) -> dict[str, Any]:
    return {"Title": title, "Description": facts, "Date": None}


_METADATA: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "png": _png_metadata,
    "pdf": _pdf_metadata,
    "svg": _svg_metadata,
}
_SAVING: dict[Any, Any] = {
    "text.hinting": "none",  # hinted advances are whole pixels and would not match the measured ones
    "pdf.fonttype": 42,  # TrueType: most venues refuse Type 3
    "svg.fonttype": "path",  # the reader's fonts would not match the measured ones
    "svg.hashsalt": "heatmap",
    "savefig.bbox": None,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
}
