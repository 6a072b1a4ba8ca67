"""Example -> prompt -> ids and response mask: the one place, for training and evaluation."""

import dataclasses
import re
from typing import Any

from kdstudy.errors import InputError

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


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One row as the model sees it.

    Attributes:
        ids: Token ids of prompt and response, the end-of-sequence token included.
        prompt_length: How many of them are prompt; the response mask is everything after.
        truncated: The row was longer than the limit and its response was cut.
    """

    ids: tuple[int, ...]
    prompt_length: int
    truncated: bool = False


def render(
    template: str,
    instruction: str | list[dict[str, str]],
    tokenizer: Any = None,
    *,
    context: str = "",
) -> str:
    """Return the prompt's text: everything before the response.

    Args:
        template: A name in `TEMPLATES`, `chat`, or text with `{instruction}` and perhaps `{input}`.
        instruction: The question; for `chat` it may be a list of messages.
        tokenizer: Needed for `chat` alone.
        context: What the question is about (Alpaca's input). A template with no place for it gets
            it behind the instruction.

    Raises:
        InputError: `chat` with a tokenizer that has no chat template.
    """
    if template == "chat":
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "template: chat: this tokenizer has no chat template",
                remedy="write template: alpaca",
            )
        messages = instruction
        if isinstance(instruction, str):
            messages = [{"role": "user", "content": _joined(instruction, context)}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = (_WITH_CONTEXT if context else TEMPLATES).get(template, template)
    if "{input}" not in text:
        instruction, context = _joined(instruction, context), ""
    # Not str.format: braces in a question are text, and what is filled in is not read again.
    filling = {"{instruction}": instruction, "{input}": context}
    return re.sub(r"\{instruction\}|\{input\}", lambda place: filling[place[0]], text)


def _joined(instruction: str, context: str) -> str:
    return f"{instruction}\n\n{context}" if context else instruction


def encode_prompt(
    tokenizer: Any,
    template: str,
    instruction: str | list[dict[str, str]],
    *,
    context: str = "",
) -> tuple[int, ...]:
    """Return the prompt's ids, exactly as `encode` puts them before a response."""
    text = render(template, instruction, tokenizer, context=context)
    # A chat template writes its own special tokens; any other prompt gets the tokenizer's (BOS).
    return tuple(tokenizer(text, add_special_tokens=template != "chat")["input_ids"])


def encode(
    tokenizer: Any,
    template: str,
    instruction: str | list[dict[str, str]],
    response: str,
    max_length: int,
    *,
    context: str = "",
) -> Encoded | None:
    """Return a training row, or None when the prompt leaves no room for the response.

    Prompt and response are tokenised apart and joined, so that a prompt has the same ids in
    training and in evaluation whatever follows it.

    Args:
        tokenizer: A Hugging Face tokenizer with an end-of-sequence token.
        template: As in `render`.
        instruction: The question, as in `render`.
        response: The text to learn.
        max_length: Limit on tokens of prompt and response together.
        context: As in `render`.
    """
    prompt = encode_prompt(tokenizer, template, instruction, context=context)
    body = tokenizer(response, add_special_tokens=False)["input_ids"]
    ids = (*prompt, *body, tokenizer.eos_token_id)
    if len(prompt) >= max_length:
        return None
    return Encoded(ids[:max_length], len(prompt), truncated=len(ids) > max_length)
