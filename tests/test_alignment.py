"""Two tokenizations of one text: what tokens spell, where both have borders, what is shared."""

import itertools
import unicodedata

import other_tokenizers as other
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdstudy.data.alignment import Span, align, align_rows, covered, require_covered
from kdstudy.data.prompts import PromptFormat, encode
from kdstudy.data.spelling import shared, spelling
from kdstudy.errors import InputError

MADE = {"zoo": other.zoos, "trained": other.trained, "characters": other.characters}
REAL = {"gpt2": other.gpt2, "smollm2": other.smollm2}
TEXTS = {
    "words": "He isn't here: 12 apples, 7 pears.",
    "leading blanks": "   three blanks, then  two\tand a tab ",
    "digits": "1234567 + 89 = 1234656; 3.14159",
    "many bytes": "naïve café, 日本語のテキスト, हिन्दी, العربية",
    "emoji": "\U0001f600\U0001f469\u200d\U0001f467 \u2764\ufe0f!",
    "line ends": "one\r\ntwo\r\n\r\n three\n",
    "empty": "",
    "one blank": " ",
    "control": "a\x00b\x1fc",
}


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def require_partition(spans, student, teacher):
    for side, tokens in (("student", student), ("teacher", teacher)):
        ranges = [getattr(span, side) for span in spans]
        assert [i for a, b in ranges for i in range(a, b)] == list(range(len(tokens)))
    for span in spans:
        mine, theirs = (b"".join(t[slice(*r)]) for t, r in
                        ((student, span.student), (teacher, span.teacher)))  # fmt: skip
        assert not span.same or (mine == theirs and span.bytes == len(mine) > 0)


def borders(tokenizer, tokens, text):
    """Where tokens end, in bytes, as far as the decoder tells: inside of a character it cannot."""
    found = set()
    for n in range(1, len(tokens) + 1):
        said = tokenizer.decode(tokens[:n], clean_up_tokenization_spaces=False)
        if text.startswith(said):
            found.add(len(said.encode()))
    return found


PAIRS = [(a, b) for a, b in itertools.permutations({**MADE, **REAL}, 2)]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_text_is_whole_on_both_sides_and_cut_where_both_end_a_token(pair, text):
    ours, theirs = ({**MADE, **REAL}[name]() for name in pair)
    mine, other_ids = ids(ours, text), ids(theirs, text)
    student, teacher = spelling(ours).of(mine), spelling(theirs).of(other_ids)
    assert b"".join(student) == b"".join(teacher) == text.encode()
    spans = align(student, teacher)
    require_partition(spans, student, teacher)
    assert all(span.same for span in spans) or not text
    ends = set(itertools.accumulate(span.bytes for span in spans)) - {0}
    common = borders(ours, mine, text) & borders(theirs, other_ids, text)
    assert common - {0} <= ends
    # And nowhere else, but inside of characters, where both have single bytes.
    inner = {len(text[:n].encode()) for n in range(len(text) + 1)}
    assert ends & inner == common & inner - {0}


@given(st.text(max_size=60), st.sampled_from(list(itertools.permutations(MADE, 2))))
@settings(max_examples=200, deadline=None)
def test_spans_partition_any_text_and_spell_the_same(text, pair):
    ours, theirs = (MADE[name]() for name in pair)
    student, teacher = (spelling(t).of(ids(t, text)) for t in (ours, theirs))
    spans = align(student, teacher)
    require_partition(spans, student, teacher)
    if unicodedata.normalize("NFC", text) == text and text:
        assert sum(span.bytes for span in spans) == len(text.encode())


token = st.sampled_from([b"a", b"b", b"ab", b" a", b"\xc3", b"\xa9", b"", b"aba"])


@given(st.lists(token, max_size=12), st.lists(token, max_size=12))
@settings(max_examples=400, deadline=None)
def test_spans_partition_unlike_texts_too(student, teacher):
    require_partition(align(student, teacher), student, teacher)


def test_hand_made_spans():
    assert align([b"un", b"believ", b"able"], [b"unbe", b"liev", b"able"]) == [
        Span((0, 2), (0, 2), True, 8),
        Span((2, 3), (2, 3), True, 4),
    ]
    # A word that the two do not share is a hole; around it they meet again.
    assert align([b"a", b" caf\xc3\xa9", b" b"], [b"a", b" cafe\xcc\x81", b" b"]) == [
        Span((0, 1), (0, 1), True, 1),
        Span((1, 2), (1, 2), False, 0),
        Span((2, 3), (2, 3), True, 2),
    ]
    # One side was cut within a word: what is left of the other stands alone.
    assert align([b"a", b" lon"], [b"a", b" long", b" tail"])[1:] == [Span((1, 2), (1, 3), False)]
    assert align([], []) == [] == align([], [])
    assert align([], [b"x"]) == [Span((0, 0), (0, 1), False)]


def test_composed_and_decomposed_letters_cost_their_word_alone():
    """The shipped models' tokenizer normalises (NFC); the other does not."""
    text = "the cafe\u0301 is 12 " + "words " * 10
    ours, theirs = other.zoos(), other.trained()
    student, teacher = (spelling(t).of(ids(t, text)) for t in (ours, theirs))
    spans = align(student, teacher)
    require_partition(spans, student, teacher)
    lost = [span for span in spans if not span.same]
    said = b"".join(b"".join(teacher[slice(*span.teacher)]) for span in lost)
    assert 0 < len(said) <= len(" cafe\u0301".encode())


def row(tokenizer, response, most=10**6, template="Q: {instruction}\nA: "):
    return encode(tokenizer, template, "why?", response, most)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_rows_meet_at_their_ends_whatever_those_are_called(pair, text):
    ours, theirs = ({**MADE, **REAL}[name]() for name in pair)
    a, b = row(ours, text), row(theirs, text)
    spans = align_rows(a, b, spelling(ours), spelling(theirs)).spans
    assert (len(a.scored), len(b.scored)) == (spans[-1].student[1], spans[-1].teacher[1])
    last = spans[-1]
    assert last.same and not last.bytes and last.student[1] - last.student[0] == 1
    assert a.ids[a.scored[last.student[0]]] == ours.eos_token_id
    assert b.ids[b.scored[last.teacher[0]]] == theirs.eos_token_id


def test_a_row_that_is_cut_meets_no_end_and_one_without_room_meets_nothing():
    ours, theirs = other.zoos(), other.trained()
    words = "we have seven apples and 12 pears left"
    whole, other_row = row(ours, words), row(theirs, words)
    cut = row(ours, words, most=whole.prompt_length + 4)
    spelled = spelling(ours), spelling(theirs)
    made = align_rows(cut, other_row, *spelled)
    assert cut.truncated and len(cut.scored) == made.spans[-1].student[1]
    assert len(other_row.scored) == made.spans[-1].teacher[1]
    assert not any(span.same and not span.bytes for span in made.spans)
    alone = align_rows(whole, None, *spelled)
    assert not alone.compared and alone.spans[-1].student[1] == len(whole.scored)
    assert covered([alone]) == 0 and covered([]) == 1
    # Every byte of the cut answer that is compared is counted on both sides.
    same = sum(span.bytes for span in made.spans)
    assert covered([made]) == pytest.approx(2 * same / made.bytes)
    with pytest.raises(InputError, match="a and b: 0% of the text"):
        require_covered([alone], "a and b")
    require_covered([align_rows(whole, other_row, *spelled)], "a and b")


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_every_answer_of_a_conversation_meets_its_own():
    import copy

    theirs = copy.deepcopy(other.trained(520))
    theirs.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    theirs.chat_template = CHAT
    ours = other.zoos()
    messages = [
        {"role": "user", "content": "1?"}, {"role": "assistant", "content": "it is 1"},
        {"role": "user", "content": "22?"},
    ]  # fmt: skip
    last = {"role": "assistant", "content": "it is 22"}
    a, b = (encode(t, PromptFormat(), messages, last, 10**6) for t in (ours, theirs))
    made = align_rows(a, b, spelling(ours), spelling(theirs))
    said = [b"".join(spelling(theirs).of([b.ids[b.scored[i]] for i in range(*span.teacher)]))
            for span in made.compared]  # fmt: skip
    assert b"".join(said) == b"it is 1<|im_end|>it is 22<|im_end|>"
    assert sum(not span.bytes for span in made.compared) == 2


def test_the_tokens_of_one_vocabulary_are_all_shared():
    for made in MADE.values():
        mine = spelling(made())
        ends = (made().eos_token_id,) * 2
        assert shared(mine, mine, ends) == tuple((i, i) for i in sorted(mine.tokens))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_shared_tokens_spell_the_same_and_are_pairs(pair):
    ours, theirs = ({**MADE, **REAL}[name]() for name in pair)
    a, b = spelling(ours), spelling(theirs)
    ends = ours.eos_token_id, theirs.eos_token_id
    found = shared(a, b, ends)
    assert ends in found
    assert len({i for i, _ in found}) == len(found) == len({j for _, j in found})
    for i, j in found:
        assert (i, j) == ends or a.tokens[i][1] == b.tokens[j][1]
    # A blank is part of a token: " a" is shared, and not with "a".
    (blank,), (plain,) = ([j for i, j in found if a.tokens[i][1] == x] for x in (b" t", b"t"))
    assert b.tokens[blank][1] == b" t" and b.tokens[plain][1] == b"t"
    # By brute force: no two tokens that spell the same, and are no control tokens, are left over.
    left = [{s for k, (kind, s) in side.tokens.items() if kind != "special" and k not in used}
            for side, used in ((a, {i for i, _ in found}), (b, {j for _, j in found}))]  # fmt: skip
    assert not left[0] & left[1]


def test_a_tokenizer_whose_tokens_spell_nothing_known_is_refused():
    with pytest.raises(InputError, match="nothing tells which bytes"):
        spelling(other.word_pieces())
