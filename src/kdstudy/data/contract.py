"""What a rendered conversation must hold to be learnt from, and how a row that does not is refused.

The prompt and the answer, apart, begin the text of the whole conversation; nothing that the row
says is left out. Where a template breaks this, what is trained on is not what is met in use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.errors import InputError

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_AROUND = 60


def at(where: str) -> str:
    """Return how a message about a row begins."""
    return f"{where}: " if where else ""


def contradiction(
    messages: Sequence[Mapping[str, Any]], i: int, ours: str, whole: str, where: str
) -> InputError:
    """Return the refusal of message `i`, whose text alone is not that in the whole conversation."""
    last = i == len(messages) - 1
    a, b = _differing(ours, whole)
    return InputError(
        f"{at(where)}message {i + 1} of {len(messages)} is not the chat template's answer to its "
        "own prompt",
        why=f"asked for it, the template gives {a!r}, and in the whole conversation {b!r}: what is "
        "trained on would not be what is met in use",
        remedy="leave the row out, or set template arguments or a template in which both agree"
        if last
        else "set loss_turns to last, which learns the last answer alone (this template rewrites "
        "what came before), or leave the row out",
    )


def require_rendered(
    voice: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Any,
    whole: str,
    scored: Sequence[int],
    where: str,
    prompt: bool = False,
) -> None:
    """Refuse what the template leaves out; of an answer that is not scored it may.

    Args:
        voice: Renders (`chat.Voice`).
        messages: The conversation.
        tools: As the template takes them, or None.
        whole: What was rendered of both.
        scored: Which messages are learnt.
        where: What the row is called.
        prompt: `whole` ends where the assistant is to speak.

    Raises:
        InputError: Names the message and the field.
    """

    def same(others: Sequence[Mapping[str, Any]], tools: Any) -> bool:
        try:
            return voice.render(others, tools, prompt=prompt) == whole
        except InputError:
            return False

    squeezed = _squeeze(whole)
    for i, message in enumerate(messages):
        for fields in _doubtful(message, squeezed, i in scored):
            less = {"content": "", **{k: v for k, v in message.items() if k not in fields}}
            if same([*messages[:i], less, *messages[i + 1 :]], tools):
                raise _left_out(f"the {fields[0]} of message {i + 1}", where)
    if tools and same(messages, None):
        raise _left_out("the tools", where)


def require_said(content: str, text: str, start: int, where: str) -> None:
    """Refuse an answer of which the template renders a part, with an InputError.

    The prompt may end in what the answer begins with, such as a thought that it opens.

    Args:
        content: What the row says.
        text: The rendered text up to the answer's end.
        start: Where the answer begins in it.
        where: What the row is called.
    """
    said = text[start:]
    heads = range(min(len(content), start, _AROUND), -1, -1)
    head = next(n for n in heads if content[:n] == text[start - n : start])
    if _squeeze(content) not in _squeeze(said) and (
        not head or not _squeeze(said).startswith(_squeeze(content[head:]))
    ):
        raise InputError(
            f"{at(where)}the chat template leaves out a part of an answer",
            why=f"the row says {content[:_AROUND]!r}, the template {said[:_AROUND]!r}",
            remedy="leave such rows out, set loss_turns to last, or choose a template that "
            "renders all of it",
        )


def require_ids(ours: str, whole: str, where: str) -> None:
    """Refuse a row whose ids, prompt and answer tokenised apart, read otherwise than the whole.

    Raises:
        InputError: Shows both texts.
    """
    if ours != whole:
        a, b = _differing(ours, whole)
        raise InputError(
            f"{at(where)}prompt and answer, tokenised apart, are not the text of the whole",
            why=f"apart they read {a!r}, together {b!r}",
            remedy="leave the row out, or choose a template whose prompt ends in a control token",
        )


def ended_early(token: str, where: str) -> InputError:
    """Return the refusal of a response with an end token before its end."""
    return InputError(
        f"{at(where)}the response holds the end token {token!r} before its end",
        why="the student would learn to stop there, and to go on",
        remedy="take it out of the text; one is put behind every response",
    )


def _doubtful(message: Mapping[str, Any], squeezed: str, scored: bool) -> list[tuple[str, ...]]:
    """Return the fields of a message that its text may lack; those that are one, together."""
    fields = [("tool_calls",)] if message.get("tool_calls") else []
    if scored:
        thoughts = tuple(f for f in _THOUGHTS if message.get(f))
        fields += [thoughts] if thoughts else []
    if (scored or message["role"] != "assistant") and _squeeze(message["content"]) not in squeezed:
        fields.append(("content",))
    return fields


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _differing(a: str, b: str) -> tuple[str, str]:
    """Return both texts around the first character that differs."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    start = max(0, same - _AROUND // 2)
    return a[start : same + _AROUND], b[start : same + _AROUND]


def _left_out(what: str, where: str) -> InputError:
    return InputError(
        f"{at(where)}the chat template leaves out {what}",
        why="its text is the same without it: it would not be learnt, or an answer to something "
        "that is never shown would be",
        remedy="leave such rows out, take it out of them, or choose a template that renders it",
    )
