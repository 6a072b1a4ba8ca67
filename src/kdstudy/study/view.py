"""What a person sees while a study runs: a live view on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from kdstudy.study.plan import Stage

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

    On a terminal the last two lines are live; elsewhere a line is printed per finished stage, and
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
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
        )
        self.study_task = self.overall.add_task(name, total=todo, clock="")
        self.stage_task: Any = None
        self.stage: Stage | None = None
        self.live = Live(Group(self.overall, self.current), console=self.console)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        kept = f", {self.kept} kept from before" if self.kept else ""
        self._print(f"{self.name}: {self.total} stages to run{kept}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def begin(self, stage: Stage) -> None:
        """A stage starts."""
        self.stage, self.stage_started = stage, time.monotonic()
        if self.stage_task is not None:
            self.current.remove_task(self.stage_task)
        title = f"{stage.kind} {stage.label}"
        self.stage_task = self.current.add_task(title, total=None, numbers="")
        self._tick()

    def progress(self, done: int, total: int, unit: str, **numbers: float) -> None:
        """The running stage is at `done` of `total` units; `numbers` are its latest figures."""
        elapsed = time.monotonic() - self.stage_started
        rate = done / elapsed if elapsed > 0 else 0.0
        text = f"{done}/{total} {unit}s"
        if rate > 0:
            text += f", {rate:.3g} {unit}s/s, {duration((total - done) / rate)} left"
        text += "".join(f", {name} {value:.4g}" for name, value in numbers.items())
        self.current.update(self.stage_task, completed=done, total=total, numbers=text)
        self._tick()
        if not self.console.is_terminal and time.monotonic() - self.last_line > _QUIET_SECONDS:
            self._print(
                f"  ... {self.stage.kind} {self.stage.label}: {text}" if self.stage else text
            )

    def finish(self, stage: Stage, manifest: Mapping[str, Any]) -> None:
        """A stage is published."""
        self.done += 1
        self.overall.update(self.study_task, completed=self.done)
        width = len(str(self.total))
        seconds = duration(manifest.get("seconds", 0.0))
        self._print(
            f"[{self.done:{width}}/{self.total}] {stage.kind:<14} {stage.label:<40} {seconds:>10}  "
            f"{manifest.get('summary', '')}"
        )

    def _tick(self) -> None:
        clock = duration(time.monotonic() - self.started)
        self.overall.update(self.study_task, clock=clock)

    def _print(self, line: str) -> None:
        # Text, not markup: labels and summaries hold brackets and file names.
        self.console.print(Text(line.rstrip()), soft_wrap=True)
        self.last_line = time.monotonic()
