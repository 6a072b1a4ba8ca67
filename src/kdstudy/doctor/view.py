"""Findings as a person reads them in 80 columns, and as a document."""

import dataclasses
import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from kdstudy.doctor.findings import EXIT_CODES, LEVELS, Finding, Level, Part, Shown, worst

_STYLES: dict[Level, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}
_PARTS: dict[Part, str] = {"prompt": "dim", "scored": "bold green", "cut": "red",
                           "aligned": "green", "apart": "red"}  # fmt: skip
_END = "bold magenta"
_INDENT = 10
_IDS = 12
_COMMAND = "kdstudy "


def show(name: str, findings: Sequence[Finding], console: Console) -> None:
    """Print findings in order, each with why and what to do, and the worst level last."""
    for finding in findings:
        first = f"{finding.level:<{_INDENT}}"
        text = Text(_hanging(first, f"{finding.check}: {clean(finding.what)}", console.width))
        text.stylize(f"bold {_STYLES[finding.level]}", 0, len(first))
        console.print(text)
        for word, said in (("why", finding.why), ("do", finding.remedy)):
            if said:
                _show_advice(word, clean(said), console)
        for row in finding.lines:
            console.print(Text(f"  {row}"), soft_wrap=True)
        for shown in finding.texts:
            _show_text(shown, console)
    counts = [f"{sum(f.level == level for f in findings)} {level}" for level in reversed(LEVELS)]
    level = worst(findings)
    console.print(Text(f"{name}: worst level: {level} ({', '.join(counts)})", style=_STYLES[level]))


def document(name: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as `--json` prints them; spans keep their part, so masks can be redrawn."""
    level = worst(findings)
    return {
        "study": name,
        "worst": level,
        "exit_code": EXIT_CODES[level],
        "findings": [
            {k: v for k, v in dataclasses.asdict(f, dict_factory=_written).items() if k != "lines"}
            for f in findings
        ],
    }


def _written(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a part of a finding without what says nothing of a stretch of text."""
    return {k: v for k, v in fields if v or k not in ("pieces", "ends")}


def clean(text: str) -> str:
    """Return text in which control characters are spelled out: it may come from any file."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _show_advice(word: str, said: str, console: Console) -> None:
    """Print why or what to do; a command stands on lines of its own, which a shell joins again."""
    text, found, command = said.partition(f": {_COMMAND}")
    text += ":" * bool(found)
    console.print(Text(_hanging(" " * _INDENT, f"{word}: {text}", console.width)))
    if found:
        for line in _continued(_COMMAND + command, console.width - _INDENT):
            console.print(Text(" " * _INDENT + line), soft_wrap=True)


def _continued(command: str, width: int) -> list[str]:
    """Return a command in lines of at most so many characters, where its words allow it."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and len(longer) > width - 2:
            lines.append(f"  {word}")
        else:
            lines[-1] = longer
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _hanging(first: str, rest: str, width: int) -> str:
    """Return one paragraph whose later lines stand under its text."""
    return textwrap.fill(
        rest, width, initial_indent=first, subsequent_indent=" " * _INDENT, break_on_hyphens=False
    )


def _show_text(shown: Shown, console: Console) -> None:
    ids = ""
    if shown.ids:
        more = f" ... {shown.ids[-1]}" if len(shown.ids) > _IDS else ""
        ids = f", ids {' '.join(map(str, shown.ids[:_IDS]))}{more}"
    console.print(Text(f"  {shown.title}{ids}", style="bold"))
    for span in shown.spans:
        # The words say what the colours say, for eyes and places without them.
        end = f", the last, {clean(span.pieces[-1])}, ends the answer" if span.ends else ""
        console.print(Text(f"    {span.part}, {span.tokens} tokens{end}:", style="italic"))
        # A bar between tokens; a line break stays one.
        lines = [
            part
            for line in clean("│".join(span.pieces) or span.text).split("\n")
            for part in textwrap.wrap(line, console.width - 6, drop_whitespace=False) or [""]
        ]
        for number, line in enumerate(lines, start=1):
            text = Text(f"      {line}".rstrip(), style=_PARTS[span.part])
            if span.ends and number == len(lines):
                text.stylize(_END, max(0, len(text) - len(clean(span.pieces[-1]))))
            console.print(text)
