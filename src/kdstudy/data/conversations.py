"""Conversations as people write them -> messages with role and content. Never imports torch.

Both spellings are read, {"role", "content"} and ShareGPT's {"from", "value"}, and the names that
speakers have in either. Whatever else a message carries (tool_calls, name, reasoning_content) stays
with it, for the chat template.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.data.files import is_null
from kdstudy.errors import InputError

_ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "tool_response", "function_response"), "tool"),
}
# Turns of the assistant that are a call of a tool, written as its JSON.
_CALLS = ("function_call", "tool_call")


def messages_of(given: Any, where: str) -> list[dict[str, Any]]:
    """Return a list of messages, or its JSON text, as messages with role and content.

    Raises:
        InputError: It is none, or a message holds what is no text; the message is named.
    """
    found = _json(given, where, "messages") if isinstance(given, str) else given
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise InputError(
            f"{where}: its messages are a {type(found).__name__}, not a list",
            remedy='write [{"role": "user", "content": ...}, ...]',
        )
    return [_message(m, f"{where}, message {n}") for n, m in enumerate(found, start=1)]


def with_system(messages: list[dict[str, Any]], system: Any, where: str) -> list[dict[str, Any]]:
    """Return messages with the text of a column `system` before them, where it has any.

    Raises:
        InputError: It is no text, or the conversation has another of its own.
    """
    if is_null(system) or system == "":
        return messages
    if not isinstance(system, str):
        raise InputError(f"{where}: system must be text, and is a {type(system).__name__}")
    first = messages[0] if messages else {}
    if first.get("role") != "system":
        return [{"content": system, "role": "system"}, *messages]
    if first["content"] != system:
        raise InputError(
            f"{where}: its column system says other than its first message",
            why="nothing says which of them holds",
            remedy="remove one",
        )
    return messages


def answered(messages: Sequence[Mapping[str, Any]], asked: int, where: str) -> int:
    """Return how many messages there are up to the assistant's last one.

    Args:
        messages: All of them.
        asked: How many at the beginning are the prompt.
        where: The row's place.

    Raises:
        InputError: The assistant says nothing, or nothing was said before.
    """
    last = max((n for n, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    if last < asked:
        raise InputError(
            f"{where}: its last message is by {messages[-1]['role']}, not the assistant, "
            "and none before it is to be learnt",
            why="the student learns the assistant's words",
            remedy="leave such rows out",
        )
    if last == 0:
        raise InputError(
            f"{where}: nothing precedes its only message",
            why="the student learns to answer",
            remedy="leave such rows out, or give the text as {text: ...}",
        )
    return last + 1


def tools_of(given: Any, where: str) -> list[Any]:
    """Return the tools that a row offers, a list or its JSON text; [] for none.

    Raises:
        InputError: They are neither.
    """
    if is_null(given) or given == "":
        return []
    found = _json(given, where, "tools") if isinstance(given, str) else given
    if found is None:
        return []
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise InputError(f"{where}: tools is a {type(found).__name__}, not a list of tools")
    tools = [_json(t, where, "tools") if isinstance(t, str) else t for t in found]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise InputError(f"{where}: tools holds what is no description of a tool")
    return tools


def as_text(messages: Sequence[Mapping[str, Any]], asked: int, tools: list[Any], where: str) -> str:
    """Return a conversation as JSON: equal conversations, equal text.

    {"messages": [...], "prompt": n, "tools": [...]}: `prompt` says that only what stands behind the
    first n messages is to be learnt, where the assistant speaks among them; `tools` is there where
    there are any. What is inside a call or a tool keeps its order: templates write it as it is.

    Raises:
        InputError: A message holds what JSON has not.
    """
    document: dict[str, Any] = {"messages": [dict(sorted(m.items())) for m in messages]}
    if any(m["role"] == "assistant" for m in messages[:asked]):
        document["prompt"] = asked
    if tools:
        document["tools"] = tools
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as e:
        raise InputError(f"{where}: its messages hold what is no JSON ({e})") from e


def _message(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: is a {type(given).__name__}, not role and content")
    # A field that is null is one that is not there: Arrow fills them in.
    message = {str(name): value for name, value in given.items() if not is_null(value)}
    spoken = "role" not in message and "from" in message
    if spoken:
        message["role"] = message.pop("from")
        message.setdefault("content", message.pop("value", None))
    role = message.get("role")
    if not isinstance(role, str):
        raise InputError(
            f"{where}: says not who speaks (it has {', '.join(message) or 'nothing'})",
            remedy='write {"role": "user", "content": ...}, or {"from": "human", "value": ...}',
        )
    _require_read(message, where)
    if role.lower() in _CALLS:
        message = _called(message, where)
    elif spoken and role.lower() not in _ROLES:
        known = ", ".join((*_ROLES, *_CALLS))
        raise InputError(f"{where}: is from '{role}'", why=f"known speakers: {known}")
    else:
        message["role"] = _ROLES.get(role.lower(), role)
    if not message.get("tool_calls", True):
        del message["tool_calls"]
    elif isinstance(message.get("tool_calls"), list | tuple):
        message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    message["content"] = _content(message, where)
    return message


def _require_read(message: Mapping[str, Any], where: str) -> None:
    """Refuse a message with what other programs read in it and this one does not."""
    if message.get("function_call"):
        raise InputError(
            f"{where}: has a function_call",
            why="templates render tool_calls; it would be left out",
            remedy='write "tool_calls": [{"type": "function", "function": {...}}]',
        )
    for name, plain in (("weight", 1), ("train", True)):
        if message.get(name, plain) != plain:
            raise InputError(
                f"{where}: has {name}: {message[name]}",
                why="kdstudy learns every turn of the assistant, or the last alone",
                remedy="choose by train.loss_turns, or split the row before turns to leave out",
            )


def _call(call: Any) -> Any:
    """Return a tool call whose arguments are an object, as templates write them as JSON again.

    OpenAI's answers hold them as JSON text.
    """
    function = call.get("function") if isinstance(call, Mapping) else None
    given = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(given, str):
        return call
    try:
        arguments = json.loads(given)
    except ValueError:
        return call
    if not isinstance(arguments, dict):
        return call
    return dict(call) | {"function": dict(function) | {"arguments": arguments}}


def _called(message: dict[str, Any], where: str) -> dict[str, Any]:
    """Return ShareGPT's turn `function_call`, whose text is JSON, as the assistant's tool_calls."""
    calls = _json(message.get("content"), where, "a function_call")
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise InputError(
            f"{where}: is a function_call without the function's name",
            remedy='write {"name": ..., "arguments": {...}} as its value',
        )
    made = [{"type": "function", "function": call} for call in calls]
    return message | {"role": "assistant", "content": "", "tool_calls": made}


def _content(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        # The assistant may call a tool, or only think; whoever else speaks says something.
        if message["role"] == "assistant":
            return ""
        raise InputError(f"{where}: has no content")
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise InputError(f"{where}: its content must be text, and is a {type(content).__name__}")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    found = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) else None
    if not (str(found).endswith("text") and isinstance(text, str)):
        raise InputError(
            f"{where}: its content has a part of type {found}",
            why="kdstudy reads text; what an image or a sound shows would be made up",
            remedy="leave such rows out",
        )
    return text


def _json(text: Any, where: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError) as e:
        shown = text if not isinstance(text, str) or len(text) < 80 else f"{text[:77]}..."
        raise InputError(
            f"{where}: {what} is text that is no JSON: {shown!r}",
            remedy="write it as JSON (json.dumps), not as Python prints it",
        ) from e
