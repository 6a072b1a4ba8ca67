"""Rows as people have them -> `Example`: the one reader, of files, the Hub and the library's rows.

A row is an object in one of `LAYOUTS`, recognised row by row. Text is taken as it is given, white
space at its ends included. A conversation is kept whole, as JSON, for the chat template that it
will be put into (`prompts`). Never imports torch.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kdstudy.data.conversations import answered, as_text, messages_of, tools_of, with_system
from kdstudy.data.files import is_null
from kdstudy.errors import InputError
from kdstudy.records import Example, content_id


class Layout(NamedTuple):
    """Columns that make a row.

    Attributes:
        asked, learnt: The column of the prompt ('' for none) and that of what is learnt.
        context: The column of what the prompt is about, or ''.
        more: Further columns that are read where they are there.
    """

    asked: str
    learnt: str
    context: str = ""
    more: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns without which a row is not of this layout."""
        return tuple(filter(None, (self.asked, self.learnt)))

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return tuple(filter(None, (*self.needed, self.context, *self.more)))


_CHAT = ("system", "tools")
LAYOUTS = (
    Layout("", "messages", more=_CHAT),
    Layout("", "conversations", more=_CHAT),
    Layout("prompt", "completion", more=("answer", *_CHAT)),
    Layout("instruction", "output", "input", more=("answer",)),
    Layout("instruction", "response", "context", more=("answer",)),
    Layout("question", "answer", "context"),
    Layout("", "text"),
)
"""What a row may be: TRL's conversations, ShareGPT's, prompt and completion as texts or as lists of
messages, Alpaca's and LLM-Adapters', Dolly's, question and answer, plain text without a prompt."""
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# Of single rows, in other programs: they would change a prompt, and are not read.
_UNREAD = {
    "chat_template_kwargs": "write them for all rows: `template_arguments`, --template-arguments",
    "functions": "write them as `tools`: [{type: function, function: ...}, ...]",
    "documents": "write them into the message that they belong to",
}
COLUMNS = frozenset(name for layout in LAYOUTS for name in layout.columns) | {*_MEDIA, *_UNREAD}
"""Every column that is looked at."""
_TEXT = LAYOUTS[-1]
_KNOWN = "; ".join(" and ".join(layout.needed) for layout in LAYOUTS)
REMEDY = (
    f"give rows with one of: {_KNOWN}; or say what yours are called: "
    "`columns: {prompt: ..., completion: ...}`, --columns prompt=...,completion=..."
)
"""What to do where a row is in no layout."""
TAG = "tag"
"""What `columns` calls a column that says to which of several teachers a row goes. Read only where
it is named there: data have columns of that name for other ends."""
CUT_OFF = "messages behind the last answer"
"""The reason beside an example whose conversation went on after the assistant's last message."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse names of columns that no layout has, or that no one layout has together.

    Args:
        columns: Layout's name of a column -> its name in the data.

    Raises:
        ValueError: They name no layout.
    """
    known = [*sorted(COLUMNS.difference(_MEDIA, _UNREAD)), TAG]
    columns = {name: column for name, column in columns.items() if name != TAG}
    for name in columns:
        if name not in known:
            raise ValueError(
                f"columns: '{name}' is no column that kdstudy reads; known: {', '.join(known)} "
                "(write known: yours)"
            )
    if columns and not any({*columns} <= {*layout.columns} for layout in LAYOUTS):
        raise ValueError(f"columns: no row has {', '.join(columns)} together; {_KNOWN}")


def to_example(
    raw: Any, where: str, columns: Mapping[str, str] | None = None
) -> tuple[Example | None, str]:
    """Return a row as an example, or why there is nothing to learn in it.

    Args:
        raw: The row; columns that no layout has are ignored.
        where: Its place, for messages: a file and a line.
        columns: Layout's name of a column -> its name in the row, where they differ; it also says
            which layout is meant where a row has several.

    Returns:
        (example, "") or (None, why it is dropped); (example, `CUT_OFF`) where messages behind the
        assistant's last one were left out, which no loss could see.

    Raises:
        InputError: The row is in no layout, or in several, or holds what is no text; `where` is
            named.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: is not an object but {_kind(raw)}", remedy=REMEDY)
    if columns and TAG in columns:
        rest = {name: column for name, column in columns.items() if name != TAG}
        example, reason = to_example(raw, where, rest)
        tag = _tag(raw, columns[TAG], where)
        return example and dataclasses.replace(example, tag=tag), reason
    try:
        row = _renamed(raw, where, columns or {})
        layout = _layout(row, raw, where, columns or {})
        if layout.learnt in ("messages", "conversations"):
            return _chat(row, layout, [], row[layout.learnt], where)
        if _is_list(row[layout.learnt]) and layout.asked and _is_list(row[layout.asked]):
            return _chat(row, layout, row[layout.asked], row[layout.learnt], where)
        return _plain(row, layout, where)
    except UnicodeEncodeError as e:
        raise InputError(f"{where}: holds half of a surrogate pair") from e
    except RecursionError as e:
        raise InputError(f"{where}: is nested too deeply to be a row") from e


def needed_of(columns: Mapping[str, str]) -> list[str]:
    """Return which of the columns named every row must have; the others it may."""
    optional = {*_CHAT, *(layout.context for layout in LAYOUTS)}
    return [column for name, column in columns.items() if name not in optional]


def require_columns(wanted: Iterable[str], names: Iterable[str], where: str) -> None:
    """Refuse columns that are named and not there.

    Args:
        wanted: What `columns` calls them.
        names: The columns that there are.
        where: Whose they are: a row, a file.

    Raises:
        InputError: Names those that are there.
    """
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"{where}: has no column {', '.join(missing)}",
            why=f"`columns` names it; there are {_names(names)}",
            remedy="correct `columns`",
        )


def questions(example: Example) -> list[str]:
    """Return all that an example asks: every user's turn of a conversation, else its question.

    A text without a prompt is a question as a whole: it may be that of a test item.
    """
    if example.chat:
        said = json.loads(example.chat)["messages"]
        return [m["content"] for m in said if m["role"] == "user"]
    return [example.question or example.response]


def _tag(raw: Mapping[str, Any], column: str, where: str) -> str:
    require_columns([column], raw, where)
    tag = raw[column]
    if is_null(tag) or not str(tag).strip():
        raise InputError(
            f"{where}: its tag is empty (column {column})",
            why="nothing says which teacher the row learns from",
            remedy="fill it in, or leave the row out",
        )
    if not isinstance(tag, str | int):
        raise InputError(f"{where}: its tag is {_kind(tag)} (column {column})", remedy="give texts")
    return str(tag).strip()


def _renamed(raw: Mapping[str, Any], where: str, columns: Mapping[str, str]) -> dict[str, Any]:
    if not columns:
        return dict(raw)
    require_columns(needed_of(columns), raw, where)
    taken = {*columns, *columns.values()}
    kept = {name: value for name, value in raw.items() if name not in taken}
    return kept | {name: raw[c] for name, c in columns.items() if c in raw}


def _layout(
    row: Mapping[str, Any], raw: Mapping[str, Any], where: str, columns: Mapping[str, str]
) -> Layout:
    """Return the layout of a row: that whose columns it has, and has something in."""
    meant = [
        layout
        for layout in LAYOUTS
        if {*columns} <= {*layout.columns} and all(name in row for name in layout.needed)
    ]
    if not meant:
        raise InputError(f"{where}: has the fields {_names(raw)}", remedy=REMEDY)
    filled = [sum(not _is_empty(row[name]) for name in layout.needed) for layout in meant]
    whole = [lo for lo, n in zip(meant, filled, strict=True) if n == len(lo.needed)]
    # A table has every column in every row: an empty one does not count beside one that is not.
    if not whole:
        return meant[filled.index(max(filled))]
    # `text` beside others is those put into one text (Alpaca's), not further text.
    telling = [layout for layout in whole if layout is not _TEXT] or whole
    if len(telling) > 1:
        found = ", and ".join(" and ".join(layout.needed) for layout in telling)
        first = telling[0].learnt
        raise InputError(
            f"{where}: could be read in several ways: it has {found}",
            why="nothing says which of them is to be learnt",
            remedy=f"name one: `columns: {{{first}: {first}}}`, --columns {first}={first}",
        )
    return telling[0]


def _plain(row: Mapping[str, Any], layout: Layout, where: str) -> tuple[Example | None, str]:
    prompt = row[layout.asked] if layout.asked else ""
    response, context = row[layout.learnt], row.get(layout.context)
    if not (isinstance(prompt, str) and isinstance(response, str)):
        found = ", ".join(f"{name} is {_kind(row[name])}" for name in layout.needed)
        raise InputError(
            f"{where}: prompt and response must be text ({found})",
            why="they are both texts or both lists of messages",
            remedy="correct the row or leave it out",
        )
    for name in _CHAT:
        if name in row and not (_is_empty(row[name]) or row[name] == "[]"):
            raise InputError(
                f"{where}: has {name} beside texts",
                why=f"only a conversation has a place for {name}: it would be dropped",
                remedy="give messages, or prompt and completion as lists of messages; or remove "
                "the column where it means nothing",
            )
    if is_null(context):
        context = ""
    if not isinstance(context, str):
        raise InputError(f"{where}: {layout.context} must be text, and is {_kind(context)}")
    if layout.asked and not prompt.strip():
        return None, "empty prompt"
    if not response.strip():
        return None, "empty response"
    context = context if context.strip() else ""
    answer = row.get("answer") if "answer" in layout.more else None
    answer = "" if is_null(answer) else str(answer)
    answer.encode()
    return Example(
        id=content_id(*((prompt, context) if context else (prompt,)), response),
        instruction=prompt,
        context=context,
        response=response,
        answer=answer,
    ), ""


def _chat(
    row: Mapping[str, Any], layout: Layout, prompt: Any, completion: Any, where: str
) -> tuple[Example | None, str]:
    media = [name for name in _MEDIA if name in row and not _is_empty(row[name])]
    if media:
        raise InputError(
            f"{where}: has {', '.join(media)} beside its messages",
            why="kdstudy reads text; trained without them, the model would learn to make things up",
            remedy="leave such rows out, or remove the column where it means nothing",
        )
    for name, remedy in _UNREAD.items():
        if name in row and not _is_empty(row[name]):
            raise InputError(
                f"{where}: has {name} beside its messages",
                why="kdstudy does not read them, and the prompt would be another one",
                remedy=f"{remedy}; or remove the column",
            )
    if _is_empty(completion):
        return None, "empty conversation"
    asked = messages_of(prompt, where)
    whole = with_system([*asked, *messages_of(completion, where)], row.get("system"), where)
    before = len(asked) and len(asked) + (whole[0] is not asked[0])
    messages = whole[: answered(whole, before, where)]
    users = [m["content"] for m in messages if m["role"] == "user"]
    last = messages[-1]
    if users and not any(text.strip() for text in users):
        return None, "empty prompt"
    if not (last["content"].strip() or last.get("tool_calls")):
        return None, "empty response"
    chat = as_text(messages, before, tools_of(row.get("tools"), where), where)
    return Example(
        id=content_id(chat),
        instruction=users[-1] if users else "",
        response=last["content"],
        chat=chat,
    ), CUT_OFF if len(messages) < len(whole) else ""


def _names(row: Iterable[str]) -> str:
    return ", ".join(map(str, row)) or "(none)"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_empty(value: Any) -> bool:
    return is_null(value) or (isinstance(value, str | Sequence) and not len(value))


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
