"""Letters and labels: the kinds on which graders disagree, several wordings of each."""

import pytest

from kdstudy.answers.extract import choice, label

RIVER = (
    "A boat needs 9 hours upstream. How long does it need for a third of the way? "
    "Answer Choices: (A) 9 hours (B) 3 hours (C) 6 hours (D) 2 hours (E) None of these"
)
INSECT = "How many legs has an ant? Answer Choices: (A) four (B) six (C) eight (D) ten (E) two"
PILL = (
    "Which one helps eyes? Answer Choices: (A) carrots (group A) (B) iron (type C) "
    "(C) salt (D) sugar (E) flour"
)
OPEN = (
    "What is x if x = y? Answer Choices: (A) 4 (B) 5 (C) 6 (D) No solution (E) Cannot be determined"
)

HEDGED = [
    ("The answer is probably B.", "B"),
    ("The answer is most likely B", "B"),
    ("The correct option is definitely (B).", "B"),
    ("Therefore, among A through E, the answer is closest to B, 3 hours.", "B"),
    ('I think the answer is "B".', "B"),
    ("The answer is clearly option B: 3 hours.", "B"),
    ("The answer is, without doubt, B.", "B"),
    ("The answer is therefore B", "B"),
    ("The answer is surely B, it can't be C or D.", "B"),
    ("The answer is likely to be B, as 9 / 3 = 3.", "B"),
]

DASHED = [
    ("Answer: B - 3 hours", "B"),
    ("Answer: B (3 hours)", "B"),
    ("B - 3 hours", "B"),
    ("B: 3 hours", "B"),
    ("B, 3 hours.", "B"),
    ("B.", "B"),
    ("(B) 3 hours", "B"),
    ("**B) 3 hours**", "B"),
    ("Answer: A - 9 hours", "A"),
    ("Answer: A (9 hours)", "A"),
    ("The answer is A: 9 hours", "A"),
    ("A - 9 hours", "A"),
    ('"B"', "B"),
]

SEVERAL = [
    ("The answer is either B or C.", ""),
    ("The answer is B or C", ""),
    ("The answer is both B and C.", ""),
    ("The answer is (B) and (C).", ""),
    ("The correct options are B, C and D.", ""),
    ("Answer: B/C", ""),
    ("Answer: B, C", ""),
    ("It is either (B) or (C).", ""),
    ("It could be B or C.", ""),
    ("The answer is between B and C.", ""),
    ("The answer is: A) 9 hours, B) 3 hours, C) 6 hours, D) 2 hours, E) None of these", ""),
    ("It can't be C or D. It is (B).", "B"),
    ("The answer is option B or option C.", ""),
    ("The answer is A or B. The answer is B.", "B"),
    ("The answer is B, C is too long.", "B"),
    ("The answer is B and not C.", "B"),
    ("The answer is B, not C.", "B"),
    ("The answer is B because A and C are too long.", "B"),
    ("Neither A nor C fits. The answer is B.", "B"),
]

BY_TEXT = [
    ("9 / 3 = 3.\n\nAnswer: 3 hours", "B"),
    ("The correct answer is 3 hours.", "B"),
    ("The answer is none of these.", "E"),
    ("3.5 hours, which is not listed.\n\nAnswer: None of these", "E"),
    ("It is 4 hours, so it must be none of these.", "E"),
    ("None of these", "E"),
    ("3 hours", "B"),
]

JUDGED = [
    ("Option C is incorrect because 6 is too long. Option B is correct.", "B"),
    ("Option B is correct. Option C is incorrect because 6 is too long.", "B"),
    ("(B) is the right choice; (C) would need twice the time.", "B"),
    ("Option A is wrong, (C) is wrong, so it is (B).", "B"),
    ("It cannot be (C) or (D). So (B).", "B"),
    ("I choose B because of the speed.", "B"),
    ("The answer is B. If the way were longer, the answer would be C.", "B"),
]


@pytest.mark.parametrize(("text", "expected"), [*HEDGED, *DASHED, *SEVERAL, *BY_TEXT, *JUDGED])
def test_letter_of_every_kind(text: str, expected: str) -> None:
    assert choice(text, "corrected", RIVER) == expected


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        (INSECT, "B, six.", "B"),
        (INSECT, "Answer: six", "B"),
        (INSECT, "The answer is six.", "B"),
        (INSECT, "The answer is four or six.", ""),
        (INSECT, "A: four", "A"),
        (INSECT, "Answer: A (four)", "A"),
        (PILL, "A) carrots (group A)", "A"),
        (PILL, "B) iron (type C)", "B"),
        (PILL, "Answer: iron (type C)", "B"),
        (PILL, "They hold vitamin A.\nIron is (type C), but carrots help: A.", "A"),
        (OPEN, "The answer cannot be determined.", "E"),
        (OPEN, "Answer: No solution", "D"),
        (OPEN, "The answer is 5.", "B"),
        (RIVER, "The answer cannot be determined, 3 hours or 6.", ""),
        (RIVER, f"{RIVER}\nP: 9 hours\nQ: 3 hours\n\nAnswer: (B)", "B"),
        (
            RIVER,
            "The answer is B.\n\n**Question 2:** Which is 6? (A) 6 (B) 7\n\nThe answer is A.",
            "B",
        ),
        (RIVER, f"user\n{RIVER}\nassistant\nThe answer is B.", "B"),
    ],
)
def test_letter_of_other_questions(question: str, text: str, expected: str) -> None:
    assert choice(text, "corrected", question) == expected


TRUTH = ("true", "false")
WHALES = (
    "Please answer the following question with true or false, question: do whales lay eggs?\n\n"
    "Answer format: true/false"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Whales are mammals.\nTherefore, the answer is most likely no.", "false"),
        ("The answer is probably false.", "false"),
        ("The answer is definitely no, as they are mammals.", "false"),
        ("The answer is a clear no.", "false"),
        ("The answer is no because they are mammals.", "false"),
        ("Whales are mammals.\n\nStep 2: Decide.\nNo, whales bear their young.", "false"),
        ("Whales are mammals. No, they do not lay eggs.", "false"),
        ("Whales are mammals.\n\nConclusion: No, they bear young.", "false"),
        ("Whales are mammals.\n\nIn conclusion, no.", "false"),
        ("Whales are mammals. So, no, they do not.", "false"),
        ("**Verdict:** False", "false"),
        ("They are mammals, so no.", "false"),
        ("I would say no.", "false"),
        ("They say no eggs were seen", ""),
        ("Whales are mammals.\n\n**Final answer:** **No**", "false"),
        ("They are mammals.\nFalse.", "false"),
        ("The answer is neither true nor false.", ""),
        ("Neither true nor false.", ""),
        ("The answer is both true and false.", ""),
        ("The answer is either true or false.", ""),
        ("The answer is unclear. It may be true of some.", ""),
        ("The answer cannot be determined. Some say it is true.", ""),
        ("The answer is not clear at first, but it is false.", "false"),
        ("The answer is false. If they were fish, the answer would be true.", "false"),
        ("There is no doubt: whales are mammals.", ""),
        ("No doubt they are mammals", ""),
        ("The answer is true. Are there exceptions? No.", "true"),
        ("The answer is false.\n\nQuestion: do hens lay eggs?\nThe answer is true.", "false"),
    ],
)
def test_truth_of_every_kind(text: str, expected: str) -> None:
    assert label(text, "corrected", TRUTH, WHALES) == expected


SOLUTION = ("solution1", "solution2")
SHOES = (
    "Please choose the correct solution to the question: How do you clean a comb?\n\n"
    "Solution1: Soak it in soap water.\n\nSolution2: Soak it in flour.\n\n"
    "Answer format: solution1/solution2"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is A.", "solution1"),
        ("The answer is (B).", "solution2"),
        ("Answer: B", "solution2"),
        ("Option A is correct.", "solution1"),
        ("Option 2 is wrong, option 1 is better.", "solution1"),
        ("The first solution is correct.", "solution1"),
        ("The correct answer is the second one.", "solution2"),
        ("The second option makes no sense. The first option is best.", "solution1"),
        ("Solution one is the best choice.", "solution1"),
        ("The correct solution is the first.", "solution1"),
        ("The 1st solution works best.", "solution1"),
        ("The answer is probably solution1.", "solution1"),
        ("The answer is most likely to be Solution 1.", "solution1"),
        ("Conclusion: solution1", "solution1"),
        ("Answer: Soak it in soap water.", "solution1"),
        ("Soak it in soap water.", "solution1"),
        ("The answer is neither solution1 nor solution2.", ""),
        ("The answer is neither.", ""),
        ("The answer is both.", ""),
        ("Both solution1 and solution2 are correct.", ""),
        ("The answer is either solution1 or solution2.", ""),
        ("The answer cannot be determined. solution1 may work.", ""),
        (
            "The answer is solution1. If it were of wood, the answer would be solution2.",
            "solution1",
        ),
        ("solution1 is correct. solution2 would be correct if flour could clean.", "solution1"),
        ("My first idea was water.", ""),
        ("A", "solution1"),
        ("1. Soak it in soap water.", "solution1"),
        ("2. Soak it in soap water.", ""),
        ("Soak it in soap water is the correct solution.", "solution1"),
        ("Solution1 or solution2", ""),
        ("It is not solution2. So solution1.", "solution1"),
        ("Solution1 and solution2 are both wrong.", ""),
        ("A comb needs soap", ""),
    ],
)
def test_label_of_every_kind(text: str, expected: str) -> None:
    assert label(text, "corrected", SOLUTION, SHOES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is answer1 or answer2.", ""),
        ("The answer is answer1, answer2.", ""),
        ("Both answer1 and answer2 are correct.", ""),
        ("The answer is answer2, not answer1.", "answer2"),
        ("answer1 or answer3", ""),
        ("It is not answer2 or answer3. It is answer1.", "answer1"),
        ("answer2 and answer3 are wrong, hence answer1.", "answer1"),
        ("The answer is C", "answer3"),
        ("The answer is the third.", "answer3"),
        ("The correct answer is sleep", "answer3"),
    ],
)
def test_label_of_three(text: str, expected: str) -> None:
    asked = (
        "Please choose the correct answer to the question: Kim was tired. What did Kim do?\n\n"
        "Answer1: run Answer2: dance Answer3: sleep\n\nAnswer format: answer1/answer2/answer3"
    )
    assert label(text, "corrected", ("answer1", "answer2", "answer3"), asked) == expected
