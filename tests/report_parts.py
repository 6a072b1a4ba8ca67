"""The tables and figures of a report without its page, and the words of one."""

import dataclasses
from html.parser import HTMLParser

from kdstudy.report import sections
from kdstudy.report.data import ReportData
from kdstudy.report.plot import Figure
from kdstudy.report.sheet import Sheet


def all_sheets(table, tests=(), **more):
    """Return every table that a report has, by name."""
    return _parts(Sheet, table=table, tests=tests, **more)


def all_figures(table, tests=(), **more):
    """Return every figure that a report has, by name."""
    return _parts(Figure, table=table, tests=tests, **more)


def _parts(kind, **given):
    found = {}
    for section in sections.shown(ReportData(**given)):
        found |= section.parts(kind)
    return found


def only(study, benchmark):
    """Return the study as if it had measured one benchmark."""

    def kept(rows):
        return {k: [r for r in v if r.benchmark == benchmark] for k, v in rows.items()}

    return dataclasses.replace(
        study, scores=kept(study.scores), pairs=kept(study.pairs), overlaps={}
    )


class Words(HTMLParser):
    """Collects, by section, the text that a reader sees and the names of figures and tables."""

    def __init__(self, page):
        super().__init__()
        self.sections, self.section, self.silent = {}, None, 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        name = dict(attrs).get("id") or ""
        if tag == "section":
            self.section = self.sections[name] = {"figures": [], "tables": [], "text": []}
        self.silent += tag in ("svg", "script", "style")
        for kind in ("figure", "table"):
            if self.section is not None and name.startswith(f"{kind}-") and not self.silent:
                self.section[f"{kind}s"].append(name.removeprefix(f"{kind}-"))

    def handle_endtag(self, tag):
        self.silent -= tag in ("svg", "script", "style")
        self.section = None if tag == "section" else self.section

    def handle_data(self, data):
        if self.section is not None and not self.silent and data.strip():
            self.section["text"].append(" ".join(data.split()))
