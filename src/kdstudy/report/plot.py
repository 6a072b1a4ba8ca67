"""The look of every figure, and the way from an Altair chart to an accessible SVG and a PDF."""

import dataclasses
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from kdstudy.methods import METHODS

INK = "#1b1e23"
"""Text, axes and neutral marks; becomes `currentColor`, so a page's dark mode reaches them."""

GREY = "#8a8f98"
PALETTE = {name: cls.color for name, cls in METHODS.items() if cls.color}
SPARE = ("#e69f00", "#56b4e9", "#9a6324", "#7f5fc7")
"""Okabe and Ito's colours for the published methods, further ones for methods yet to come."""

SIZES = {
    "format": ".3~s",
    "title": "parameters",
    "labelExpr": "replace(datum.label, 'G', 'B')",
    "labelOverlap": True,
}
"""An axis of parameters: d3 writes a billion as G."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
ROWS = alt.NamedData("rows")
ACROSS = 5
"""Most small multiples side by side: more could not be read on a screen or a printed page."""

FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
"""Fonts of one width, so that labels take the room that vl-convert measured for them."""

_AXIS = {
    "labelColor": INK,
    "titleColor": INK,
    "titleFontWeight": "normal",
    "titleFontSize": 12,
    "labelFontSize": 12,
    "gridColor": INK,
    "gridOpacity": 0.1,
    "domainColor": INK,
    "domainOpacity": 0.35,
    "tickColor": INK,
    "tickOpacity": 0.35,
    "tickSize": 4,
    "labelPadding": 5,
    "titlePadding": 8,
}
_WORDS = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
CONFIG = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {**_WORDS, "titleFontWeight": "normal", "symbolStrokeWidth": 2},
    "header": {**_WORDS, "labelFontWeight": "bold"},
    "title": {"color": INK, "fontSize": 12.5, "anchor": "start"},
    "text": {"color": INK, "fontSize": 11.5},
}
"""Type, ink and hairlines of every figure."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One drawn figure.

    Attributes:
        name: File stem and anchor, such as `accuracy`.
        title: What is shown, with units and n.
        description: The same for someone who cannot see it.
        chart: The Altair chart, over named data.
        data: The named data; apart, because Altair copies what a chart holds at every step.
        paper: Which of the paper's figures it is, for this study, such as `Figure 2`; "" for none.
    """

    name: str
    title: str
    description: str
    chart: alt.TopLevelMixin
    data: Mapping[str, pd.DataFrame]
    paper: str = ""

    def svg(self) -> str:
        """Return the figure as one SVG element that takes its text colour from the page."""
        return accessible(vl_convert.vegalite_to_svg(self._spec()), self)

    def save(self, folder: Path) -> str:
        """Write `name.svg` and `name.pdf` into the folder and return the SVG."""
        raw = vl_convert.vegalite_to_svg(self._spec())
        svg = accessible(raw, self)
        (folder / f"{self.name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{self.name}.pdf").write_bytes(vl_convert.svg_to_pdf(raw))
        return svg

    def _spec(self) -> dict[str, Any]:
        spec = self.chart.to_dict(validate=False, context={"pre_transform": False})
        rows = {name: frame.to_json(orient="records") for name, frame in self.data.items()}
        spec["datasets"] = {name: json.loads(text) for name, text in rows.items()}
        return spec | {"config": CONFIG, "background": "transparent", "padding": 4}


def colours(methods: Iterable[str]) -> alt.Scale:
    """Return the one colour scale of the report: a method has the same colour everywhere."""
    known = sorted(set(methods) - {""}, key=order_of)
    others = [m for m in known if m not in PALETTE]
    spare = {m: SPARE[i % len(SPARE)] for i, m in enumerate(others)}
    return alt.Scale(domain=known, range=[PALETTE.get(m) or spare[m] for m in known])


def shapes(students: Sequence[str]) -> alt.Scale:
    """Return the shape scale of students, given from small to large."""
    marks = [SHAPES[i % len(SHAPES)] for i in range(len(students))]
    return alt.Scale(domain=list(students), range=marks)


def order_of(method: str) -> tuple[int, str]:
    """Return the sort key of a method: SFT first, the published ones, then any other by name."""
    names, kind = list(PALETTE), method.removesuffix("-from-sft")
    return (names.index(kind) if kind in names else len(names), method)


def percent_axis(title: str | None) -> alt.Axis:
    """Return the axis of a fraction."""
    return alt.Axis(format="%", tickCount=5, domain=False, ticks=False, title=title)


def accessible(svg: str, figure: Figure) -> str:
    """Make vl-convert's SVG one labelled image, with tooltips, in the colours of its page.

    Marks keep their description as a `<title>`, which browsers show on hover without a script.
    """
    svg = re.sub(
        r'(<svg[^>]*?) width="([\d.]+)" height="[\d.]+"',
        r'\1 style="max-width:\2px;--natural:\2px"',
        svg,
    )
    svg = re.sub(r'\s(role|aria-roledescription|aria-hidden|pointer-events)="[^"]*"', "", svg)
    svg = re.sub(r'<path class="(background|foreground)"[^>]*?d=""[^>]*?/>', "", svg)
    svg = re.sub(r'<path aria-label="([^"]*)"([^>]*)/>', r"<path\2><title>\1</title></path>", svg)
    svg = re.sub(r'\saria-label="[^"]*"', "", svg)
    svg = re.sub(r'(id="|url\(#)', rf"\g<1>{figure.name}-", svg)
    svg = svg.replace(INK, "currentColor")
    label = (
        f'<title id="{figure.name}-title">{html.escape(figure.title)}</title>'
        f'<desc id="{figure.name}-desc">{html.escape(figure.description)}</desc>'
    )
    head, body = svg.split(">", 1)
    named = f'aria-labelledby="{figure.name}-title {figure.name}-desc"'
    return f'{head} role="img" {named}>{label}{body}'


def means() -> alt.Chart:
    """Return a chart over a figure's rows without those of single seeds."""
    return alt.Chart(ROWS).transform_filter("datum.part != 'seed'")


def single_seeds(orient: str = "vertical") -> alt.Chart:
    """Return ticks, one per run of a mean, across the axis of values."""
    runs = alt.Chart(ROWS).transform_filter("datum.part == 'seed'")
    return runs.mark_tick(orient=orient, thickness=1.3, size=11, opacity=0.8).encode(
        description="text:N"
    )


def apart(values: np.ndarray, gap: float) -> np.ndarray:
    """Return the values moved apart so that labels beside them do not overlap."""
    order = np.argsort(values)
    placed = values[order].astype(float)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    placed -= (placed - values[order]).mean()
    return placed[np.argsort(order)]
