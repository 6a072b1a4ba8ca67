"""Every verb as Markdown, from the command line's own objects: docs/cli.md.

`python -m kdstudy.cli.reference > docs/cli.md` writes it.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import typer

from kdstudy.cli import app

_HEAD = """# The verbs

Written by `python -m kdstudy.cli.reference`; `kdstudy VERB --help` prints the same. Exit codes:
0 done; 1 failed while running, what is finished is kept; 2 the input is wrong. `doctor`: 0 fine or
notes, 1 warnings, 2 errors. `kdstudy --version` prints the version.
"""
_WORDS = {int: "whole number", float: "number", str: "text", Path: "path", bool: ""}


def markdown() -> str:
    """Return a section per verb: what it does, an example, and a table of what it takes."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return _HEAD + "".join(_section(name, command) for name, command in commands.items())


def _section(name: str, command: Any) -> str:
    types = _types(inspect.unwrap(command.callback))
    lines = [f"\n## {name}\n", f"{_line(command.help)}\n"]
    lines += ["```sh", command.epilog.removeprefix("Example: "), "```\n"]
    lines += ["| option | value | default | meaning |", "|---|---|---|---|"]
    lines += [_row(parameter, types[parameter.name]) for parameter in command.params]
    return "\n".join(lines) + "\n"


def _types(verb: Callable[..., Any]) -> Mapping[str, Any]:
    """Return each parameter's type, without None: that is what is left out."""
    return {name: _given(hint) for name, hint in get_type_hints(verb).items()}


def _given(hint: Any) -> Any:
    if get_origin(hint) is list:
        return get_args(hint)[0]
    parts = [part for part in get_args(hint) if part is not NoneType]
    return parts[0] if parts else hint


def _row(parameter: Any, kind: Any) -> str:
    option = parameter.param_type_name == "option"
    name = ", ".join(f"`{o}`" for o in parameter.opts) if option else f"`{_name(parameter)}`"
    meaning = _line(parameter.help or "")
    if parameter.envvar:
        meaning += f" Environment: `{parameter.envvar}`."
    cells = (name, _values(parameter, kind, option), _default(parameter), meaning)
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _name(parameter: Any) -> str:
    """Return an argument's name, in brackets where it may be left out."""
    name = parameter.metavar or parameter.name.upper()
    several = "..." if parameter.nargs == -1 else ""
    return f"{name}{several}" if parameter.required else f"[{name}{several}]"


def _values(parameter: Any, kind: Any, option: bool) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    return parameter.metavar if option and parameter.metavar else _WORDS[kind]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    value = value.value if isinstance(value, Enum) else value
    return "" if value is None or value is False else f"`{value}`"


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.stdout.write(markdown())
