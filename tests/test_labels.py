"""Labels: what the released code takes, what a model states, and what is no answer."""

import pytest

from kdstudy.answers.extract import label

OPTION = ("option1", "option2")
SURGEON = (
    "Please choose the correct answer to fill in the blank to complete the given sentence: "
    "Sarah was a much better surgeon than Maria so _ always got the easier cases.\n\n"
    "Option1: Sarah Option2: Maria Answer format: option1/option2"
)
ANSWER = tuple(f"answer{n}" for n in range(1, 6))
PLANET = (
    "Please choose the correct answer to the question: What follows if a planet rotates faster?\n\n"
    "Answer1: Planetary density will decrease. Answer2: Planetary years will become longer. "
    "Answer3: Planetary days will become shorter.\n\nAnswer format: answer1/answer2/answer3"
)
ENDING = tuple(f"ending{n}" for n in range(1, 5))
ROOF = (
    "Please choose the correct ending to complete the given sentence: A man is on a roof. he\n\n"
    "Ending1: is using wrap. He then skis. Ending2: is ripping tiles off. Ending3: is using wrap. "
    "Ending4: starts.\n\nAnswer format: ending1/ending2/ending3/ending4"
)
TRUTH = ("true", "false")
ETHANOL = (
    "Please answer the following question with true or false, question: does ethanol take more "
    "energy make that produces?\n\nAnswer format: true/false"
)
COUNT = (
    "Please choose the correct answer to the question: How many legs has a cat?\n\n"
    "Answer1: 2 Answer2: 4 Answer3: 3\n\nAnswer format: answer1/answer2/answer3"
)

SURGEONS = [
    # Stated by name.
    ("the correct answer is option2", "option2"),
    ("The correct answer is Option2.", "option2"),
    ("Answer: Option 2", "option2"),
    ("Answer: option2. Sarah gets the hard cases, and option1 names her.", "option2"),
    ("**Answer:** **Option 2**", "option2"),
    ("The answer is **option_2**", "option2"),
    ("The correct option is: 2", "option2"),
    ("The answer is $\\boxed{\\text{option2}}$.", "option2"),
    ("\\boxed{2}", "option2"),
    ("#### option2", "option2"),
    ("Option: 2", "option2"),
    ("option2 is correct, while option1 is the common mistake", "option2"),
    ("Option 2 is the best choice.", "option2"),
    ("**Option2** makes the most sense.", "option2"),
    ("I would go with option2.", "option2"),
    ("Sarah is better, so option2", "option2"),
    ("```\noption2\n```", "option2"),
    ("ｏｐｔｉｏｎ２", "option2"),
    ("option٢", "option2"),
    # Stated by number.
    ("The answer is 2.", "option2"),
    ("The answer is (2).", "option2"),
    ("The answer is number 2, because Maria ...", "option2"),
    ("2", "option2"),
    ("(2)", "option2"),
    ("**2.**\n\nMaria got the easier cases.", "option2"),
    ("The answer is 2.5", ""),
    ("The answer is 2 surgeons", ""),
    ("1. Sarah is a better surgeon.\n2. So it is clear.", ""),
    # Stated by the option's text.
    ("The correct answer is Maria.", "option2"),
    ("The correct answer is:\n\n**Maria**", "option2"),
    ("The answer is Maria, since Sarah is better.", "option2"),
    ("The answer is Maria because of option1", "option2"),
    ("maria", "option2"),
    ("Maria.\n\nShe is no good surgeon.", "option2"),
    ("Maria got the easier cases.", ""),
    ("The answer is Maria's.", ""),
    ("The answer is a surgeon", ""),
    # The last statement, and in it the first label.
    ("The answer is option1. No, wait. The answer is option2.", "option2"),
    ("The answer is option2, not option1.", "option2"),
    ("The answer is option1 or rather option2", "option1"),
    ("option1 is correct. But the final answer is option2", "option2"),
    ("The answer is option2. Therefore option1.", "option1"),
    # Denied, or judged wrong.
    ("not option1 but option2", "option2"),
    ("The answer is not option1 but option2", "option2"),
    ("The answer cannot be option1, so it must be option2", "option2"),
    ("The answer cannot be Sarah", ""),
    ("It isn't option1. Then option2.", "option2"),
    ("Option1 is incorrect. Option2 stays.", "option2"),
    ("option1 doesn't fit; option2", "option2"),
    ("option2 is better than option1", "option2"),
    ("option2 is right because it does not contradict the sentence", "option2"),
    ("option1 is not correct", ""),
    # No statement: the first one named outside a list of both.
    ("Option2: Maria", "option2"),
    ("option2 and then maybe option1", "option2"),
    ("option1/option2", ""),
    ("Answer format: option1/option2", ""),
    ("Answer format: option1/option2 the correct answer is option2", "option2"),
    ("option1 or option2? Hm, option2 it is", "option2"),
    ("Option1: Sarah Option2: Maria", ""),
    ("Option1: Sarah\nOption2: Maria\n\nThe answer is option2", "option2"),
    (SURGEON, ""),
    (f"{SURGEON}\n\nthe correct answer is option2", "option2"),
    (SURGEON[: len(SURGEON) * 2 // 3], ""),
    # Another turn.
    ("option2\n\n### Instruction:\nthe correct answer is option1", "option2"),
    ("option2\nQuestion: what? The answer is option1", "option2"),
    # Nothing.
    ("", ""),
    ("I do not know.", ""),
    ("option3", ""),
    ("option12", ""),
    ("adoption1", ""),
    ("(B)", ""),
]


@pytest.mark.parametrize(("text", "expected"), SURGEONS)
def test_corrected_label_of_two_options(text: str, expected: str) -> None:
    assert label(text, "corrected", OPTION, SURGEON) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct answer is answer3", "answer3"),
        ("Answer3", "answer3"),
        ("Answer 3: Planetary days will become shorter.", "answer3"),
        ("answer3 is correct", "answer3"),
        ("The answer is 3", "answer3"),
        ("Planetary days will become shorter.", "answer3"),
        ("The correct answer is that planetary days will become shorter", ""),
        ("the correct answer is answer4", ""),
        ("the correct answer is answer4, or answer3", "answer3"),
        ("Answer1: no. Answer2: no. Answer3: yes. So answer3.", "answer3"),
        ("answer1, answer2, and answer3 are all possible", ""),
        ("answer1/answer2/answer3/answer4/answer5", ""),
        ("answer1/answer2", ""),
        ("answer2 and answer3 are both possible", ""),
        ("Answer: The days", ""),
    ],
)
def test_corrected_label_of_a_benchmark_with_more_labels_than_the_item(
    text: str, expected: str
) -> None:
    assert label(text, "corrected", ANSWER, PLANET) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct ending is ending2", "ending2"),
        ("The most fitting ending is: is ripping tiles off.", "ending2"),
        ("The answer is: is using wrap. He then skis.", "ending1"),
        ("The answer is: is using wrap.", "ending3"),
        ("Ending 4", "ending4"),
        ("ending5", ""),
    ],
)
def test_an_options_text_may_have_several_sentences(text: str, expected: str) -> None:
    assert label(text, "corrected", ENDING, ROOF) == expected


def test_an_option_whose_text_another_has_too_is_not_named_by_it() -> None:
    same = SURGEON.replace("Option2: Maria", "Option2: sarah.")
    assert label("The answer is Sarah", "corrected", OPTION, same) == ""
    assert label("The answer is option1", "corrected", OPTION, same) == "option1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is answer2", "answer2"),
        ("The answer is 4", "answer2"),  # no answer4 is offered
        ("The answer is 3", "answer3"),  # number and text of the same one
        ("The answer is 2", ""),  # the number of one, the text of another
        ("2", ""),
        ("4", "answer2"),
    ],
)
def test_a_number_that_is_also_an_options_text(text: str, expected: str) -> None:
    assert label(text, "corrected", ANSWER, COUNT) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct answer is true", "true"),
        ("False.", "false"),
        ("The answer is **False**", "false"),
        ("The answer is no.", "false"),
        ("Answer: Yes", "true"),
        ("Yes, it takes more.", "true"),
        ("No. It is true that it takes some.", "false"),
        ("No one knows", ""),
        ("There is no evidence, yes", ""),
        ("It is not true.", "false"),
        ("It isn't true that it takes more.", "false"),
        ("The statement is false, but it is true of diesel.", "false"),
        ("It is untrue", ""),
        ("true/false", ""),
        ("True or false? Surely false", "false"),
        ("Is it true or false?", ""),
        ("The answer is true. The answer is false.", "false"),
        ("\\boxed{\\text{False}}", "false"),
        (ETHANOL, ""),
        (f"{ETHANOL} the correct answer is true", "true"),
    ],
)
def test_corrected_truth(text: str, expected: str) -> None:
    assert label(text, "corrected", TRUTH, ETHANOL) == expected
    swapped = label(text, "corrected", TRUTH[::-1], ETHANOL)
    assert swapped == expected


def test_labels_of_ones_own() -> None:
    mood = ("positive", "negative", "very negative")
    assert label("Answer: Very negative", "corrected", mood) == "very negative"
    assert label("It is negative, not positive", "corrected", mood) == "negative"
    assert label("nonnegative", "corrected", mood) == ""
    assert label("positive, negative, or very negative?", "corrected", mood) == ""
    assert label("Answer: positive", "corrected", ()) == label("x", "reference", ()) == ""
    assert label("Yes.", "corrected", ["yes", "no"]) == "yes"
    assert label("The answer is false.", "corrected", ["yes", "no"]) == "no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct answer is option2", ""),
        ("the correct answer is option2 and", ""),
        ("the correct answer is option2. Now", "option2"),
        ("the correct answer is option2\n", "option2"),
        ("\\boxed{option2}", "option2"),
        ("option2 is the best choice. It", "option2"),
        ("option2 is the best choice", ""),
        ("option2. It seems that", ""),
        ("option2", ""),
        ("The answer is Maria. And", "option2"),
        ("The answer is option2 ### Instruction: What", "option2"),
    ],
)
def test_a_cut_text_answers_only_by_a_closed_statement(text: str, expected: str) -> None:
    assert label(text, "corrected", OPTION, SURGEON, cut=True) == expected


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", OPTION, ""),
        ("not option1 but option2", OPTION, "option1"),
        ("Option2", OPTION, ""),
        ("option 2", OPTION, ""),
        ("option12", OPTION, "option1"),
        ("adoption2", OPTION, "option2"),
        ("option1 ### Response: option2", OPTION, "option1"),
        ("### Response: option2", OPTION, ""),
        ("this is untrue", TRUTH, "true"),
        ("False, so not true", TRUTH, "true"),
        ("answer4", ANSWER[:3], "answer4"),  # the released code knows five everywhere
        ("answer6", ANSWER, ""),
        ("ending5 or ending4", ENDING, "ending4"),
    ],
)
def test_reference_label_is_the_first_in_the_text(
    text: str, labels: tuple[str, ...], expected: str
) -> None:
    assert label(text, "reference", labels, SURGEON) == expected
    assert label(text, "reference", labels, cut=True) == expected
