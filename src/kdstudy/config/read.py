"""study.yaml -> Study: errors name file, line and field, what is wrong and what to write."""

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError
from yaml.nodes import CollectionNode, MappingNode, Node, SequenceNode
from yaml.reader import ReaderError

from kdstudy.config.protocols import PRESETS, expand
from kdstudy.config.schema import Generation, Study, Train
from kdstudy.errors import InputError
from kdstudy.fields import TAGS
from kdstudy.methods import METHODS

# Far above any study, far below what a slip such as `kdstudy run model.safetensors` would read.
_MOST_BYTES = 100_000
_MOST_VALUES = 20_000
_DEEPEST = 400  # open brackets; the parser itself gives up soon after
_SHOWN_ERRORS = 10
# Names that other tools have for fields of ours, by the part they stand in.
_ELSEWHERE = {
    "train": {"lr": "learning_rate", "num_train_epochs": "epochs", "max_seq_length": "max_length"},
    "lora": {"rank": "r", "lora_alpha": "alpha", "lora_dropout": "dropout"},
    "generation": {"do_sample": "temperature", "num_return_sequences": "samples"},
}
_FIELD = re.compile(r"([a-z_]+(?:\.[a-z_]+|\[\d+\])*): ")
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


_TAG = "tag:yaml.org,2002:"
# The core schema of YAML 1.2, and the underscores of 1.1.
_CORE = {
    _TAG + "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    _TAG + "int": (
        re.compile(r"[-+]?(?:[0-9][0-9_]*|0[xX][0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)"),
        "-+0123456789",
    ),
    _TAG + "float": (
        re.compile(
            r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
            r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
        ),
        "-+0123456789.",
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses, with its line, what YAML takes in silence or fails on.

    A key written twice (YAML would keep the last), numbers that are none, texts that hold control
    characters or half of a surrogate pair. Truth values and numbers are those of YAML 1.2, as
    people expect them: `yes`, `no`, `on`, `off` and `1:30` are texts, `010` is ten.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in found if tag not in _CORE]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_integer(self, node: Node) -> int:
        text = self.construct_scalar(node).replace("_", "").lower()
        return int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0o", "0b") else 10)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for k, _ in node.value:
            # The key of another kind is refused as unhashable.
            name = str(k.value)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{_brief(name)}' is written twice", problem_mark=k.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            raise _marked(node, f"'{_brief(node.value)}' is no {kind}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise _marked(node, f"'{node.value}' is not a finite number")
        if isinstance(value, str) and (unseen := _UNSEEN.search(value)):
            raise _marked(node, f"a text holds the character U+{ord(unseen[0]):04X}")
        return value


for _tag, (_pattern, _firsts) in _CORE.items():
    # PyYAML matches from the start alone.
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern.pattern})\Z"), list(_firsts))
_Loader.add_constructor(_TAG + "int", _Loader.construct_integer)


def read_study(path: Path) -> Study:
    """Read, expand and check a study file.

    Raises:
        InputError: The file is missing, is no YAML mapping, or a field is wrong.
    """
    raw, tree = _parse(path, read_text(path))
    if not isinstance(raw, dict):
        raise InputError(f"{path}: is not a study", why="it holds no `key: value` pairs",
                         remedy="start from studies/demo.yaml")  # fmt: skip
    return _checked(raw, lambda loc: f"{path}, line {_line(tree, loc)}")


def study_of(fields: Mapping[str, Any]) -> Study:
    """Expand and check a study's fields, as `read_study` does those of a file.

    Raises:
        InputError: A field is wrong.
    """
    return _checked({**fields}, lambda loc: "study")


def _checked(raw: dict[str, Any], where: Callable[[tuple[Any, ...]], str]) -> Study:
    """Return the study that raw fields stand for; `where` names the place of one."""
    protocol = str(raw.get("protocol", "corrected"))
    if protocol not in PRESETS:
        near = difflib.get_close_matches(protocol[:80], PRESETS, n=1) or [" or ".join(PRESETS)]
        at = where(("protocol",))
        raise InputError(f"{at}: protocol: unknown '{_brief(protocol)}'; write {near[0]}")
    raw = expand(raw)
    try:
        study = Study.model_validate(raw)
    except ValidationError as e:
        found = e.errors(include_url=False)
        said = [_message(where, error) for error in found[:_SHOWN_ERRORS]]
        more = len(found) - len(said)
        raise InputError("\n".join(said + ([f"and {more} more"] if more else []))) from e
    for loc, said in _mistaken(raw, study):
        raise InputError(f"{where(loc)}: {_dotted(loc)}: {said}")
    return study


def _depth(text: str) -> int:
    """Return the most brackets that are open at once: PyYAML's time is quadratic in them."""
    brackets = re.findall(r"[][{}]", text)
    return max(itertools.accumulate(1 if b in "[{" else -1 for b in brackets), default=0)


def _parse(path: Path, text: str) -> tuple[Any, Node | None]:
    """Return a YAML text's value and its tree, which knows the lines.

    Raises:
        InputError: It is not YAML, or is no text that a study could be.
    """
    if _depth(text) > _DEEPEST:
        raise InputError(f"{path}: is nested too deeply to be a study")
    try:
        loader = _Loader(text)
        tree = loader.get_single_node()
        if tree is None:
            return None, None
        if _values(tree, {}) > _MOST_VALUES:
            raise InputError(f"{path}: holds more than {_MOST_VALUES} values, aliases counted")
        return loader.construct_document(tree), tree
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        tab = "; indent with spaces" if "'\\t'" in (e.problem or "") else ""
        problem = _brief(e.problem or "is not YAML", 300)
        raise InputError(f"{path}, line {line}: {problem}{tab}") from e
    except ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise InputError(
            f"{path}, line {line}: is not YAML (it holds the character U+{e.character:04X})"
        ) from e
    except yaml.YAMLError as e:
        raise InputError(f"{path}: is not YAML ({e})") from e
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be a study") from None


def _values(node: Node, known: dict[int, int | None]) -> int:
    """Return how many values a tree stands for once its aliases are followed."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise _marked(node, "an alias stands inside what it refers to")
        return size
    known[id(node)] = None
    size = 1
    if isinstance(node, CollectionNode):
        below = node.value
        if isinstance(node, MappingNode):
            below = [part for pair in below for part in pair]
        size += sum(_values(part, known) for part in below)
    known[id(node)] = size
    return size


def _marked(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _mistaken(
    raw: Any, parsed: Any, loc: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield where a truth value was read as the number 0 or 1, or these as a truth value."""
    if isinstance(raw, bool) and type(parsed) in (int, float):
        yield loc, "is a truth value; write a number"
    elif type(raw) in (int, float) and isinstance(parsed, bool):
        yield loc, f"is the number {raw:g}; write true or false"
    elif isinstance(raw, dict):
        for key, value in raw.items():
            yield from _mistaken(value, getattr(parsed, str(key), None), (*loc, key))
    elif isinstance(raw, list) and isinstance(parsed, list):
        for i, (value, read) in enumerate(zip(raw, parsed, strict=False)):
            yield from _mistaken(value, read, (*loc, i))


def read_text(path: Path) -> str:
    """Return a study file's text.

    Raises:
        InputError: It is missing, too large to be one, or is not UTF-8.
    """
    try:
        with path.open("rb") as f:
            data = f.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise InputError(
                f"{path}: is larger than any study ({_MOST_BYTES} bytes)", remedy="check the path"
            )
        # As every reader of texts does, whatever system wrote the file.
        return data.decode().replace("\r\n", "\n")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], 1)
        remedy = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise InputError(f"{path}: no such study file", remedy=remedy) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not UTF-8 text (byte {e.start})") from e


def _message(where: Callable[[tuple[Any, ...]], str], error: Any) -> str:
    loc = as_written(error["loc"])
    if error["type"] == "unknown_key":
        text = f"unknown key; {_known(loc, **error['ctx'])}"
        loc = (*loc, error["ctx"]["key"])
    elif error["type"] == "missing":
        text = f"is missing; add `{loc[-1]}:`"
    elif error["type"] == "value_error":
        text = error["msg"].removeprefix("Value error, ")
    else:
        text = _in_yaml(error)
    field = _dotted(loc)
    # A refusal of the whole study begins with the field it is about.
    named = _FIELD.match(text) if not loc else None
    at = _location(named[1]) if named else loc
    return f"{where(at)}: {field + ': ' if field else ''}{_brief(text, 600)}"


def as_written(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return an error's path without the branch names that pydantic puts into it."""
    return tuple(
        part
        for i, part in enumerate(loc)
        if part not in TAGS and not (loc[0] == "methods" and i == 2 and part in METHODS)
    )


def _location(field: str) -> tuple[Any, ...]:
    """Return what `_dotted` made a field's name from."""
    parts = re.findall(r"[^.\[\]]+", field)
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _known(loc: tuple[Any, ...], key: str, known: str) -> str:
    """Return what to write for an unknown key: the schema's nearest name, or what is meant."""
    if not loc and not known.startswith("did you mean"):
        for part, model in (("train", Train), ("generation", Generation)):
            if key in model.model_fields:
                return f"it belongs under `{part}:`"
    meant = _ELSEWHERE.get(str(loc[-1]), {}).get(key) if loc else None
    return f"did you mean '{meant}'?" if meant else known


def _in_yaml(error: Any) -> str:
    """Return pydantic's message in the words of a YAML file, with what to write instead."""
    kind, given = error["type"], error["input"]
    text = {
        "list_type": "must be a list",
        "model_type": "must be `key: value` pairs",
        "model_attributes_type": "must be a method's name, or `key: value` pairs",
        "union_tag_not_found": "needs `type:`, the method's name, beside its other fields",
        "string_pattern_mismatch": "must be letters, digits, '.', '-' and '_', 64 at most",
    }.get(kind, f"{error['msg'][0].lower()}{error['msg'][1:]}")
    hint = ""
    if kind == "list_type" and isinstance(given, str | int):
        hint = f"; write [{_brief(str(given))}]"
    elif kind == "string_type" and not isinstance(given, list | dict | None):
        hint = "; put it in quotes"
    elif kind == "model_type" and given is False:
        hint = "; write null for none"
    return f"{text}; got {'nothing' if given is None else _brief(repr(given))}{hint}"


def _dotted(loc: tuple[Any, ...]) -> str:
    parts = (f"[{p}]" if isinstance(p, int) else f".{_brief(p)}" for p in loc)
    return "".join(parts).lstrip(".")


def _brief(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


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
