"""Example -> prompt -> ids and response mask: the one place, for training and evaluation."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kdstudy.answers.gold import Gold
from kdstudy.data import chat, contract
from kdstudy.data.tokenise import Reading, behind, ids_of
from kdstudy.errors import InputError
from kdstudy.records import Example
from kdstudy.stage import Config

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_INDENT = " " * 16
REFERENCE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. \n\n"
    f"{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n{_INDENT}### Response:\n{_INDENT}"
)
TEMPLATES = {"alpaca": ALPACA, "reference": REFERENCE}
# The same with a context, as Alpaca, LLM-Adapters and MiniLLM write it.
_PAIRED = "describes a task, paired with an input that provides further context. "
_WITH_CONTEXT = {
    name: text.replace("describes a task. ", _PAIRED).replace(
        f"{{instruction}}\n\n{indent}",
        f"{{instruction}}\n\n{indent}### Input:\n{indent}{{input}}\n\n{indent}",
    )
    for name, text, indent in (("alpaca", ALPACA, ""), ("reference", REFERENCE, _INDENT))
}
# Alpaca's prompt for a conversation: a system message takes the place of its first paragraph, as
# in FastChat, and each answer ends with the end-of-sequence token.
_ALPACA_CHAT = (
    "{% if messages and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}"
    "{% set messages = messages[1:] %}{% else %}{{ '" + ALPACA.partition("###")[0] + "' }}"
    "{% endif %}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '### Instruction:\n' + m.content + '\n\n' }}"
    "{% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + eos_token }}"
    "{{ '' if loop.last else '\n\n' }}{% else %}"
    "{{ raise_exception('Alpaca has no place for the role ' + m.role) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
BARE = "{instruction}"
"""The template of a text that is a prompt already: its control tokens are its writer's."""

LossTurns = Literal["all", "last"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """How a question becomes a prompt, and which answers of a conversation are learnt.

    Attributes:
        template: `auto`: the tokenizer's chat template where it has one, else Alpaca's prompt;
            `chat`; a name in `TEMPLATES`; or text with `{instruction}` and perhaps `{input}`.
        arguments: Handed to the chat template, such as `enable_thinking`.
        date: What a chat template is told when it asks for today.
        loss_turns: `all`: every turn of the assistant is learnt; `last`: the last alone.
    """

    template: str = "auto"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = chat.DATE
    loss_turns: LossTurns = "all"

    def chosen(self, tokenizer: Any) -> str:
        """Return the template in use: what `auto` means for this tokenizer."""
        if self.template != "auto":
            return self.template
        return "chat" if getattr(tokenizer, "chat_template", None) else "alpaca"

    def voice(self, tokenizer: Any) -> chat.Voice:
        """Return what renders conversations in this format.

        Raises:
            InputError: The template in use has no place for conversations.
        """
        name = self.chosen(tokenizer)
        if name == "chat":
            require_template(name, bool(getattr(tokenizer, "chat_template", None)))
            return chat.voice(tokenizer, self.arguments, self.date)
        if name == "alpaca":
            return chat.voice(tokenizer, {}, self.date, _ALPACA_CHAT)
        raise InputError(
            f"template {name!r} has no place for a conversation",
            why="it is written around one instruction",
            remedy="write template: auto, which takes the tokenizer's chat template",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted(Config):
    """What stages are told that put text into prompts; see `PromptFormat`."""

    template: str
    template_date: str
    template_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def format(self, loss_turns: LossTurns = "all") -> PromptFormat:
        """Return the format."""
        return PromptFormat(
            template=self.template,
            arguments=self.template_arguments,
            date=self.template_date,
            loss_turns=loss_turns,
        )


def require_template(template: str, there: bool) -> None:
    """Refuse `template: chat` where the tokenizer has no chat template, with an InputError."""
    if template == "chat" and not there:
        raise InputError(
            "template: chat: this tokenizer has no chat template",
            why="nothing says how a question becomes a prompt",
            remedy="write template: auto or alpaca",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One row as the model sees it.

    Attributes:
        ids: Token ids of prompt and response, the token that ends it included.
        prompt_length: How many of them come before the last response.
        truncated: The row was longer than the limit and its response was cut.
        spans: (start, stop) of every scored response; empty for the last alone.
        tag: What says which of several teachers it learns from (`Example.tag`).
        told: Ids of the prompt that its teacher reads in this one's place; empty for the same.
        gold: Its right answer, where a method asks for it.
    """

    ids: tuple[int, ...]
    prompt_length: int
    truncated: bool = False
    spans: tuple[tuple[int, int], ...] = ()
    tag: str = ""
    told: tuple[int, ...] = ()
    gold: Gold | None = None

    @property
    def to_teacher(self) -> "Encoded":
        """The row as its teacher reads it: the same response behind the prompt that it is told."""
        if not self.told:
            return self
        response = self.ids[self.prompt_length :]
        return Encoded((*self.told, *response), len(self.told), self.truncated)

    @property
    def scored(self) -> Sequence[int]:
        """Which tokens are learnt; position 0 has nothing before it."""
        if not self.spans:
            return range(max(1, self.prompt_length), len(self.ids))
        return [i for start, stop in self.spans for i in range(max(1, start), stop)]


def asked(example: Example) -> tuple[dict[str, Any], str | chat.Message]:
    """Return a row's question, as keyword arguments of `encode`, and its answer."""
    if not example.chat:
        return {"instruction": example.instruction, "context": example.context}, example.response
    held = json.loads(example.chat)
    *before, last = held["messages"]
    return {"instruction": before, "tools": held.get("tools") or None}, last


def called(example: Example, places: Mapping[str, str]) -> str:
    """Return what a row is called in a refusal: its place in its file if known, and first words."""
    place = places.get(example.id, f"row {example.id}")
    return f"{place} ({' '.join(example.question.split())[:40]!r})"


def row_of(
    tokenizer: Any,
    template: str | PromptFormat,
    example: Example,
    max_length: int,
    *,
    written: tuple[str, Literal["ended", "cut"]] | None = None,
    where: str = "",
) -> Encoded | None:
    """Return a training row of an example, as `encode` does.

    Args:
        tokenizer: As in `encode`.
        template: As in `encode`.
        example: The row.
        max_length: As in `encode`.
        written: What a model wrote in the last answer's place, and whether it ended it.
        where: What the row is called; its id and first words where that is empty.
    """
    question, response = asked(example)
    response, kind = written or (response, "")
    # Before these messages nothing is learnt: they are the prompt of a row that has one.
    given = json.loads(example.chat).get("prompt", 0) if example.chat else 0
    row = encode(
        tokenizer, template, response=response, max_length=max_length, given=given, written=kind,
        where=where or called(example, {}), **question,
    )  # fmt: skip
    return row and dataclasses.replace(row, tag=example.tag)


def told(
    tokenizer: Any, template: str | PromptFormat, context: str, example: Example, where: str = ""
) -> tuple[int, ...]:
    """Return the ids of the prompt in which a teacher is told a row's answer.

    Args:
        tokenizer: As in `encode`.
        template: As in `encode`; what the teacher is told stands in the instruction's place.
        context: A text with {instruction} and {response} in it.
        example: The row.
        where: As in `encode`.

    Raises:
        InputError: The row is a conversation, or has no prompt.
    """
    if example.chat or not example.instruction:
        raise InputError(
            f"{where or called(example, {})}: is a "
            f"{'conversation' if example.chat else 'text without a prompt'}, and the teacher has a "
            "context",
            why="nothing says in the place of which message it stands",
            remedy="give rows of prompt and completion as texts, or leave out the context",
        )
    filling = {"{instruction}": example.question, "{response}": example.response}
    text = re.sub(r"\{instruction\}|\{response\}", lambda place: filling[place[0]], context)
    return encode_prompt(tokenizer, template, text, where=where)


def render(
    template: str | PromptFormat,
    instruction: str | Sequence[chat.Message],
    tokenizer: Any = None,
    *,
    context: str = "",
    tools: Any = None,
) -> str:
    """Return the prompt's text: everything before the response.

    Args:
        template: A format, or the name of its template.
        instruction: The question, or a list of messages.
        tokenizer: Needed for `auto`, `chat` and messages.
        context: What the question is about (Alpaca's input). A template with no place for it gets
            it behind the instruction.
        tools: What a chat template is told that the assistant may call.

    Raises:
        InputError: There is no chat template, or it cannot render the messages.
    """
    text = _text(_format(template), instruction, tokenizer, context, tools)
    return "".join(part for part, _ in chat.pieces(text))


def encode_prompt(
    tokenizer: Any,
    template: str | PromptFormat,
    instruction: str | Sequence[chat.Message],
    *,
    context: str = "",
    tools: Any = None,
    where: str = "",
) -> tuple[int, ...]:
    """Return the prompt's ids, exactly as `encode` puts them before a response.

    Arguments are those of `encode`.
    """
    made = _format(template)
    text = _text(made, instruction, tokenizer, context, tools, where)
    bos = getattr(tokenizer, "bos_token", None)
    # A chat template writes its own special tokens, and so may whoever wrote a bare text.
    begun = made.template == BARE and bos and text.startswith(bos)
    begin = instruction == "" or made.chosen(tokenizer) != "chat"
    return ids_of(tokenizer, text, begin=begin and not begun)


def encode(
    tokenizer: Any,
    template: str | PromptFormat,
    instruction: str | Sequence[chat.Message],
    response: str | chat.Message,
    max_length: int,
    *,
    context: str = "",
    tools: Any = None,
    given: int = 0,
    written: Literal["", "ended", "cut"] = "",
    where: str = "",
) -> Encoded | None:
    """Return a training row, or None when the prompt leaves no room for the response.

    Prompt and response are tokenised apart and joined, so that a prompt has the same ids in
    training and in evaluation whatever follows it. Control tokens that a row writes out are read
    as text, but in a bare template, whose text is a prompt already; one end token at the end of a
    response is its end.

    Args:
        tokenizer: A Hugging Face tokenizer with an end-of-sequence token.
        template: As in `render`.
        instruction: The question, as in `render`.
        response: The text to learn, or the assistant's message.
        max_length: Limit on tokens of prompt and response together.
        context: As in `render`.
        tools: As in `render`.
        given: So many messages are a prompt, of which no answer is learnt.
        written: A model wrote the response behind its own prompt, and ended it or was cut: it
            alone is learnt, as it stands.
        where: What the row is called in a refusal.

    Raises:
        InputError: The template cannot render the row, or contradicts itself.
    """
    made = _format(template)
    if not written and not _plain(made, tokenizer, instruction, response, tools):
        last = response
        if isinstance(response, str):
            last = {"role": "assistant", "content": response}
        messages = [*_messages(instruction, context), last]
        return _conversation(tokenizer, made, messages, tools, max_length, where, given)
    bare = made.template == BARE or instruction == ""
    prompt = encode_prompt(tokenizer, made, instruction, context=context, tools=tools, where=where)
    if len(prompt) >= max_length:
        return None
    text = response if isinstance(response, str) else response.get("content") or ""
    if bare:
        body, end = _bare(tokenizer, text)
        if prompt and end[0] in body:
            raise contract.ended_early(tokenizer.convert_ids_to_tokens(end[0]), where)
    else:
        body, end = _response(tokenizer, made, text)
    ids = (*prompt, *body, *(() if written == "cut" else end))
    return Encoded(ids[:max_length], len(prompt), truncated=len(ids) > max_length)


def answered(
    tokenizer: Any,
    template: str | PromptFormat,
    row: Encoded,
    text: str,
    max_length: int,
    *,
    ended: bool,
) -> Encoded | None:
    """Return a row with a text that a model wrote as its last answer, which alone is learnt.

    Args:
        tokenizer: As in `encode`.
        template: As in `encode`.
        row: Its prompt stays as it is.
        text: The answer.
        max_length: As in `encode`.
        ended: The model ended its answer, and was not cut.

    Returns:
        The row; None where the text would end it before its end (in a bare template, which reads
        control tokens that a text writes out).
    """
    made = _format(template)
    bare = made.template == BARE
    body, end = _bare(tokenizer, text) if bare else _response(tokenizer, made, text)
    if bare and end[0] in body:
        return None
    ids = (*row.ids[: row.prompt_length], *body, *(end if ended else ()))
    cut = len(ids) > max_length
    return Encoded(ids[:max_length], row.prompt_length, truncated=cut, tag=row.tag)


def has_template(folder: Path) -> bool:
    """Whether the tokenizer in a model's folder has a chat template, from its files."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        text = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        return bool(json.loads(text).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _format(template: str | PromptFormat) -> PromptFormat:
    return template if isinstance(template, PromptFormat) else PromptFormat(template=template)


def _plain(made: PromptFormat, tokenizer: Any, instruction: Any, response: Any, tools: Any) -> bool:
    """Whether a row is a question and an answer in a template that is no chat template."""
    if instruction == "":
        return True
    if made.chosen(tokenizer) == "chat" or tools:
        return False
    asked = isinstance(instruction, str) or [m.get("role") for m in instruction] == ["user"]
    return asked and (isinstance(response, str) or not _more(response))


def _more(message: chat.Message) -> bool:
    return any(v for k, v in message.items() if k not in ("role", "content", "name"))


def _messages(instruction: str | Sequence[chat.Message], context: str) -> Sequence[chat.Message]:
    if isinstance(instruction, str):
        return [{"role": "user", "content": _joined(instruction, context)}]
    return instruction


def _text(
    made: PromptFormat,
    instruction: str | Sequence[chat.Message],
    tokenizer: Any,
    context: str,
    tools: Any,
    where: str = "",
) -> str:
    """Return a prompt in which control tokens that the row writes out are marked."""
    name = made.chosen(tokenizer)
    if instruction == "":
        return ""
    if not _plain(made, tokenizer, instruction, "", tools):
        return made.voice(tokenizer).prompt(_messages(instruction, context), tools, where)
    if not isinstance(instruction, str):
        instruction = instruction[0].get("content") or ""
    text = (_WITH_CONTEXT if context else TEMPLATES).get(name, name)
    if "{input}" not in text:
        instruction, context = _joined(instruction, context), ""
    # Not str.format: braces in a question are text, and what is filled in is not read again.
    filling = {"{instruction}": instruction, "{input}": context}
    if tokenizer is not None and name != BARE:
        filling = chat.voice(tokenizer, {}).marked(filling)
    return re.sub(r"\{instruction\}|\{input\}", lambda place: filling[place[0]], text)


def _joined(instruction: str, context: str) -> str:
    return f"{instruction}\n\n{context}" if context else instruction


def _conversation(
    tokenizer: Any,
    made: PromptFormat,
    messages: Sequence[chat.Message],
    tools: Any,
    max_length: int,
    where: str,
    given: int,
) -> Encoded | None:
    begin, last_only = made.chosen(tokenizer) != "chat", made.loss_turns == "last"
    text, turns = made.voice(tokenizer).turns(messages, tools, last_only, where, given)
    *earlier, last = turns
    read = Reading(tokenizer, text[: last.end], begin=begin)
    prompt = read.upto(last.start)
    if len(prompt) >= max_length:
        # Of a conversation that is too long, the turns that fit are learnt.
        fits = [len(read.upto(turn.start)) < max_length for turn in earlier]
        if not any(fits):
            return None
        answers = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i >= given]
        shorter = messages[: answers[max(n for n, fit in enumerate(fits) if fit)] + 1]
        row = _conversation(tokenizer, made, shorter, tools, max_length, where, given)
        return row and dataclasses.replace(row, truncated=True)
    ids = (*prompt, *behind(tokenizer, text[last.start : last.end]))
    if ids != read.ids:
        contract.require_ids(tokenizer.decode(ids), tokenizer.decode(read.ids), where)
    spans = [read.span(turn.start, turn.end, prompt) for turn in earlier]
    ids += (tokenizer.eos_token_id,) if last.open else ()
    spans = [*spans, (len(prompt), min(len(ids), max_length))] if spans else []
    cut = len(ids) > max_length
    return Encoded(ids[:max_length], len(prompt), truncated=cut, spans=tuple(spans))


def _response(
    tokenizer: Any, made: PromptFormat, text: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of an answer that stands behind a prompt as it is, and those of its end."""
    chats, eos = made.chosen(tokenizer) == "chat", (tokenizer.eos_token_id,)
    voice = made.voice(tokenizer) if chats else chat.voice(tokenizer, {})
    body = behind(tokenizer, voice.marked(voice.unended(text)))
    closing = behind(tokenizer, voice.ending.closing) if chats else ()
    return body, closing if chats and voice.ending.token else (*closing, *eos)


def _bare(tokenizer: Any, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of a text that is written out with its control tokens, and of its one end."""
    ends = [tokenizer.eos_token_id, *chat.end_ids(tokenizer)]
    body = behind(tokenizer, text)
    trimmed = behind(tokenizer, text.rstrip())
    if trimmed and trimmed[-1] in ends:
        count = next((n for n, i in enumerate(reversed(trimmed)) if i not in ends), len(trimmed))
        return trimmed[: len(trimmed) - count], trimmed[-1:]
    return body, (ends[0],)
