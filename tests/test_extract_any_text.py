"""Extraction from any text at all: no exception, nothing that was not offered, linear time."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdstudy.answers import numerals
from kdstudy.answers.extract import RULES, choice, label, number

ASKED = (
    "Matthew had 32 crackers and 98 cakes. If he gave equal numbers of both to his 4 friends, "
    "how many crackers did each person eat?"
)
AQUA = f"{ASKED} Answer Choices: (A) 23.65 (B) 1000 (C) 35.62 (D) Rs. 2.65 (E) None of these"
SIQA = (
    f"{ASKED}\n\nAnswer1: make a plan Answer2: 4 Answer3: Find somewhere to go\n\n"
    "Answer format: answer1/answer2/answer3"
)
ANSWERS = tuple(f"answer{n}" for n in range(1, 6))
LABELS = [ANSWERS, ("true", "false"), ("no", "yes", "maybe"), ("option1", "option2")]

FRAGMENTS = [
    *("answer is ", "Answer:", "the correct option", "answer format: ", "so ", "not ", "isn't "),
    *("\\boxed{", "}", "####", "\\frac{1}{3}", "{,}", "$", "**", "`", "\n", "\t", "### Response:"),
    *(
        "Question:",
        "</s>",
        "1,",
        "1 000",
        "1.234,5",
        "-",
        "½",
        "²",
        "٣",
        "/0",
        "e9",
        "3rd",
        "9" * 99,
    ),
    *("(A)", "B.", "option C", "answer2", "Answer 3", "answer4", "option1", "/", " or ", ": "),
    *(
        "true",
        "False",
        "yes",
        "No,",
        "maybe",
        "is wrong",
        "is correct",
        "make a plan",
        "\ud800",
        "\0",
    ),
    *("user\n", "\nassistant\n", "\nProblem 2: ", "Q2:", "twenty", "-five ", " hours and ", "5th "),
    *(
        "A or B",
        "either ",
        "would be ",
        "if ",
        "cannot be determined",
        "2,74",
        "= ",
        "<answer>",
        "4! ",
    ),
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS), st.text(max_size=5), st.sampled_from([ASKED, AQUA, SIQA])
    ),
    max_size=20,
).map("".join)
QUESTIONS = st.one_of(st.sampled_from(["", ASKED, AQUA, SIQA]), TEXTS)


@settings(max_examples=400, deadline=None)
@given(TEXTS, QUESTIONS, st.booleans(), st.sampled_from(RULES))
def test_a_number_is_one_in_canonical_spelling(
    text: str, question: str, cut: bool, rule: str
) -> None:
    found = number(text, rule, question, cut=cut)
    if found:
        assert numerals.value(found) is not None
        assert re.fullmatch(r"-?\d+(\.\d*[1-9]|/\d+)?", found, re.ASCII)
        assert number(found, "corrected") == found
        assert rule == "corrected" or number(found, rule) == found


@settings(max_examples=400, deadline=None)
@given(TEXTS, QUESTIONS, st.booleans(), st.sampled_from(RULES))
@example("The ſecond choice", AQUA, False, "corrected")
@example("thırd option, so ſo A", AQUA, False, "corrected")
def test_a_choice_is_a_letter(text: str, question: str, cut: bool, rule: str) -> None:
    found = choice(text, rule, question, cut=cut)
    assert found in ("", *"ABCDE")
    assert choice(found, rule, AQUA) == found


@settings(max_examples=600, deadline=None)
@given(TEXTS, QUESTIONS, st.booleans(), st.sampled_from(RULES), st.sampled_from(LABELS))
def test_a_label_is_one_of_the_labels(
    text: str, question: str, cut: bool, rule: str, labels: tuple[str, ...]
) -> None:
    found = label(text, rule, labels, question, cut=cut)
    assert found in ("", *labels)
    assert label(found, rule, labels) == found
    if found and rule == "corrected" and question == SIQA and labels == ANSWERS:
        assert found in ANSWERS[:3]


def find_label(text: str, rule: str, question: str) -> str:
    return label(text, rule, ANSWERS, question)


@pytest.mark.parametrize("find", [number, choice, find_label])
@pytest.mark.parametrize("question", [ASKED, AQUA, SIQA])
def test_an_echo_is_no_answer(find: Callable[[str, str, str], str], question: str) -> None:
    assert find(f"{question}\n\nThe answer is\n\n", "corrected", question) == ""
    # From "Matthew had 3" on, wherever it breaks off.
    assert {find(question[:end], "corrected", question) for end in range(13, len(question))} == {""}


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from([ASKED, AQUA, SIQA]))
def test_what_follows_an_echo_is_read_as_if_it_stood_alone(text: str, question: str) -> None:
    alone = f"{text} ### Response: 5"
    for find in (number, choice, find_label):
        echoed = find(f"{question}\n\n{alone}", "corrected", question)
        assert echoed == find(alone, "corrected", question)


REPEATED = [
    *("1", "1,", "11,", "111.", "1/", "1 ", "9/0 ", "111,111th ", "1'", "٣", "-", "$", "("),
    *("answer is ", "the answer is none. ", "answer is 5x ", "answer: ", "\\boxed{", "\\frac{"),
    *("#", "#### ", "####\n", "\n", " ", ". ", "\\", "a^", "Question :\n", "### ", "</s>"),
    *("(A)", "A. ", "(A) (B) (C) (D) (E) ", "option1 ", "option1 is ", "option1 or option2 "),
    *("option1/option2 ", "not option1 ", "so option", "answer2 is ", "true ", "yes ", "\ud800"),
    *(
        "Question: 5? ",
        "\nProblem: 977\n",
        "user\n",
        "\nassistant\n",
        "Q:",
        "one ",
        "twenty-",
        "a half ",
    ),
    *(
        "one and ",
        "1 000 000",
        "5 = ",
        "5 + ",
        "5 hours and ",
        "if it would be ",
        "<answer>",
        "5th ",
    ),
    *("A or ", "A, B, ", "either A or B. ", "cannot be ", "no. ", "Yes, ", "the second ", "! "),
    *("Matthew ", "Matthew had 32 crackers and 98 cakes. If he ", ASKED, "the answer is Sarah. "),
]
LONG = 100_000


@pytest.mark.parametrize("piece", REPEATED)
def test_a_long_completion_takes_time_in_proportion(piece: str) -> None:
    """A million characters take a few seconds; a quadratic spot would take many minutes."""
    text = (piece * (LONG // len(piece) + 1))[:LONG]
    options = f"{ASKED} Option1: Sarah Option2: Maria Answer format: option1/option2"
    readers = [
        lambda rule: number(text, rule, ASKED),
        lambda rule: choice(text, rule, AQUA),
        lambda rule: label(text, rule, ("option1", "option2"), options),
        lambda rule: label(text, rule, ("true", "false"), ASKED),
    ]
    for read in readers:
        start = time.process_time()
        for rule in RULES:
            read(rule)
        # Ten times what it takes, for a busy or slow machine; a quadratic spot takes minutes.
        assert time.process_time() - start < 2
