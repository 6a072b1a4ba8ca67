"""The tables and figures of a report without its page."""

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
