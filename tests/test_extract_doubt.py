"""Answers that several are named as, that are supposed, corrected, hedged or reported."""

import pytest

from kdstudy.answers import extract

NUMBERS = [
    (
        "Tom has 54 apples in 6 boxes. How many are in each box?",
        "If there were 8 boxes instead, the answer would be 7.",
        "",
    ),
    (
        "A pen costs 31 dollars. How much is it?",
        "If we had to answer in cents, the answer would be 3100.",
        "",
    ),
    (
        "Ann had 12 pens and sold 7. How many are left?",
        "If she had sold 3, the answer would be 9. 12 - 7 = 5.",
        "5",
    ),
    ("How many?", "It is either 9 or 10.", ""),
    ("How many?", "The answer is either 9 or 10.", ""),
    ("How many?", "The answer is 8 or 9.", ""),
    ("How many apples?", "There are 8 or 9 apples.", ""),
    ("Ann had 12 pens and sold 7. How many are left?", "7 sold, 12 remained, so 5 are left.", "5"),
    ("Ann had 31 pens and 8 more. How many?", "31 + 8 = 39, nearly 40.", "39"),
    ("Ann had 31 pens and 8 more. How many?", "The total is 39, nearly 40.", "39"),
    ("How many legs has a spider?", "The number is eight.", "8"),
    ("Tom had 10 cats, lost 3. How many are left?", "7 left. In 5 years, there may be 20.", "7"),
    ("How fast?", "The car goes sixty miles per hour.", "60"),
    ("How many?", "The answer is 8. No wait, it's 9.", "9"),
    ("How many?", "The answer is 8. Wait, actually it should be 9.", "9"),
    ("How many?", "The answer is 8. Correction: 9.", "9"),
    (
        "How many cats are there?",
        "5\n\nQuestion: Tom has 3 dogs and gets 4. How many dogs has he?\nAnswer: 7",
        "5",
    ),
    (
        "How many cats are there if 2 come and 3 stay?",
        "5 cats\nQuestion: How many dogs are there?\nThe answer is 8.",
        "5",
    ),
]
Q = "Who? Answer Choices: (A) dog (B) cat (C) horse (D) cow (E) pig"
QN = "How many? Answer Choices: (A) 5 (B) 8 (C) 9 (D) 10 (E) 12"
CHOICES = [
    (Q, "most likely C", "C"),
    (Q, "Probably C", "C"),
    (Q, "I think C", "C"),
    (Q, "Most likely C.", "C"),
    (Q, "C is wrong, B is wrong, so A", "A"),
    (Q, "C is wrong, B is wrong, so A.", "A"),
    (Q, "The third option", "C"),
    (Q, "I'd choose the third option.", "C"),
    (Q, "The second option is correct.", "B"),
    (Q, "It's Al", ""),
    (Q, "It's a dog", "A"),
    (Q, "If the question were about size, the answer would be C.", ""),
    (Q, "I would not choose option C", ""),
    (Q, "The answer is B. No wait, it's C.", "C"),
    (Q, "C\n\nQuestion: What? Answer Choices: (A) x (B) y (C) z (D) w (E) v\nAnswer: B", "C"),
]
TF = ("true", "false")
O2 = ("option1", "option2")
A3 = ("answer1", "answer2", "answer3", "answer4", "answer5")
LABELS = [
    ("Is it?", "It would be true if it rained.", TF, ""),
    ("Is it?", "Some say yes, but it's false.", TF, "false"),
    ("Is it?", "Some say it's true, but it is false.", TF, "false"),
    (
        "Which? option1: x option2: y Answer format: option1/option2",
        "I would not choose option1",
        O2,
        "",
    ),
    (
        "Which? option1: x option2: y Answer format: option1/option2",
        "I would not choose option1, but option2.",
        O2,
        "option2",
    ),
    (
        "Which? answer1: x answer2: y answer3: z Answer format: answer1/answer2/answer3",
        "answer2 and answer3 are both possible",
        A3,
        "",
    ),
    (
        "Which? answer1: x answer2: y answer3: z Answer format: answer1/answer2/answer3",
        "Either answer2 or answer3",
        A3,
        "",
    ),
    (
        "Which? option1: x option2: y Answer format: option1/option2",
        "The answer is option1. No wait, it's option2.",
        O2,
        "option2",
    ),
]


@pytest.mark.parametrize(("question", "text", "right"), NUMBERS)
def test_numbers(question, text, right):
    found = extract.number(text, "corrected", question)
    assert extract.same_number(found, right, "corrected") if right else found == ""


@pytest.mark.parametrize(("question", "text", "right"), CHOICES)
def test_choices(question, text, right):
    assert extract.choice(text, "corrected", question) == right


@pytest.mark.parametrize(("question", "text", "labels", "right"), LABELS)
def test_labels(question, text, labels, right):
    assert extract.label(text, "corrected", labels, question) == right
