"""What a person sees while a study runs: a live view on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column
from rich.text import Text

from kdstudy.stage import Stage

_QUIET_SECONDS = 30


def duration(seconds: float) -> str:
    """Return `0.4 s`, `12 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class StudyView:
    """Shows stages done, running and waiting, and the running one's step, rate, loss and ETA.

    On a terminal the last lines are live; elsewhere a line is printed per finished stage, and
    one every half minute for a long stage.
    """

    def __init__(self, name: str, todo: int, kept: int, console: Console | None = None):
        """Show a study of `todo` stages to build; `kept` more are finished already."""
        self.console = console or Console(file=sys.stderr, highlight=False)
        self.name, self.total, self.kept, self.done = name, todo, kept, 0
        self.started = self.last_line = time.monotonic()
        self.overall = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} stages, {task.fields[clock]}"),
            console=self.console,
        )
        self.current = Progress(
            SpinnerColumn(),
            # On a narrow terminal the numbers go first, the name of what runs last.
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=24)),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            console=self.console,
        )
        self.study_task = self.overall.add_task(name, total=todo, clock="")
        self.running: dict[str, Any] = {}  # key -> its bar
        self.first: dict[str, tuple[float, int]] = {}  # key -> when it first told how far it was
        self.asked: Counter[str] = Counter()  # key -> how often it was found taken
        self.live = Live(Group(self.overall, self.current), console=self.console)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        kept = f", {self.kept} kept from before" if self.kept else ""
        self._print(f"{self.name}: {self.total} stages to run{kept}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            with contextlib.suppress(OSError):
                self.live.stop()

    def begin(self, stage: Stage) -> None:
        """A stage starts."""
        bar = self.current.add_task(f"{stage.kind} {stage.label}", total=None, numbers="")
        self.running[stage.key] = bar
        self._tick()

    def progress(self, stage: Stage, done: int, total: int, unit: str, **numbers: float) -> None:
        """A running stage is at `done` of `total` units; `numbers` are its latest figures."""
        now = time.monotonic()
        since, before = self.first.setdefault(stage.key, (now, done))
        text = f"{done}/{total} {unit}s"
        # What was done before an interruption says nothing of the pace.
        if done > before and now > since:
            rate = (done - before) / (now - since)
            text += f", {rate:.3g} {unit}s/s, {duration((total - done) / rate)} left"
        text += "".join(f", {name} {value:.4g}" for name, value in numbers.items())
        self.current.update(self.running[stage.key], completed=done, total=total, numbers=text)
        self._tick()
        if not self.console.is_terminal and time.monotonic() - self.last_line > _QUIET_SECONDS:
            self._print(f"  ... {stage.kind} {stage.label}: {text}")

    def wait(self, stage: Stage, owner: str) -> None:
        """Another process builds a stage."""
        # Who has only just taken it has not yet written its name.
        self.asked[stage.key] += 1 if self.asked[stage.key] or not owner else 2
        if self.asked[stage.key] == 2:
            who = owner or "another process"
            self._print(f"  {stage.kind} {stage.label}: being built by {who}")

    def finish(self, stage: Stage, manifest: Mapping[str, Any], *, here: bool) -> None:
        """A stage is published."""
        if stage.key in self.running:
            self.current.remove_task(self.running.pop(stage.key))
        self.done += 1
        self.overall.update(self.study_task, completed=self.done)
        width = len(str(self.total))
        seconds = duration(manifest.get("seconds", 0.0)) if here else "elsewhere"
        head = (
            f"[{self.done:{width}}/{self.total}] {stage.kind:<14} {stage.label:<40} {seconds:>10}"
        )
        said = manifest.get("summary", "")
        narrow = self.console.is_terminal and len(head) + 2 + len(said) > self.console.width
        self._print(f"{head}\n{' ' * (2 * width + 4)}{said}" if narrow else f"{head}  {said}")

    def _tick(self) -> None:
        clock = duration(time.monotonic() - self.started)
        self.overall.update(self.study_task, clock=clock)

    def _print(self, line: str) -> None:
        self.last_line = time.monotonic()
        # Text, not markup: labels and summaries hold brackets and file names. A terminal that was
        # closed ends no study: the logs in the store go on.
        with contextlib.suppress(OSError):
            self.console.print(Text(line.rstrip()), soft_wrap=True)
