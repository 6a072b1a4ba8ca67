"""The figure of items that distillation made right and made wrong."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.report.plot import INK, ROWS, Figure, colours, side_header
from kdstudy.report.views import groups_in_order, lines_in_order, main_grid

Table = pd.DataFrame


def flow(table: Table) -> Figure | None:
    """Draw, on the average, which items distillation made right and which it made wrong.

    Args:
        table: From `seeds.over_seeds`.
    """
    rows = main_grid(
        table[table.benchmark == AVERAGE], ("newly_right", "newly_wrong", "kept_right")
    )
    if rows.empty:
        return None
    index = ["group", "method", "line"]
    wide = rows.pivot(index=index, columns="metric", values="value").reset_index()
    seeds = rows.groupby(index).seeds.max().reindex(pd.MultiIndex.from_frame(wide[index]))
    wide["seeds"] = seeds.to_numpy()
    wide["lost"] = -wide.newly_wrong
    wide["note"] = [
        f"{100 * r.newly_wrong:.1f}% lost · {100 * r.newly_right:.1f}% won · "
        f"{100 * r.kept_right:.1f}% kept" + (f" · {r.seeds} seeds" if r.seeds > 1 else "")
        for r in wide.itertuples()
    ]
    reach = 1.05 * float(wide[["newly_right", "newly_wrong"]].to_numpy().max())
    base = alt.Chart(ROWS)
    axis = alt.Axis(format="%", tickCount=5, domain=False, ticks=False, title="share of items")
    scale_x = alt.Scale(domain=[-reach, reach], nice=False)
    y = alt.Y(
        "line:N",
        sort=lines_in_order(wide),
        title=None,
        axis=alt.Axis(domain=False, ticks=False),
    )
    colour = {"scale": colours(wide.method), "legend": None}
    won = base.mark_bar(height=11).encode(
        x=alt.X("newly_right:Q", scale=scale_x, axis=axis),
        y=y,
        fill=alt.Fill("method:N", **colour),
        description="note:N",
    )
    lost = base.mark_bar(height=11, fillOpacity=0, strokeWidth=1.5).encode(
        x=alt.X("lost:Q", scale=scale_x, axis=axis),
        y=y,
        stroke=alt.Stroke("method:N", **colour),
        description="note:N",
    )
    text = base.mark_text(align="left", dx=0, color=INK).encode(
        x=alt.value(440), y=y, text="note:N"
    )
    chart = (
        alt.layer(lost, won, text)
        .properties(width=430, height=alt.Step(19))
        .facet(row=_row(groups_in_order(rows)), spacing=14)
    )
    title = "Items that distillation lost (outlined, left) and won (filled, right), average"
    title += " over benchmarks and seeds" if (wide.seeds > 1).any() else ""
    return Figure(
        name="flow", title=title, description="; ".join(wide.note), chart=chart, data={"rows": wide}
    )


def _row(groups: Sequence[str]) -> alt.Row:
    return alt.Row("group:N", sort=list(groups), header=side_header())
