"""study.yaml -> Study: errors name file, line and field, what is wrong and what to write."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, SequenceNode

from kdstudy.errors import InputError
from kdstudy.study.protocols import PRESETS, expand
from kdstudy.study.schema import METHODS, Study

# Branch names that pydantic puts into an error's path and that no user ever wrote.
_TAGS = frozenset(METHODS)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice; YAML would keep the last and say nothing."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [k.value for k, _ in node.value]
        for k, _ in node.value:
            if keys.count(k.value) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"'{k.value}' is written twice", problem_mark=k.start_mark
                )
        return super().construct_mapping(node, deep)


def read_study(path: Path) -> Study:
    """Read, expand and check a study file.

    Raises:
        InputError: The file is missing, is no YAML mapping, or a field is wrong.
    """
    text = read_text(path)
    try:
        raw, tree = yaml.load(text, _Loader), yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise InputError(f"{path}, line {line}: {e.problem or 'is not YAML'}") from e
    except yaml.YAMLError as e:
        raise InputError(f"{path}: is not YAML ({e})") from e
    if not isinstance(raw, dict):
        raise InputError(f"{path}: is not a study", why="it holds no `key: value` pairs",
                         remedy="start from studies/demo.yaml")  # fmt: skip
    protocol = str(raw.get("protocol", "corrected"))
    if protocol not in PRESETS:
        near = difflib.get_close_matches(protocol, PRESETS, n=1) or list(PRESETS)
        line = _line(tree, ("protocol",))
        raise InputError(f"{path}, line {line}: protocol: unknown '{protocol}'; write {near[0]}")
    try:
        return Study.model_validate(expand(raw))
    except ValidationError as e:
        raise InputError("\n".join(_message(path, tree, err) for err in e.errors())) from e


def read_text(path: Path) -> str:
    """Return a study file's text.

    Raises:
        InputError: It is missing or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], 1)
        remedy = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise InputError(f"{path}: no such study file", remedy=remedy) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not UTF-8 text (byte {e.start})") from e


def _message(path: Path, tree: Node | None, error: Any) -> str:
    loc = tuple(part for part in error["loc"] if part not in _TAGS)
    if error["type"] == "unknown_key":
        loc = (*loc, error["ctx"]["key"])
        text = f"unknown key; {error['ctx']['known']}"
    elif error["type"] == "missing":
        text = f"is missing; add `{loc[-1]}:`"
    else:
        text = error["msg"].removeprefix("Value error, ")
        if error["type"] not in ("value_error",):
            text = f"{text[0].lower()}{text[1:]}; got {error['input']!r}"
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")
    return f"{path}, line {_line(tree, loc)}: {field + ': ' if field else ''}{text}"


def _line(node: Node | None, loc: tuple[Any, ...]) -> int:
    """Return the line of the deepest part of `loc` that the file has."""
    line = node.start_mark.line + 1 if node else 1
    for part in loc:
        if isinstance(node, MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
