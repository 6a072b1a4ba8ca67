"""Every field of study.yaml as Markdown: what it means, what it may be, what it is by default."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdstudy.config.schema import Study
from kdstudy.methods import METHODS

_HEAD = """# study.yaml, field by field

Written by `kdstudy schema --markdown`; `kdstudy schema` prints the same as JSON Schema.
Only `name`, `students`, `corpus` and `benchmarks` have to be given, and `teachers` unless `methods`
is `[sft]`. A model, corpus, benchmark or method may be its name alone: `zoo-s` stands for
`{model: zoo-s}`, `gkd` for `{type: gkd}`.
"""
_KINDS = {cls.__name__: name for name, cls in METHODS.items()}


def markdown() -> str:
    """Return all fields, a table for the study and one for each part of it."""
    document = Study.model_json_schema()
    parts = {"Study": document, **document["$defs"]}
    return _HEAD + "".join(_section(name, part, parts) for name, part in _in_order(parts))


def _in_order(parts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield parts as a reader meets them: each after the one that names it first."""
    waiting, seen = ["Study"], {"Study"}
    while waiting:
        name = waiting.pop(0)
        yield name, parts[name]
        named = _named(parts[name].get("properties", {}))
        waiting += [n for n in dict.fromkeys(named) if n not in seen]
        seen.update(named)


def _named(value: Any) -> list[str]:
    """Return the parts that a piece of the schema refers to."""
    if isinstance(value, list):
        return [name for entry in value for name in _named(entry)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"].rpartition("/")[2]] if "$ref" in value else []
    return own + [name for key, v in value.items() if key != "discriminator" for name in _named(v)]


def _section(name: str, part: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    title = f"method `{_KINDS[name]}`" if name in _KINDS else name
    lines = [f"\n## {title}\n", f"{_line(part.get('description', ''))}\n"]
    lines += ["| field | values | default | meaning |", "|---|---|---|---|"]
    required = part.get("required", [])
    for field, facts in part["properties"].items():
        default = "required" if field in required else f"`{json.dumps(_default(facts, parts))}`"
        meaning = _line(facts.get("description", ""))
        cells = (f"`{field}`", _values(facts), default, meaning)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(facts: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """Return a default; of a part of the study, what differs from that part's own defaults."""
    value = facts.get("default")
    if isinstance(value, list):
        return [v["type"] if isinstance(v, dict) else v for v in value]
    if not isinstance(value, dict):
        return value
    own = {k: f.get("default") for n in _named(facts) for k, f in parts[n]["properties"].items()}
    return {k: v for k, v in value.items() if k not in own or v != own[k]}


def _values(facts: Mapping[str, Any]) -> str:
    """Return what a field may be."""
    if "$ref" in facts:
        name = facts["$ref"].rpartition("/")[2]
        return _KINDS.get(name, name)
    if "const" in facts:
        return f"`{facts['const']}`"
    if "enum" in facts:
        return ", ".join(f"`{v}`" for v in facts["enum"])
    for several in ("anyOf", "oneOf"):
        if several in facts:
            return " or ".join(_values(v) for v in facts[several])
    if facts.get("type") == "array":
        return f"list of {_values(facts.get('items', {}))}"
    return _plain(facts)


def _plain(facts: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {facts[k]}" for k, sign in signs.items() if k in facts)
    words = {"object": "table", "string": "text", "boolean": "true or false"}
    kind = facts.get("type", "anything")
    return f"{words.get(kind, kind)} {limits}".strip()


def _line(text: str) -> str:
    return " ".join(text.split())
