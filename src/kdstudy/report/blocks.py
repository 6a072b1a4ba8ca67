"""What a page is made of, sections of sentences, tables and figures, and how it becomes HTML."""

import base64
import hashlib
import importlib.resources
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from kdstudy.report.plot import Figure
from kdstudy.report.sheet import Sheet

FOLDER = importlib.resources.files("kdstudy.report") / "page"


@dataclass(frozen=True)
class Text:
    """A paragraph; `style` is its CSS class: `finding`, `note`, or "" for plain text."""

    text: str
    style: str = "finding"


@dataclass(frozen=True)
class Listed:
    """A list of sentences; with a `heading` they stand in a box of warnings."""

    sentences: Sequence[str]
    heading: str = ""


@dataclass(frozen=True)
class Group:
    """Blocks side by side or, where it has a title, folded under it."""

    blocks: Sequence["Block"]
    title: str = ""


@dataclass(frozen=True)
class Html:
    """What no other block can show: a template that lies beside its section."""

    html: markupsafe.Markup

    @classmethod
    def of(cls, template: str, **context: Any) -> "Html":
        """Fill in a template of `sections/`."""
        return cls(markupsafe.Markup(_environment().get_template(template).render(context)))


Block = Text | Listed | Group | Html | Sheet | Figure


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Attributes:
        name: Its anchor.
        title: Its heading.
        blocks: What it shows, in order.
        short: What the navigation calls it; its title where left out.
    """

    name: str
    title: str
    blocks: Sequence[Block | None]
    short: str = ""

    def filled(self, edit: Callable[[Sheet], Sheet] = lambda sheet: sheet) -> "Section":
        """Return it without what is empty: None, texts, lists, tables without rows, groups.

        Args:
            edit: Changes every table.
        """
        return replace(self, blocks=[*_filled(self.blocks, edit)])

    def parts(self, kind: type[Sheet] | type[Figure]) -> dict[str, Any]:
        """Return its sheets or its figures, by name."""
        return {b.name: b for b in _leaves(self.blocks) if isinstance(b, kind)}


def write_page(
    path: Path, sections: Sequence[Section], *, scripts: Sequence[str] = (), **context: Any
):
    """Write a page, and its tables and figures beside it into `tables/` and `figures/`.

    The file needs nothing else: it makes no request, and its only script is its own (a content
    security policy names it by hash).

    Args:
        path: The HTML file.
        sections: What it shows.
        scripts: Files of `page/` that it runs.
        context: `title`, `heading`, `kicker`, `skip`, `facts` and, with scripts, `data`.
    """
    drawn = {}
    for folder in ("tables", "figures"):
        (path.parent / folder).mkdir(parents=True, exist_ok=True)
    for section in sections:
        for sheet in section.parts(Sheet).values():
            sheet.save(path.parent / "tables")
        for name, figure in section.parts(Figure).items():
            drawn[name] = markupsafe.Markup(figure.save(path.parent / "figures"))
    script = "\n".join((FOLDER / name).read_text("utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        _environment()
        .get_template("page.html")
        .render(
            sections=sections,
            drawn=drawn,
            style=markupsafe.Markup((FOLDER / "report.css").read_text("utf-8")),
            script=markupsafe.Markup(script),
            script_hash=digest,
            **context,
        )
    )
    path.write_text(page, encoding="utf-8")


def _environment() -> jinja2.Environment:
    folders = (jinja2.PackageLoader("kdstudy.report", name) for name in ("page", "sections"))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.ChoiceLoader([*folders]),
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment


def _filled(blocks: Iterable[Block | None], edit: Callable[[Sheet], Sheet]) -> Iterator[Block]:
    for block in blocks:
        match block:
            case Sheet():
                if block.entries:
                    yield edit(block)
            case Group():
                if inside := [*_filled(block.blocks, edit)]:
                    yield Group(inside, block.title)
            case Text("") | Listed([]) | None:
                pass
            case _:
                yield block


def _leaves(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Group):
            yield from _leaves(block.blocks)
        else:
            yield block
