"""Conversations in the templates of models: what is learnt, what ends it, what is refused."""

import datetime
import json
import re
from pathlib import Path

import chat_models as models
import pytest
import tiny_models as tiny
from chat_models import CALL, LAST, RAIN, TALK, TOOL, assistant, learnt, made, system, user
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokens
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from kdstudy.data import chat
from kdstudy.data.prompts import BARE, PromptFormat, encode, encode_prompt, row_of
from kdstudy.errors import InputError
from kdstudy.records import Example


def refusal(tokenizer, messages, form="chat", **more) -> str:
    with pytest.raises(InputError) as caught:
        made(tokenizer, messages, form, **more)
    return str(caught.value)


@pytest.mark.parametrize("name", models.TEMPLATES)
def test_every_answer_and_its_own_end_are_learnt_and_nothing_else(name):
    tokenizer, end = models.tokenizer(name), models.ENDS[name]
    row = made(tokenizer, TALK)
    lead = " " if name == "mistral" else ""
    # A template without an end leaves one to the text as a whole.
    first = "yes" if name == "plain" else f"{lead}yes{end}"
    assert learnt(tokenizer, row) == [first, f"{lead}no, never{end}"]
    assert learnt(tokenizer, made(tokenizer, TALK, LAST)) == [f"{lead}no, never{end}"]
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "chat", TALK[:-1])


# transformers' mask leaves out the last byte of a last character of several.
TEXT = st.text("abc \n<|.é", max_size=8).map(lambda text: text.strip() + "z")
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(models.TEMPLATES)), TURNS, st.booleans())
def test_the_mask_is_transformers_own(name, turns, with_system):
    """Its oracle: the rendering of the whole, and its mask by {% generation %}."""
    tokenizer = models.tokenizer(name)
    messages = [m for q, a in turns for m in (user(q), assistant(a))]
    if with_system and name not in ("gemma", "mistral"):
        messages = [system("be brief"), *messages]
    row = made(tokenizer, messages)
    template = models.GENERATION[name].replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    whole = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    scored = [int(i in set(row.scored)) for i in range(len(row.ids))]
    ids, mask = list(row.ids), whole["assistant_masks"]
    if name == "plain":
        assert ids.pop() == tokenizer.eos_token_id
        assert scored.pop() == 1
    assert ids == whole["input_ids"][: len(ids)]
    assert scored == mask[: len(ids)]
    # What follows the last end is nothing that the assistant says.
    assert not any(mask[len(ids) :])


@pytest.mark.parametrize("name", models.TEMPLATES)
def test_a_text_ends_once_however_it_is_written(name):
    tokenizer, end = models.tokenizer(name), models.ENDS[name]
    plain = made(tokenizer, [user("q"), assistant("4")])
    for written in (f"4{end}", f"4{end}\n", "4</s>"):
        assert made(tokenizer, [user("q"), assistant(written)]) == plain
        assert encode(tokenizer, "alpaca", "q", written, 999) == encode(
            tokenizer, "alpaca", "q", "4", 999
        )
    row = encode(tokenizer, BARE, "q", "4</s>", 999)
    assert tokenizer.decode(row.ids[row.prompt_length :]) == "4</s>"
    assert row == encode(tokenizer, BARE, "q", "4", 999)
    with pytest.raises(InputError, match="before its end"):
        encode(tokenizer, BARE, "q", "4</s>5", 999)


@pytest.mark.parametrize("form", ["alpaca", BARE, "reference"])
def test_a_tokenizer_that_appends_its_end_does_not_end_the_prompt(form):
    appending, other = models.tokenizer(None, add_eos=True), models.tokenizer(None)
    ids = encode_prompt(appending, form, "q")
    assert ids == (appending.bos_token_id, *encode_prompt(other, form, "q"))
    row = encode(appending, form, "q", "4", 999)
    assert row.ids.count(appending.eos_token_id) == 1
    assert row.ids[-1] == appending.eos_token_id


@pytest.mark.parametrize("name", models.TEMPLATES)
def test_control_tokens_that_a_row_writes_out_are_text(name):
    tokenizer, end = models.tokenizer(name), models.ENDS[name]
    evil = [user(f"a{end}b<s>"), assistant(f"c{end}d")]
    row, tame = made(tokenizer, evil), made(tokenizer, [user("a"), assistant("c")])
    control = tokenizer.convert_tokens_to_ids([*models.SPECIAL, "<s>", "</s>"])
    assert [i for i in row.ids if i in control] == [i for i in tame.ids if i in control]
    assert learnt(tokenizer, row)[-1].strip() == f"c{end}d{end}"
    plain = encode(tokenizer, "alpaca", f"a{end}b", f"c{end}d", 999)
    assert [i for i in plain.ids if i in control] == [tokenizer.eos_token_id]
    assert tokenizer.decode(plain.ids[plain.prompt_length :]) == f"c{end}d</s>"


def test_the_date_is_that_of_the_key_whatever_the_day(monkeypatch):
    tokenizer = models.tokenizer("llama3")
    text = tokenizer.decode(encode_prompt(tokenizer, "chat", "q"))
    assert "Today: 26 Jul 2024" in text
    today = tokenizer.apply_chat_template([user("q")], tokenize=False, add_generation_prompt=True)
    assert today.replace(f"{datetime.date.today():%d %b %Y}", "26 Jul 2024") == text
    formats = "%d %b %Y|%Y-%m-%d|%A, %B %d|%-d.%-m.%y|%H:%M"
    tokenizer.chat_template = f"{{{{ strftime_now('{formats}') }}}}{{{{ messages[0].content }}}}"
    want = datetime.date(2024, 7, 5).strftime(formats)
    assert chat.Voice(tokenizer, {}, "2024-07-05").render([user("")], prompt=True) == want


def test_thoughts_and_tool_calls_are_learnt_as_the_template_writes_them():
    tokenizer = models.tokenizer(models.THINKING)
    thought = [user("q"), assistant("yes", reasoning_content="clouds")]
    assert learnt(tokenizer, made(tokenizer, thought)) == [
        "<think>\nclouds\n</think>\n\nyes<|im_end|>"
    ]
    called = [user("q"), assistant("", tool_calls=[CALL])]
    (text,) = learnt(tokenizer, made(tokenizer, called, tools=[TOOL]))
    assert json.dumps(CALL["function"]) in text
    answered = [*called, RAIN, assistant("It rains.")]
    row = made(tokenizer, answered, tools=[TOOL])
    assert [t.count("rain") for t in learnt(tokenizer, row)] == [0, 1]
    assert json.dumps([TOOL]) in tokenizer.decode(row.ids)


def test_arguments_reach_the_template_and_a_contradiction_is_refused():
    tokenizer = models.tokenizer(models.THINKING)
    off = PromptFormat(template="chat", arguments={"enable_thinking": False})
    assert tokenizer.decode(encode_prompt(tokenizer, off, "q")).endswith("</think>\n\n")
    assert learnt(tokenizer, made(tokenizer, TALK[:2], off)) == ["yes<|im_end|>"]
    thought = [user("q"), assistant("yes", reasoning_content="clouds")]
    assert "clouds" in refusal(tokenizer, thought, off)


def test_a_template_that_rewrites_earlier_turns_learns_the_last_alone():
    tokenizer = models.tokenizer(models.THINKING)
    said = refusal(tokenizer, TALK)
    assert said.startswith("row 3: message 2 of 4 ")
    assert "set loss_turns to last" in said
    assert "<think>" in said  # one of both texts
    assert learnt(tokenizer, made(tokenizer, TALK, LAST)) == [
        "<think>\n\n</think>\n\nno, never<|im_end|>"
    ]


@pytest.mark.parametrize(
    ("template", "messages", "more", "words"),
    [
        (models.OPENED, TALK[:2], {}, "its own prompt"),
        ("gemma", [system("s"), *TALK], {}, r"cannot render these messages \(no system\)"),
        ("chatml", TALK[:2], {"tools": [TOOL]}, "leaves out the tools"),
        ("chatml", [user("q"), assistant("", tool_calls=[CALL])], {}, "the tool_calls of m"),
        ("chatml", [user("q"), assistant("y", reasoning_content="c")], {}, "the reasoning_content"),
        ("phi", [user("q"), RAIN, assistant("y")], {}, "no role tool"),
        ("chatml", [user("q"), assistant("a"), assistant("b")], {}, "both the assistant's"),
        ("{{ messages[0].nothing.at_all }}", TALK, {}, "UndefinedError"),
        ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", TALK, {}, "no header"),
        (
            models.TEMPLATES["chatml"].replace("m.content + '<", "m.content.split('|')[-1] + '<"),
            [user("q"), assistant("one|two")], {}, "a part of an answer",
        ),
    ],
)  # fmt: skip
def test_what_a_template_cannot_render_is_refused_with_the_row(template, messages, more, words):
    said = refusal(models.tokenizer(template), messages, **more)
    assert re.search(words, said)
    assert said.startswith("row 3: ") or "no header" in said
    assert "Traceback" not in said


def test_an_answer_goes_on_from_the_prompts_last_words():
    tokenizer = models.tokenizer("chatml")
    given = [user("q"), assistant("let me"), assistant(" see")]
    row = made(tokenizer, given, given=2)
    assert learnt(tokenizer, row) == [" see<|im_end|>"]
    want = tokenizer.apply_chat_template(given[:2], tokenize=False, continue_final_message=True)
    assert tokenizer.decode(row.ids[: row.prompt_length]) == want
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "chat", given[:2])
    # Of a prompt that is a conversation no answer is learnt.
    assert learnt(tokenizer, made(tokenizer, TALK, given=3)) == ["no, never<|im_end|>"]


@pytest.mark.parametrize("first", ["let me", "let me ", "let me \n\t "])
@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "phi"])
def test_first_words_that_end_in_a_blank_are_cut_where_the_template_cuts(name, first):
    """Its oracle: `continue_final_message` of transformers."""
    tokenizer = models.tokenizer(name)
    given = [user("q"), assistant(first), assistant("see")]
    row = made(tokenizer, given, given=2)
    # llama3's asks for today's date, where ours has one day.
    want = tokenizer.apply_chat_template(
        given[:2],
        chat_template=chat.voice(tokenizer, {})._dated(False),
        tokenize=False,
        continue_final_message=True,
    )
    assert tokenizer.decode(row.ids[: row.prompt_length]) == want
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "chat", given[:2])
    (said,) = learnt(tokenizer, row)
    assert said.removesuffix(models.ENDS[name]).lstrip() == "see"


def test_a_conversation_that_is_too_long_is_learnt_as_far_as_it_fits():
    tokenizer = models.tokenizer("chatml")
    whole = made(tokenizer, TALK)
    cut = encode(tokenizer, "chat", TALK[:-1], TALK[-1], whole.prompt_length)
    assert cut.truncated
    assert learnt(tokenizer, cut) == ["yes<|im_end|>"]
    assert encode(tokenizer, LAST, TALK[:-1], TALK[-1], whole.prompt_length) is None
    shorn = encode(tokenizer, "chat", TALK[:-1], TALK[-1], whole.prompt_length + 2)
    assert learnt(tokenizer, shorn) == ["yes<|im_end|>", "no"]


def test_a_teachers_text_stands_behind_the_prompt_as_it_is_and_is_learnt_alone():
    tokenizer = models.tokenizer(models.THINKING)
    talk = {"messages": TALK}
    example = Example(id="a", instruction="more?", response="no", chat=json.dumps(talk))
    row = row_of(tokenizer, "auto", example, 999, written=("<think>\nx\n</think>\n\nok", "ended"))
    assert learnt(tokenizer, row) == ["<think>\nx\n</think>\n\nok<|im_end|>"]
    open_end = row_of(tokenizer, "auto", example, 999, written=("ok", "cut"))
    assert learnt(tokenizer, open_end) == ["ok"]
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "chat", TALK[:-1])


def test_prompt_and_answer_are_tokenised_apart_where_their_border_would_be_one_token():
    # The prompt ends in a line break and the answer begins with one: together they are one token.
    tokenizer = models.tokenizer(
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}{{ 'a\n' }}"
        "{{ '\n' + m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a\n' }}{% endif %}",
        merges=[("Ċ", "Ċ")],
    )
    row = made(tokenizer, TALK)
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "chat", TALK[:-1])
    assert tokenizer.decode(row.ids) == "hia\n\nyes</s>\nmore?a\n\nno, never</s>"
    # In the earlier turn the border is one token, which is the prompt's as much as the answer's.
    assert learnt(tokenizer, row) == ["yes</s>", "\nno, never</s>"]


def test_a_tokenizer_that_puts_a_space_before_texts_puts_none_before_an_answer():
    """Of SentencePiece's kind, as Llama 2's: the oracle is the text of the whole."""
    letters = [*"abcdefghijklmnopqrstuvwxyz:#.,\n", "▁"]
    raw = Tokenizer(tokens.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    raw.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    row = encode(tokenizer, "q: {instruction}\na:", "is it", "yes", 99)
    assert tokenizer.decode(row.ids) == "q: is it\na:yes</s>"
    tokenizer.chat_template = models.TEMPLATES["plain"]
    row = made(tokenizer, [user("is it"), assistant("yes")])
    assert tokenizer.decode(row.ids) == "u: is it\na: yes</s>"


def test_auto_is_the_tokenizers_own_template_where_it_has_one():
    own, none = models.tokenizer("chatml"), models.tokenizer(None)
    assert encode_prompt(own, "auto", "q") == encode_prompt(own, "chat", "q")
    assert encode_prompt(none, "auto", "q") == encode_prompt(none, "alpaca", "q")
    # A conversation in Alpaca's prompt: its first question is asked as alone.
    text = none.decode(made(none, TALK, "auto").ids)
    assert text.startswith(none.decode(encode_prompt(none, "alpaca", "hi")) + "yes</s>\n\n")
    assert learnt(none, made(none, TALK, "auto")) == ["yes</s>", "no, never</s>"]
    assert made(none, TALK[:2], "auto") == encode(none, "alpaca", "hi", "yes", 999)
    assert "no place for a conversation" in refusal(none, TALK, "reference")


def test_generation_stops_at_the_templates_end():
    for name, end in models.ENDS.items():
        tokenizer = models.tokenizer(name)
        want = () if name == "plain" else (tokenizer.convert_tokens_to_ids(end),)
        assert chat.end_ids(tokenizer) == want
    assert chat.end_ids(models.tokenizer(None)) == ()


TRL = ["gemma", "llama3", "phi3", "qwen2_5", "qwen3_instruct_2507", "lfm2", "cohere"]


@pytest.mark.parametrize("name", TRL)
def test_published_templates_are_split_as_trl_marks_them(name):
    folder = Path(pytest.importorskip("trl", reason="pip install -e '.[dev]'").__file__).parent
    folder /= "chat_templates"
    if not (folder / f"{name}_training.jinja").is_file():
        pytest.skip(f"this TRL has no {name}_training.jinja")
    tokenizer = models.tokenizer((folder / f"{name}.jinja").read_text())
    more = models.published_tokens(tokenizer.chat_template)
    tokenizer.add_special_tokens({"extra_special_tokens": [*models.SPECIAL, *more]})
    row = made(tokenizer, TALK)
    whole = tokenizer.apply_chat_template(
        TALK, chat_template=(folder / f"{name}_training.jinja").read_text(), return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    assert list(row.ids) == whole["input_ids"][: len(row.ids)]
    marked = [i for i, m in enumerate(whole["assistant_masks"][: len(row.ids)]) if m]
    # TRL scores the line break behind an end as well.
    blank = {i for i in marked if not tokenizer.decode([row.ids[i]]).strip()}
    ours = set(row.scored)
    assert ours <= set(marked)
    assert set(marked) - ours <= blank


def test_text_without_a_prompt_begins_as_the_tokenizer_begins_texts():
    tokenizer = tiny.tokenizer(eos_token="</s>", pad_token="<pad>", bos_token="<unk>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<unk> $A", special_tokens=[("<unk>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}</s>"
    row = encode(tokenizer, "auto", "", "abc", 50)
    assert row.ids[0] == tokenizer.bos_token_id and row.prompt_length == 1
    begun = encode_prompt(tokenizer, "{instruction}", "<unk>abc")
    assert begun.count(tokenizer.bos_token_id) == 1
