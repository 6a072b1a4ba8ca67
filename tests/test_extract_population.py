"""The rule over a population of made solutions with known answers, in many styles.

The styles in `HARMFUL` are those in which a rule about numbers of the question could do harm: the
answer is one of them, or two numbers are new.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kdstudy.answers.extract import number

NAMES = ("Ana", "Ben", "Chloe", "Dev", "Emma", "Farid")
THINGS = ("apples", "marbles", "stamps", "cards", "pencils")


@dataclass(frozen=True)
class Item:
    name: str
    thing: str
    a: int
    b: int
    question: str
    equation: str
    gold: int


def items(n: int) -> list[Item]:
    rng = random.Random(7)
    made = []
    for _ in range(n):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        b = rng.randint(2, 30)
        if rng.random() < 0.5:
            a = b * rng.randint(2, 40)
            asked = f"{name} packs {a} {thing} into boxes of {b}. How many boxes does {name} need?"
            made.append(Item(name, "boxes", a, b, asked, f"{a} / {b} = {a // b}", a // b))
        else:
            a = rng.randint(b + 1, 400)
            asked = f"{name} had {a} {thing} and gave {b} away. How many {thing} are left?"
            made.append(Item(name, thing, a, b, asked, f"{a} - {b} = {a - b}", a - b))
    return made


Style = Callable[[Item], str]
STYLES: dict[str, Style] = {
    "equation": lambda i: i.equation,
    "phrase": lambda i: f"{i.equation}. The answer is {i.gold}.",
    "phrase with unit": lambda i: f"{i.equation}. The answer is {i.gold} {i.thing}.",
    "hashes": lambda i: f"{i.equation}\n#### {i.gold}",
    "calculator": lambda i: f"<<{i.equation.replace(' ', '')}>>{i.gold} {i.thing}\n#### {i.gold}",
    "box": lambda i: f"{i.equation}, so $\\boxed{{{i.gold}}}$ for {i.b}.",
    "box with text": lambda i: f"$\\boxed{{{i.gold} \\text{{ {i.thing}}}}}$",
    "json": lambda i: f'{{"reasoning": "{i.equation}", "answer": "{i.gold}"}}',
    "json number": lambda i: f'{{"reasoning": "{i.equation}", "answer": {i.gold}}}',
    "json sentence": lambda i: f'{{"answer": "{i.gold} {i.thing} of {i.a}"}}',
    "fence": lambda i: f"```python\nprint({i.a}, {i.b})\n```\n```output\n{i.gold}\n```",
    "fence, sentence": lambda i: (
        f"```output\n{i.gold}\n```\n{i.gold} {i.thing} for {i.a} and {i.b}."
    ),
    "bold": lambda i: f"**Answer:** **{i.gold}**",
    "bare": lambda i: f"{i.gold}",
    "float": lambda i: f"The answer is {i.gold}.0.",
    "heading": lambda i: f"### Solution\n{i.equation}\n\n### Answer\n{i.gold}",
    "sentence": lambda i: f"{i.name} has {i.gold} {i.thing}.",
    "sentence, given last": lambda i: f"{i.name} has {i.gold} {i.thing} from {i.a} with {i.b}.",
    "sentence, given first": lambda i: f"With {i.a} and {i.b}, {i.name} has {i.gold} {i.thing}.",
    "answer sentence": lambda i: (
        f"{i.equation}\n\nAnswer: {i.name} has {i.gold} {i.thing} of {i.a}."
    ),
    "phrase, sentence": lambda i: f"The answer is:\n\n{i.name} has {i.gold} {i.thing} for {i.b}.",
    "equation, given last": lambda i: f"So {i.equation} {i.thing} for {i.b}.",
    "because": lambda i: f"{i.name} has {i.gold} {i.thing} because {i.equation}.",
    "steps": lambda i: f"Step 1: take {i.a} and {i.b}.\nStep 2: {i.equation}.",
    "list": lambda i: f"1. Given: {i.a}\n2. Given: {i.b}\n3. Result: {i.equation}",
    "denied": lambda i: f"The answer is {i.gold}, not {i.a}.",
    "corrected": lambda i: f"The answer is {i.a}. Wait, no. The answer is {i.gold}.",
    "check behind": lambda i: f"The answer is {i.gold}. Check: {i.a} and {i.b} were given.",
    "supposed": lambda i: f"The answer is {i.gold}. If there were 977, the answer would be 911.",
    "run-on": lambda i: f"The answer is {i.gold}.\n\nProblem: Bo had 977.\n\nThe answer is 911.",
    "few-shot run-on": lambda i: (
        f"The answer is {i.gold}.\n\nQ: Bo had 977.\nA: The answer is 911."
    ),
    "restated": lambda i: f"Question: {i.question}\n{i.equation}\nThe answer is {i.gold}.",
    "heading inside": lambda i: (
        f"Problem: find the {i.thing}.\n\n{i.equation}\n\\boxed{{{i.gold}}}"
    ),
    "transcript": lambda i: f"user\n{i.question}\nassistant\n{i.equation}",
    "next turn": lambda i: f"The answer is {i.gold}.\nuser\nAnd for 977?\nassistant\n911",
    "think": lambda i: f"<think>The answer is {i.a}? No.</think>\n\nThe answer is {i.gold}.",
    "tag": lambda i: f"{i.equation} <answer>{i.gold}</answer>",
    "LaTeX": lambda i: f"\\[ {i.equation} \\]\n\nThus, {i.name} has {i.gold} {i.thing}.",
}
HARMFUL: dict[str, Style] = {
    "two new numbers": lambda i: f"{i.name} uses 3907 bags, so {i.gold} {i.thing} it is.",
    "two new, given last": lambda i: f"After 3907 steps {i.gold} {i.thing} are left of {i.a}.",
    "new number first": lambda i: f"After 3907 steps the answer is {i.gold}.",
    "in another unit": lambda i: f"{i.gold * 12} inches. In feet, the answer is {i.gold}.",
}


def equal_to_a_given(item: Item) -> bool:
    return item.gold in (item.a, item.b)


@pytest.mark.parametrize("style", [*STYLES, *HARMFUL])
def test_every_style_is_read_right(style: str) -> None:
    write = {**STYLES, **HARMFUL}[style]
    made = [item for item in items(300) if not equal_to_a_given(item)]
    wrong = Counter(
        number(write(item), "corrected", item.question) == str(item.gold) for item in made
    )
    assert wrong[False] == 0


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_that_is_a_number_of_the_question_is_read_right_where_it_can_be(
    style: str,
) -> None:
    """Ten cards, five given away: what is left is a number of the question."""
    for b in range(2, 60):
        asked = f"Ana had {2 * b} cards and gave {b} away. How many cards are left?"
        item = Item("Ana", "cards", 2 * b, b, asked, f"{2 * b} - {b} = {b}", b)
        assert number(STYLES[style](item), "corrected", item.question) == str(b)
