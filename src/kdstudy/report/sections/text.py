"""Look at the text: every question with the texts of teacher, SFT and distilled, side by side."""

import markupsafe

from kdstudy.report.blocks import Html, Section, Text
from kdstudy.report.data import ReportData

_NO_SCRIPT = (
    "<noscript><p>The browsers of items and of result rows need JavaScript; items.parquet and "
    "results.csv hold the same rows.</p></noscript>"
)


def section(data: ReportData) -> Section:
    """Return the item browser and how many items it holds of how many."""
    browser = data.browser
    if browser["items"] and browser["runs"]:
        counted = Text(browser["counted"], style="note")
        blocks = [Text(browser["note"]), counted, Html.of("text.html")]
    else:
        blocks = [Text("No texts were given to this report, so there is nothing to browse.")]
    blocks.append(Html(markupsafe.Markup(_NO_SCRIPT)))
    return Section("text", "Look at the text", blocks, short="Text")
