"""What a report is made from: results, tests, graded texts, systems, and how the study was made."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.losses import (
    Cells,
    Groups,
    Varied,
    cells_of_items,
    courses,
    distilled,
    statement,
)
from kdstudy.analysis.other_domains import elsewhere
from kdstudy.analysis.probed import by_position, probed
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.robustness import changes, varied_cells
from kdstudy.analysis.stats import Test
from kdstudy.errors import InputError
from kdstudy.measures.hacking import Course
from kdstudy.records import Prompt, Score, System
from kdstudy.report.browse import MAX_ITEMS, browser_data
from kdstudy.report.probes import Probes
from kdstudy.report.seeds import Seeds
from kdstudy.report.views import best_students, graded, texts

ITEM_COLUMNS = [
    *("system", "benchmark", "example_id", "sample", "question", "gold", "overlap"),
    *("completion", "extracted", "outcome", "quality", "tokens"),
]
PAIR_COLUMNS = [
    *("system", "reference", "benchmark", "example_id", "sample"),
    *("agree", "bleu", "rouge_l", "steps"),
]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything that the sections of a report read; of an unfinished study what there is.

    Attributes:
        table: From `results.collect`.
        tests: From `stats.study_tests`.
        items: Graded texts, columns `ITEM_COLUMNS`; without them there is no item browser.
        pairs: Pair scores, columns `PAIR_COLUMNS`.
        systems: Every system that the study plans, finished or not.
        made: How the study was made; every entry is optional.
        max_items: Most items per benchmark in the browser.
        tokens: Token-level sums on validation rows, by (system label, reference label).
        responses: Of the corpus's training rows; None where they are not known.
        variants: Graded answers to variants of benchmarks, by system label; what they are of is in
            `made`.
        probes: What models were asked beyond that for the loss statement.
        prompts: What models read of the items; those that are not known are not shown.
        elsewhere: Benchmarks that a user says nobody trained for.
        students: Systems, or single runs of one, that the loss statement is of; all where empty.
    """

    table: pd.DataFrame
    tests: Sequence[Test] = ()
    items: pd.DataFrame = dataclasses.field(default_factory=lambda: _empty(ITEM_COLUMNS))
    pairs: pd.DataFrame = dataclasses.field(default_factory=lambda: _empty(PAIR_COLUMNS))
    systems: Sequence[System] = ()
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_items: int = MAX_ITEMS
    tokens: Mapping[tuple[str, str], pd.DataFrame] = dataclasses.field(default_factory=dict)
    responses: Sequence[str] | None = None
    variants: Mapping[str, Sequence[Score]] = dataclasses.field(default_factory=dict)
    probes: Probes = dataclasses.field(default_factory=dict)
    prompts: Sequence[Prompt] = ()
    elsewhere: Sequence[str] = ()
    students: Sequence[str] = ()

    def __post_init__(self):
        """Refuse items and pairs that lack a column, with an InputError."""
        for name, columns in (("items", ITEM_COLUMNS), ("pairs", PAIR_COLUMNS)):
            missing = [c for c in columns if c not in getattr(self, name)]
            if missing:
                why = f"{name}: column {missing[0]} is missing"
                raise InputError(why, remedy=f"give {columns}")

    @functools.cached_property
    def seeds(self) -> Seeds:
        """The table with one row per system, and the runs behind it."""
        return Seeds(self.table, self.tests)

    @functools.cached_property
    def losses(self) -> pd.DataFrame:
        """What every distilled system kept and lost (`losses.statement`, `probed.probed`)."""
        groups, wanted = self._groups, self._beside
        benchmarks = self.made.get("benchmarks") or {}
        corpus = (self.made.get("corpus") or {}).get("name", "")
        cells = cells_of_items(self.items, wanted)
        plain = statement(
            groups,
            self.systems,
            cells,
            chance={name: facts.get("chance") or 0.0 for name, facts in benchmarks.items()},
            elsewhere=elsewhere(corpus, self.benchmarks, self.elsewhere),
            tokens=self.tokens,
            responses=self.responses,
            varied=self._varied(cells, wanted),
        )
        asked = probed(groups, self.probes)
        return plain if asked.empty else pd.concat([plain, asked], ignore_index=True)

    @functools.cached_property
    def own_texts(self) -> pd.DataFrame:
        """How far every distilled system is from its teacher on its own text, by position."""
        return by_position(self._groups, self.probes.get("own_text", {}))

    @functools.cached_property
    def robustness(self) -> pd.DataFrame:
        """What variants of benchmarks do to each system's accuracy (`robustness.changes`)."""
        if not self.variants:
            return changes({}, (), {})
        wanted = self._beside if self.students else set(self.variants)
        varied = self._varied(cells_of_items(self.items, wanted), wanted)
        return changes(varied, self.systems, self._called)

    @functools.cached_property
    def _groups(self) -> Groups:
        """The runs of which the loss statement is."""
        return distilled(self.systems, self._called, self.students)

    @functools.cached_property
    def _beside(self) -> set[str]:
        """Those runs, their teachers and their models before training."""
        runs = [run for part in self._groups.values() for run in part]
        models = {run.model for run in runs}
        wanted = {run.label for run in runs} | {t for run in runs for t in run.teachers}
        return wanted | {s.label for s in self.systems if s.model in models and not s.method}

    def _varied(self, cells: Cells, wanted: Collection[str]) -> Varied:
        scores = {label: rows for label, rows in self.variants.items() if label in wanted}
        return varied_cells(scores, cells, self.made.get("variants") or {})

    @functools.cached_property
    def courses(self) -> dict[str, dict[str, Course]]:
        """How runs went towards their teacher and the truth, by system and run."""
        return courses(self.made.get("training") or (), self.systems, self._called)

    @property
    def _called(self) -> dict[str, str]:
        """What the loss statement calls each run: its system, or itself where it is told of."""
        names = self.seeds.names
        return names | {run: run for run in self.students if run in names}

    @property
    def study(self) -> Mapping[str, Any]:
        """The study file as data; empty where it is not known."""
        study = self.made.get("study")
        return study if isinstance(study, Mapping) else {}

    @property
    def benchmarks(self) -> list[str]:
        """Every measured benchmark, those of free texts last."""
        return [*graded(self.table), *texts(self.table)]

    @property
    def graded_rows(self) -> pd.DataFrame:
        """The row of every system on every benchmark: accuracy, or ROUGE-L of free texts."""
        own = self.table.metric.isin(["accuracy", "rouge_l"]) & (self.table.benchmark != AVERAGE)
        return self.table[own]

    @property
    def runs(self) -> set[str]:
        """Distilled runs with texts, which the item browser can show."""
        known = set(self.items.system)
        return {s.label for s in self.systems if s.kind == "distilled" and s.label in known}

    @functools.cached_property
    def browser(self) -> dict[str, Any]:
        """What the browser of items shows (`browse.browser_data`)."""
        first, most = self.first[0], self.max_items
        return browser_data(
            self.items,
            self.pairs,
            self.systems,
            first=first,
            max_items=most,
            prompts=self.prompts,
        )

    @functools.cached_property
    def first(self) -> tuple[str, str]:
        """The run whose texts are shown first, and its teacher: a seed of the best system.

        The first of its seeds, whatever it scored: a seed is drawn, not chosen.
        """
        ranked, names = best_students(self.seeds.means), self.seeds.names
        if ranked.empty:
            return "", ""
        top = ranked.iloc[0]
        runs = self.seeds.runs[[names[s] == top.system for s in self.seeds.runs.system]]
        return str(runs.sort_values("seed", kind="stable").system.iloc[0]), str(top.teacher)


def _empty(columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({c: pd.Series(dtype=object) for c in columns})
