"""The sections of a report; each owns its sentences, figures and tables.

A section is a file here and a place in `SECTIONS`. Its `section` takes the study
(`data.ReportData`) and returns what the page shows, in order (`blocks.Block`); what is None or
empty is left out, and so is a section with nothing else.
"""

from kdstudy.report.blocks import Section
from kdstudy.report.data import ReportData
from kdstudy.report.sections import (
    ablations,
    answer,
    collapse,
    contamination,
    depends,
    fidelity,
    generalization,
    instruct,
    methods,
    own_text,
    provenance,
    statement,
    text,
)

SECTIONS = (
    *(
        answer,
        statement,
        own_text,
        generalization,
        fidelity,
        depends,
        methods,
        instruct,
        ablations,
        collapse,
    ),
    *(contamination, text, provenance),
)
"""In the order of the page."""


def shown(data: ReportData) -> list[Section]:
    """Return every section that has something to show of a study.

    Of one benchmark the average would be its own numbers again: tables have it without.
    """
    names = data.benchmarks
    only = names[0] if len(names) == 1 else ""
    found = (
        module.section(data).filled(lambda s: s.of_one_benchmark(only) if only else s)
        for module in SECTIONS
    )
    return [section for section in found if section.blocks]
