"""Extraction of numbers: a table of real and nasty completions."""

import pytest

from kdstudy.answers.extract import number, same_number

REPEATING = "0.6666666666666666"
QUESTION = (
    "Matthew had 32 crackers and 98 cakes. If he gave equal numbers of both to his 4 friends, "
    "how many crackers did each person eat?"
)
CORRECTED = [
    # A plain last number, and what surrounds it.
    ("", ""),
    ("I do not know.", ""),
    ("12.", "12"),
    ("\nA: 13 + 17 = 30 books. The answer is 15.", "15"),
    ("so he has 5 apples and 3 pears left", "3"),
    ("He ate 12.50 dollars' worth", "12.5"),
    ("total: .5", "0.5"),
    ("so...5", "5"),
    ("5 apples.7", "7"),
    ("007", "7"),
    ("-0", "0"),
    ("0.670", "0.67"),
    # Separators, currency, percent, units.
    ("That is $1,234.50.", "1234.5"),
    ("That is 1,000,000 people", "1000000"),
    ("He pays Rs. 1,00,000", "100000"),
    ("That is Rs.4400.", "4400"),
    ("it costs 1\u202f234\u00a0567 euros", "1234567"),
    ("it costs 1'234'567 francs", "1234567"),
    ("it costs 1{,}000", "1000"),
    ("it costs €5", "5"),
    ("the total is 1.234", "1.234"),  # a point is a decimal point,
    ("the total is 1.234,50", "1234.5"),  # unless a decimal comma follows it
    ("the total is 1.234.567,5 euros", "1234567.5"),
    ("the numbers are 0.5,0.25", "0.25"),
    ("He pays 400 000 and 9 500", "500"),  # a list of numbers looks the same,
    ("He pays 9 500. The answer is $9 500.", "9500"),  # a statement holds one number
    ("The answer is 1 234 567 people", "1234567"),
    ("The answer is 5 100-dollar bills", "5"),
    ("The answer is 10 2000 times", "10"),
    ("the chance is 33%.", "33"),
    ("the chance is 12.5 percent", "12.5"),
    ("the chance is 33\\%.", "33"),
    ("the area is 5 cm^2", "5"),
    ("the area is $5\\text{ cm}^2$", "5"),
    ("the area is 5 cm²", "5"),
    ("runs at 60 km/h", "60"),
    ("5kg", "5"),
    ("numbers 3,5", "5"),
    ("he came 5th, with 40 points, on the 3rd day", "40"),
    ("carbon dioxide CO2", ""),
    ("x_1 = 7 and x_{2}", "7"),
    ("version 1.2.3", "1.2"),
    # Signs: a minus, a hyphen, a range, a subtraction.
    ("5-3", "3"),
    ("5 - 3", "3"),
    ("5 -3", "3"),
    ("5–3", "3"),
    ("10-15 apples", "15"),
    ("Covid-19", "19"),
    ("-3", "-3"),
    ("−3", "-3"),
    ("it is -3 degrees", "-3"),
    ("x = -3", "-3"),
    ("x = - 3", "-3"),
    ("2 * -3", "-3"),
    ("a loss of -$5", "-5"),
    ("a loss of $-5", "-5"),
    ("(-5)", "-5"),
    ("--5", "5"),
    ("- 5 apples", "5"),
    ("3 - (-5)", "-5"),
    ("from -5 to -3", "-3"),
    # Fractions, mixed numbers, powers of ten.
    ("he ate 2/3 of it", "2/3"),
    ("he ate 4/6 of it", "2/3"),
    ("he ate 1/2 of it", "0.5"),
    ("he ate -1/3", "-1/3"),
    ("he ate 2 1/2 cakes", "2.5"),
    ("he ate 2½ cakes", "2.5"),
    ("he ate ½", "0.5"),
    ("he ate \\frac{2}{3}", "2/3"),
    ("he ate -\\dfrac{2}{3}", "-2/3"),
    ("he ate 2\\frac{1}{2}", "2.5"),
    ("he ate 6\\times\\frac{1}{2}", "0.5"),
    ("he ate \\frac12", "0.5"),
    ("it is 30 / 5", "6"),
    ("it is 5/0", ""),
    ("1e3", "1000"),
    # Other scripts.
    ("الجواب ٣٤٫٥", "34.5"),
    ("उत्तर १२ है", "12"),
    ("答案是５６个", "56"),
    ("𝟙𝟚", "12"),
    ("答案是四十", ""),  # words are no digits, in any language
    ("The answer is １，２３４．５", "1234.5"),
    ("উত্তর: ৪৫", "45"),
    # A stated answer comes before a last number, and the last statement counts.
    ("The answer is 72. He sold 48 in April.", "72"),
    ("The answer is: 72", "72"),
    ("The answer is:\n\n72\n\nCheck: 70 + 2", "72"),
    ("**Answer:** 72", "72"),
    ("Final Answer: $72 per week", "72"),
    ("The answer, in dollars, is $1,072.50.", "1072.5"),
    ("The answer is **72**.", "72"),
    ("The final answer is $\\boxed{72}$.", "72"),
    ("so \\boxed{\\frac{2}{3}} of 9", "2/3"),
    ("\\boxed{x = 5} as 2 + 3", "5"),
    ("the box \\boxed{12", "12"),
    ("48/2 = <<48/2=24>>24\n#### 72", "72"),
    ("#### 1,072\n\nSome 5 more words", "1072"),
    ("#### Step 1: add 5 and 3\n5 + 3 = 8", "8"),
    ("The answer is 5. No, wait. The answer is 7. I used 2 steps", "7"),
    ("The answer is 4 * 5 = 20.", "20"),
    ("The answer is 2/3 ≈ 0.67.", "0.67"),
    ("The answer is 7 because 3 + 4 = 9.", "7"),
    ("The answer is 7, not 8.", "7"),
    ("The answer is 2 eggs and 1 marble per group.", "2"),
    ("The answer is, therefore, 5", "5"),
    ("The answer is 6th.", "6"),
    ("The answer is -5.", "-5"),
    ("The answer is unknown. He has 5.", "5"),
    ("The answer is found by adding 5 and 3. That gives 8", "8"),
    ("The answer is not 5. It is 6", "6"),
    ("The answer is not 5 but 6", "6"),
    ("The answer cannot be 5. It is 6 or so", "6"),
    ("He has 6, not 5", "6"),
    ("He has 6 rather than 5.", "6"),
    ("It isn't 5", ""),
    ("```python\nprint(3 * 4)\n```\nOutput: 12", "12"),
    ("```\nanswer = 12\n```\nas 3 * 4 = 12 and 5 are left", "12"),
    ("The answer is `12`", "12"),
    ("The answer is either 5 or 6", ""),
    ("Answer: He has 5 apples. He eats 2, so 3 are left", "3"),
    ("Answer: He has 5 apples and eats 2, which leaves 3.", "3"),
    ("Answer: 5 - 2 = 3. He then has 3 + 1 = 4.", "4"),
    ("Answer:\n\nStep 1: 5 + 3 = 8\nStep 2: 8 * 2 = 16", "16"),
    ("The answer is as follows:\n\nHe has 5. He gets 3 more, so 8", "8"),
    ("To answer this, note that he is 5 and in 3 years will be 8", "8"),
    ("Each correct answer is worth 4 points. He gets 80 points", "80"),
    # The model goes on to another turn.
    ("The answer is 5.\n\n### Instruction:\nTom has 9. ### Response: The answer is 9.", "5"),
    ("It is 5.\nQuestion: Tom has 9 cats.", "5"),
    ("It is 5. Question: Tom has 9 cats.", "5"),
    ("It is 5\nQ: Tom has 9 cats.", "5"),
    ("It is 5<|im_end|>\n9", "5"),
    ("### Response:\nIt is 5", "5"),
]


@pytest.mark.parametrize(("text", "expected"), CORRECTED)
def test_corrected_number(text: str, expected: str) -> None:
    assert number(text, "corrected") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (QUESTION, ""),
        (QUESTION[: len(QUESTION) // 2], ""),
        (f"8. {QUESTION}", "8"),
        (f"{QUESTION}\n{QUESTION}", ""),
        (f"Question: {QUESTION}\nAnswer: 8", "8"),
        (f"### Instruction:\n{QUESTION}\n\n### Response:\nHe ate 8 of them", "8"),
        ("MATTHEW  had 32 crackers\nand 98 cakes . If he gave", ""),
        ("Matthew had 32 crackers", ""),
        ("Matthew had 32 crackers. 32 / 4 = 8", "8"),
        (f"8 of them. {QUESTION[:60]}", "8"),
    ],
)
def test_a_number_of_the_echoed_question_is_no_answer(text: str, expected: str) -> None:
    assert number(text, "corrected", QUESTION) == expected


def test_a_short_question_takes_nothing_away() -> None:
    assert number("5", "corrected", "5") == "5"
    assert number("5+3=8", "corrected", "5+3=") == "8"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 12", ""),  # 12 may have been the start of 125
        ("The answer is 12.", ""),  # or of 12.5
        ("The answer is 12. The next", "12"),
        ("The answer is 12\n", "12"),
        ("\\boxed{12}", "12"),
        ("\\boxed{12", ""),
        ("#### 12", ""),
        ("#### 12\n", "12"),
        ("The answer is 12. The answer is 1", "12"),
        ("so he has 12 apples. Then", ""),
        ("The answer is 12. Question: What", "12"),
        ("The answer is 12 ### Instruction: What", "12"),
        ("It is 12. Question: What", ""),
    ],
)
def test_a_cut_text_answers_only_by_a_closed_statement(text: str, expected: str) -> None:
    assert number(text, "corrected", cut=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("The answer is 72. He sold 48.", "48"),
        ("5-3", "-3"),
        ("1,234", "1234"),
        ("3, 4", "4"),
        ("2/3", "3"),
        ("12.", "12"),
        ("−3", "3"),
        ("it is 7 ### Response: 9", "7"),
        ("٣", "3"),
    ],
)
def test_reference_number_is_the_last_match(text: str, expected: str) -> None:
    assert number(text, "reference") == expected


def test_reference_tolerance_is_absolute() -> None:
    assert same_number("0.667", REPEATING, "reference")
    assert not same_number("0.67", REPEATING, "reference")
    assert same_number("5.0009", "5", "reference")
    assert not same_number("5.001", "5", "reference")  # in floats, as released, 0.0010000000000003
    assert not same_number("", "", "reference")
