"""Conversations as a chat template renders them: the prompt, the assistant's turns, their ends.

The template is asked, never guessed at: what a turn is, where it begins and what ends it all come
from what it renders. Positions are characters of the rendered text until `prompts` makes ids of it.
"""

import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdstudy.data import contract
from kdstudy.errors import InputError

Message = Mapping[str, Any]

# What a template says when it is asked for the date: a prompt must not depend on the day. It is
# the day that Llama 3's own template falls back on.
DATE = "2024-07-26"

# Stands for an assistant's words where only what surrounds them is asked about.
_WORDS = "xqzjvkwq"
# Around control tokens that a row writes out: noncharacters, which no text holds.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_WRITTEN = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Turn:
    """An assistant's turn in a rendered text.

    Attributes:
        start: Where it begins, behind its header.
        end: Behind the token that ends it, or behind its words where the template writes none.
        open: The template writes no token at its end.
    """

    start: int
    end: int
    open: bool


@dataclasses.dataclass(frozen=True)
class Ending:
    """What a template writes behind an assistant's words.

    Attributes:
        closing: Up to the first control token, that token included; else its text.
        token: That token; empty where there is none.
        rest: What follows, such as a line break: nothing that the assistant says.
    """

    closing: str
    token: str
    rest: str


class Voice:
    """A tokenizer and its chat template, at a fixed date and with fixed arguments.

    Args:
        tokenizer: A Hugging Face tokenizer.
        arguments: Handed to the template, such as `enable_thinking`.
        date: What the template is told when it asks for today, as YYYY-MM-DD.
        template: In place of the tokenizer's own.
    """

    def __init__(
        self,
        tokenizer: Any,
        arguments: Mapping[str, Any],
        date: str = DATE,
        template: str | None = None,
    ):
        self.tokenizer, self.arguments = tokenizer, arguments
        self._date, self._template = datetime.date.fromisoformat(date), template
        self._dated = functools.cache(self._dating)

    def render(
        self, messages: Sequence[Message], tools: Any = None, *, prompt: bool, where: str = ""
    ) -> str:
        """Return the text; with `prompt`, up to where the assistant is to speak.

        Raises:
            InputError: The template refuses these messages, or fails on them.
        """
        try:
            return self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tools=tools,
                chat_template=self._dated(tools is not None),
                tokenize=False,
                add_generation_prompt=prompt,
                **self.arguments,
            )
        except Exception as e:
            said = next(iter(str(e).splitlines()), "")
            raise InputError(
                f"{contract.at(where)}the chat template cannot render these messages ({said})",
                why=f"{type(e).__name__}; by {', '.join(str(m.get('role')) for m in messages)}",
                remedy="leave the row out, bring it into the form that the template wants, or "
                "choose another template",
            ) from e

    @functools.cached_property
    def ending(self) -> Ending:
        """What ends an assistant's turn."""
        asked = [{"role": "user", "content": "u"}]
        try:
            text = self.render([*asked, {"role": "assistant", "content": _WORDS}], prompt=False)
            alone = self.render([{"role": "user", "content": _WORDS}], prompt=False)
        except InputError:
            return Ending("", "", "")
        if _WORDS not in text:
            return Ending("", "", "")
        tail = text.rpartition(_WORDS)[2]
        found = re.search(_any_of(self.added), tail)
        if found:
            return Ending(tail[: found.end()], found[0], tail[found.end() :])
        # Where every text ends in the next header, that header ends nothing.
        closing = "" if alone.endswith(_WORDS + tail) else tail.rstrip()
        return Ending(closing, "", tail[len(closing) :])

    @functools.cached_property
    def added(self) -> tuple[str, ...]:
        """Every token that stands for itself whatever surrounds it, blanks left out."""
        found = [t.content for t in self.tokenizer.added_tokens_decoder.values()]
        return tuple(t for t in found if t.strip())

    @functools.cached_property
    def control(self) -> re.Pattern:
        """Tokens that only a template may write."""
        special = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        ours = {*special, *self.tokenizer.all_special_tokens}
        if self._speaks and self.ending.token:
            ours.add(self.ending.token)
        return re.compile(_any_of([t for t in ours if t.strip()]))

    @functools.cached_property
    def headless(self) -> str:
        """The assistant's header where the template leaves it out of the prompt, else empty."""
        asked = [{"role": "user", "content": "u"}]
        try:
            prompt = self.render(asked, prompt=True)
            if prompt != self.render(asked, prompt=False):
                return ""
            text = self.render([*asked, {"role": "assistant", "content": _WORDS}], prompt=False)
        except InputError:
            return ""
        head = text.partition(_WORDS)[0]
        return head[len(prompt) :].strip() if head.startswith(prompt) else ""

    def prompt(self, messages: Sequence[Message], tools: Any = None, where: str = "") -> str:
        """Return the text of a prompt, its control tokens those of the template alone.

        Where the last message is the assistant's, the answer begins with it.

        Raises:
            InputError: The template cannot render it, drops a part of it, or has no prompt.
        """
        begun = ""
        if messages and messages[-1].get("role") == "assistant":
            *messages, opening = messages
            begun = self._opening(opening.get("content") or "")
        messages, tools = self.prepared(messages, where), self.marked(tools)
        text = self._prompt(messages, tools, where)
        contract.require_rendered(self, messages, tools, text, (), where, prompt=True)
        if begun:
            going_on = [*messages, {"role": "assistant", "content": begun + _WORDS}]
            whole = self.render(going_on, tools, prompt=False, where=where)
            if not whole.startswith(text + begun):
                raise contract.contradiction(going_on, len(messages), text + begun, whole, where)
        return text + begun

    def turns(
        self, messages: Sequence[Message], tools: Any, last_only: bool, where: str = "",
        given: int = 0,
    ) -> tuple[str, list[Turn]]:  # fmt: skip
        """Return a conversation's text and its assistant's turns, checked against the contract.

        Each prompt and its turn, as they are when the turn is the last, must begin the text of the
        whole conversation: else what is trained on is not what is met in use.

        Args:
            messages: The last must be the assistant's.
            tools: As the template takes them, or None.
            last_only: Only the last turn.
            where: What the row is called.
            given: So many messages are the prompt: no answer among them is learnt. Where the last
                of them is the assistant's, the answer goes on from it.

        Raises:
            InputError: The template cannot render it, drops a part of it, or contradicts itself.
        """
        messages, begun = _continued(messages, given)
        messages, tools = self.prepared(messages, where), self.marked(tools)
        whole = self.render(messages, tools, prompt=False, where=where)
        last = len(messages) - 1
        scored = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i >= given]
        scored = [last] if last_only or begun else scored
        found = [self._turn(messages, tools, whole, i, where) for i in scored]
        begun = self._opening(begun)
        if begun:
            found = [self._after(begun, found[0], messages, whole, where)]
        contract.require_rendered(self, messages, tools, whole, scored, where)
        for i, turn in zip(scored, found, strict=True):
            contract.require_said(
                messages[i]["content"], whole[: turn.end], turn.start - len(begun), where
            )
        return whole, found

    def prepared(self, messages: Sequence[Message], where: str = "") -> list[dict[str, Any]]:
        """Return messages without empty fields, without ends of their own, control tokens marked.

        Raises:
            InputError: A message has no role or text, or two of the assistant's are neighbours.
        """
        if not messages:
            raise InputError(f"{contract.at(where)}holds no message", remedy="leave such rows out")
        made = []
        for number, message in enumerate(messages, start=1):
            message = {k: v for k, v in message.items() if v is not None}
            message.setdefault("content", "")
            if not isinstance(message.get("role"), str) or not isinstance(message["content"], str):
                raise InputError(
                    f"{contract.at(where)}message {number} has no role or its content is no text",
                    remedy='give messages as {"role": ..., "content": "..."}',
                )
            if message["role"] == "assistant":
                if made and made[-1]["role"] == "assistant":
                    raise InputError(
                        f"{contract.at(where)}messages {number - 1} and {number} are both the "
                        "assistant's",
                        why="the template would end one turn and open another between them",
                        remedy="join the two into one message",
                    )
                message["content"] = self.unended(message["content"])
            made.append(self.marked(message))
        return made

    def unended(self, text: str) -> str:
        """Return a text without the end tokens that it is written to end with, if it is."""
        ends = {self.ending.token if self._speaks else "", self.tokenizer.eos_token} - {"", None}
        while found := [token for token in ends if text.rstrip().endswith(token)]:
            text = text.rstrip().removesuffix(found[0])
        return text

    def marked(self, value: Any) -> Any:
        """Return a text, or whatever holds texts, with its control tokens marked as text."""
        if isinstance(value, str):
            return self.control.sub(lambda found: f"{_OPEN}{found[0]}{_CLOSE}", value)
        if isinstance(value, Mapping):
            return {key: self.marked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(item) for item in value]
        return value

    def _opening(self, begun: str) -> str:
        """Return an answer's first words as a prompt ends in them: trimmed by whoever trims.

        Blanks at their end then begin what is said next, as in transformers'
        `continue_final_message`.
        """
        return self.marked(begun.rstrip() if begun != begun.rstrip() and self._trims else begun)

    @functools.cached_property
    def _trims(self) -> bool:
        """Whether the template takes blanks from the end of an assistant's words."""
        said = {"role": "assistant", "content": _WORDS + " "}
        try:
            text = self.render([{"role": "user", "content": "u"}, said], prompt=False)
        except InputError:
            return False
        return _WORDS in text and not text.rpartition(_WORDS)[2].startswith(" ")

    @property
    def _speaks(self) -> bool:
        return bool(self._template or self.tokenizer.chat_template)

    def _dating(self, tools: bool) -> str | None:
        template = self._template
        if template is None and "strftime_now" in json.dumps(self.tokenizer.chat_template):
            template = self.tokenizer.get_chat_template(tools=[] if tools else None)
        if template is None or "strftime_now" not in template:
            return template
        # A macro of that name hides transformers' own, whatever its version.
        parts = "".join(f'|replace("%{c}", "{v}")' for c, v in _directives(self._date))
        return (
            f"{{% macro strftime_now(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}{template}"
        )

    def _prompt(self, messages: Sequence[Message], tools: Any, where: str) -> str:
        if self.headless:
            raise InputError(
                f"the chat template writes no header before an answer ({self.headless!r})",
                why="it has no use for add_generation_prompt, so the student would have to write "
                "the header itself, and its answers would begin with it",
                remedy="end the template with {% if add_generation_prompt %}...{% endif %}, the "
                "header in place of the dots",
            )
        if messages:
            return self.render(messages, tools, prompt=True, where=where)
        # Nothing precedes it: what stands before its words is its prompt.
        opening = [{"role": "assistant", "content": _WORDS}]
        return self.render(opening, tools, prompt=False, where=where).partition(_WORDS)[0]

    def _turn(
        self, messages: Sequence[Message], tools: Any, whole: str, i: int, where: str
    ) -> Turn:
        prompt = self._prompt(messages[:i], tools, where)
        if not whole.startswith(prompt):
            raise contract.contradiction(messages, i, prompt, whole, where)
        start = len(prompt)
        last = i == len(messages) - 1
        alone = whole if last else self.render(messages[: i + 1], tools, prompt=False, where=where)
        if not alone.startswith(prompt):
            raise contract.contradiction(messages, i, prompt, alone, where)
        said = alone[start:]
        end = self._end(said)
        if last:
            return Turn(start, start + len(said[: end.end]), end.open)
        # The words and their end must be in the whole what they are when the turn is the last;
        # the token that ends the turn may be another there (gpt-oss).
        body = said[: end.body]
        if not whole.startswith(body, start):
            raise contract.contradiction(messages, i, prompt + body, whole, where)
        at = start + end.body
        closing = said[end.body : end.end]
        if whole.startswith(closing, at):
            return Turn(start, at + len(closing), end.open)
        other = re.compile(_any_of(self.added)).match(whole, at)
        if end.open or other is None:
            return Turn(start, at, True)
        return Turn(start, other.end(), False)

    def _after(
        self, begun: str, turn: Turn, messages: Sequence[Message], whole: str, where: str
    ) -> Turn:
        """Return the part of a turn behind the words that it was given."""
        if not whole.startswith(begun, turn.start):
            ours = whole[: turn.start] + begun
            raise contract.contradiction(messages, len(messages) - 1, ours, whole, where)
        return dataclasses.replace(turn, start=turn.start + len(begun))

    def _end(self, said: str) -> "_End":
        ending = self.ending
        if said.endswith(ending.closing + ending.rest):
            stop = len(said) - len(ending.rest)
            return _End(stop - len(ending.closing), stop, not ending.token)
        bare = said.rstrip()
        for token in self.added:
            if bare.endswith(token):
                return _End(len(bare) - len(token), len(bare), False)
        return _End(len(bare), len(bare), True)


@dataclasses.dataclass(frozen=True)
class _End:
    """Where, in what an assistant says, its words end, where its turn does, and whether openly."""

    body: int
    end: int
    open: bool


def voice(
    tokenizer: Any, arguments: Mapping[str, Any], date: str = DATE, template: str | None = None
) -> Voice:
    """Return a tokenizer's voice; what was found out about its template is kept."""
    own = json.dumps(tokenizer.chat_template)
    return _voice(
        tokenizer, own, tokenizer.eos_token, len(tokenizer),
        json.dumps(dict(arguments), sort_keys=True), date, template,
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _voice(
    tokenizer: Any, own: str, eos: str, size: int, arguments: str, date: str, template: str | None
) -> Voice:
    return Voice(tokenizer, json.loads(arguments), date, template)


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the id of the token that ends an assistant's turn in the tokenizer's own template."""
    if not getattr(tokenizer, "chat_template", None):
        return ()
    token = voice(tokenizer, {}).ending.token
    return (tokenizer.convert_tokens_to_ids(token),) if token else ()


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, and whether each is a control token that a row wrote out."""
    for i, part in enumerate(_WRITTEN.split(text)):
        if part:
            yield part, i % 2 == 1


def _continued(messages: Sequence[Message], given: int) -> tuple[Sequence[Message], str]:
    """Return messages with an answer that goes on from the prompt's last words joined to them."""
    if not 0 < given == len(messages) - 1 or messages[given - 1].get("role") != "assistant":
        return messages, ""
    begun, last = messages[given - 1].get("content") or "", messages[given]
    joined = {**last, "content": begun + (last.get("content") or "")}
    return [*messages[: given - 1], joined], begun


def _directives(date: datetime.date) -> Iterator[tuple[str, str]]:
    for code in "aAbBcdDeFGjmpuUVwWxyYHIMSZ":
        yield code, date.strftime(f"%{code}")
    for code in "dmjHIMS":
        yield f"-{code}", date.strftime(f"%{code}").lstrip("0") or "0"


def _any_of(tokens: Sequence[str]) -> str:
    longest = sorted(tokens, key=len, reverse=True)
    return "|".join(map(re.escape, longest)) or "(?!)"
