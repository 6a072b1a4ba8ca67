"""Tokenizers with chat templates in the manner of well-known models, made in a moment.

Each template has its twin in which `{% generation %}` marks what the assistant says: transformers'
own mask is then the oracle of ours.
"""

import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdstudy.data.prompts import Encoded, PromptFormat, encode

OPEN, CLOSE = "{% generation %}", "{% endgeneration %}"


_NO_SYSTEM = "{{ raise_exception('no system') }}"


def _turns(user: str, assistant: str, start: str = "", system: str = "", tail: str = "") -> str:
    """A template of one line; « and » stand where generation begins and ends."""
    return (
        f"{start}{{% for m in messages %}}"
        f"{{% if m.role == 'assistant' %}}{assistant}"
        f"{{% elif m.role == 'user' %}}{user}"
        f"{{% elif m.role == 'system' %}}{system or _NO_SYSTEM}"
        "{% else %}{{ raise_exception('no role ' + m.role) }}{% endif %}{% endfor %}" + tail
    )


def _asked(header: str) -> str:
    return f"{{% if add_generation_prompt %}}{{{{ '{header}' }}}}{{% endif %}}"


_IM = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_EOT = "{{ '<|h|>' + m.role + '<|/h|>\n\n' + m.content | trim + '<|eot_id|>' }}"
MARKED = {
    "chatml": _turns(
        _IM, "{{ '<|im_start|>assistant\n' }}«{{ m.content + '<|im_end|>' }}»{{ '\n' }}",
        system=_IM, tail=_asked("<|im_start|>assistant\n"),
    ),
    "llama3": _turns(
        _EOT, "{{ '<|h|>assistant<|/h|>\n\n' }}«{{ m.content | trim + '<|eot_id|>' }}»",
        start="{{ bos_token + '<|h|>system<|/h|>\n\nToday: ' + strftime_now('%d %b %Y') }}"
        "{{ '<|eot_id|>' }}",
        system=_EOT, tail=_asked("<|h|>assistant<|/h|>\n\n"),
    ),
    "gemma": _turns(
        "{{ '<start_of_turn>user\n' + m.content | trim + '<end_of_turn>\n' }}",
        "{{ '<start_of_turn>model\n' }}«{{ m.content | trim + '<end_of_turn>' }}»{{ '\n' }}",
        start="{{ bos_token }}", tail=_asked("<start_of_turn>model\n"),
    ),
    "phi": _turns(
        "{{ '<|user|>\n' + m.content + '<|end|>\n' }}",
        "{{ '<|assistant|>\n' }}«{{ m.content + '<|end|>' }}»{{ '\n' }}",
        system="{{ '<|system|>\n' + m.content + '<|end|>\n' }}",
        tail="{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ eos_token }}{% endif %}",
    ),
    "mistral": _turns(
        "{{ '[INST] ' + m.content + ' [/INST]' }}", "«{{ ' ' + m.content + eos_token }}»",
        start="{{ bos_token }}",
    ),
    "plain": _turns(
        "{{ 'u: ' + m.content + '\n' }}", "{{ 'a: ' }}«{{ m.content }}»{{ '\n' }}",
        system="{{ 's: ' + m.content + '\n' }}", tail=_asked("a: "),
    ),
}  # fmt: skip
TEMPLATES = {name: re.sub("[«»]", "", text) for name, text in MARKED.items()}
GENERATION = {name: text.replace("«", OPEN).replace("»", CLOSE) for name, text in MARKED.items()}
ENDS = {
    "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi": "<|end|>",
    "mistral": "</s>", "plain": "</s>",
}  # fmt: skip
_TOOLS = "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
# The manner of Qwen3: thoughts, which earlier turns lose; tool calls; tool answers as the user's.
THINKING = (
    _TOOLS + "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + (m.reasoning_content or '') }}"
    "{{ '\n</think>\n\n' }}"
    "{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}" + _IM + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
# That of DeepSeek-R1: the prompt opens a thought that the answer's rendering leaves out.
OPENED = TEMPLATES["chatml"].replace(
    "'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
SPECIAL = sorted(
    set(
        re.findall(r"<\|/?\w+\|>|<(?:start|end)_of_turn>", "".join([*TEMPLATES.values(), THINKING]))
    )
)


def tokenizer(
    template: str | None, *, add_eos: bool = False, merges: list[tuple[str, str]] | None = None
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, `<s>` and `</s>`, and every control token of the templates above."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges or [])]
    vocab = {c: i for i, c in enumerate(letters)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges or []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merges)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", extra_special_tokens=SPECIAL
    )
    made.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    if add_eos:
        ids = [("<s>", made.bos_token_id), ("</s>", made.eos_token_id)]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=ids
        )
    made.chat_template = TEMPLATES.get(template, template)
    return made


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str, **more) -> dict:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def published_tokens(template: str) -> list[str]:
    """Return what looks like a control token in a published template."""
    return sorted(set(re.findall(r"<\|[^<>|'\" ]+\|>|<(?:start|end)_of_turn>", template)))


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
RAIN = {"role": "tool", "content": "rain"}
TALK = [user("hi"), assistant("yes"), user("more?"), assistant("no, never")]
LAST = PromptFormat(template="chat", loss_turns="last")


def learnt(tokenizer, row: Encoded) -> list[str]:
    """Return the scored stretches of a row as text."""
    found, before = [], None
    for i in row.scored:
        found += [[]] if before != i - 1 else []
        found[-1].append(row.ids[i])
        before = i
    return [tokenizer.decode(ids) for ids in found]


def made(tokenizer, messages, form="chat", **more) -> Encoded:
    """Return the row of a conversation."""
    return encode(tokenizer, form, messages[:-1], messages[-1], 10**6, where="row 3", **more)
