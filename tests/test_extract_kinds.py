"""Numbers: the kinds of completion on which graders disagree, several wordings of each.

Every case is (question, completion, answer); "" is no answer. Near misses, where the opposite is
right, stand beside the kind.
"""

import pytest

from kdstudy.answers.extract import number

BOXES = "Lena packs pears into crates of 8. She has 96 pears. How many crates does she need?"
TAXI = "A ferry costs $3 plus $4 per stop. Ines rides 6 stops. How many dollars does she pay?"
TICKETS = "Omid buys 7 child tickets and 7 adult tickets at $5 each. How much are all 14 tickets?"
AGES = "Two brothers are 12 and 15 years old. In how many years is the elder one 20?"
HOURS = "A course has 5 films of 45 minutes. How many hours does it take?"
MINUTES = "A course has 5 films of 45 minutes. How many minutes does it take?"
RACE = "Ivo is second, falls back 4 places and passes 1 runner. In what place is he?"
SHARE = "Three of twelve eggs are brown. What percent of the eggs are brown?"
RUN_ON = "How many legs have 11 spiders and 2 cats?"

REPEATS_THE_QUESTION = [
    (BOXES, "96 / 8 = 12\n\nAnswer: Lena needs 12 crates to pack 96 pears.", "12"),
    (BOXES, "Lena needs 12 crates for her 96 pears.", "12"),
    (BOXES, "To pack 96 pears in crates of 8, Lena needs 12 crates, since each holds 8.", "12"),
    (
        BOXES,
        "96 / 8 = 12.\n\n**Final Answer:**\nLena needs **12** crates to pack **96** pears.",
        "12",
    ),
    (
        BOXES,
        "```output\n12\n```\nWith 96 pears and crates of 8, 12 crates are used for all 96.",
        "12",
    ),
    (BOXES, '{"reasoning": "96/8", "answer": "She needs 12 crates for 96 pears"}', "12"),
    (BOXES, "The answer is that 96 pears fill 12 crates of 8.", "12"),
    (BOXES, "The final answer is:\n\n96 pears fill 12 crates.", "12"),
    (BOXES, "Crates of 8 for 96 pears: 96 / 8 = 12 crates of 8.", "12"),
    (BOXES, "She needs twelve crates to pack 96 pears.", "12"),
    (TAXI, "The answer is 27 dollars for 6 stops.", "27"),
    (
        TAXI,
        "6 stops cost 6 x 4 = 24 dollars, so with the $3 she pays 24 + 3 = 27 dollars for 6 stops.",
        "27",
    ),
    (
        TICKETS,
        "The answer (arabic numerals) is\n\nOmid pays $70 for 7 child and 7 adult tickets.",
        "70",
    ),
    # The answer is a number of the question.
    (AGES, "20 - 15 = 5 years. He is 15, so the answer is 5.", "5"),
    (
        "Ann has 9 pens, Bo has 4. How many must Bo buy to have 9 as well, and then 4 more?",
        "She buys 9 - 4 = 5, then 5 + 4 = 9 pens.",
        "9",
    ),
    (
        "Ann has 12 pens and buys 6. She gives 6 away. How many has she?",
        "12 + 6 = 18, and of the 18 pens 18 - 6 = 12 are left.",
        "12",
    ),
    ("A box of 10 pens costs $5. How much are 10 pens?", "The answer is $5 for 10 pens.", "5"),
    # Two numbers that the question lacks: that of what is asked for, else the last one.
    (BOXES, "So there are 12 crates and 0 pears left.", "12"),
    (BOXES, "So there are 0 pears left in 12 crates.", "12"),
    (BOXES, "So 12 are full and 0 are left over.", "0"),
    (TAXI, "She pays $27 and makes 5 trips of 6 stops.", "27"),
    # A check behind the answer.
    (BOXES, "She needs 12 crates because 12 times 8 is 96.", "12"),
]

OTHER_UNIT = [
    (SHARE, "The answer (as a fraction) is 1/4. The answer (in percent) is 25%.", "25"),
    (SHARE, "The answer in percent is 25%.\nThe answer as a decimal is 0.25.", "25"),
    (HOURS, "The answer is 225 minutes. In hours, the answer is 3.75 hours.", "3.75"),
    (HOURS, "The answer in hours is 3.75. The answer in minutes is 225.", "3.75"),
    (MINUTES, "The answer in hours is 3.75. The answer in minutes is 225.", "225"),
    (MINUTES, "The answer is 225 minutes. The answer in hours is 3.75.", "225"),
    (TAXI, "The answer is 27 dollars. The answer in cents is 2700.", "27"),
    # No restatement but a correction.
    (TAXI, "The answer is 24. No, the answer is 27.", "27"),
    (MINUTES, "The answer is 22500. Wait, I misplaced a zero: the answer is 225.", "225"),
]

IN_WORDS = [
    (BOXES, "The answer is twelve.", "12"),
    (BOXES, "Answer: Twelve crates", "12"),
    (BOXES, "Twelve crates are needed for the 96 pears.", "12"),
    (BOXES, "96 pears in crates of 8: she needs twelve crates.", "12"),
    (BOXES, "Twelve.", "12"),
    (BOXES, "The answer is thirty-five crates.", "35"),
    (BOXES, "The answer is two hundred and fifty-four.", "254"),
    (BOXES, "The answer is one hundred twenty", "120"),
    (BOXES, "The answer is three and a half.", "3.5"),
    (BOXES, "\\boxed{\\text{twelve}}", "12"),
    (BOXES, "#### twelve", "12"),
    # No counts.
    (BOXES, "One way is to divide: 96 / 8 = 12.", "12"),
    (BOXES, "It takes two steps. First 96 / 8 = 12. No step is left, and both are simple.", "12"),
    (BOXES, "I have one question.", ""),
    (BOXES, "The answer is one of the numbers above.", ""),
]

NO_ANSWER = [
    (BOXES, "There are 96 pears. The answer cannot be determined.", ""),
    (BOXES, "There are 96 pears.\n\nAnswer: Cannot be determined", ""),
    (BOXES, "96 / 8 = 12 but this may differ.\n#### not enough information", ""),
    (BOXES, "96 / 8 is hard.\n\\boxed{\\text{undefined}}", ""),
    (BOXES, '{"reasoning": "12 is too small", "answer": "unknown"}', ""),
    (BOXES, "12 pears fit. The answer is infinitely many.", ""),
    (BOXES, "12 pears fit. The final answer is: there is no solution.", ""),
    (BOXES, "She has 96 pears. It is impossible to determine how many crates she needs.", ""),
    (BOXES, "She has 96 pears, and 12 may rot. There is not enough information to answer.", ""),
    (BOXES, "12 crates? The answer is not known.", ""),
    (BOXES, "She has 12 pears.\n\nAnswer: unknown", ""),
    # There is one after all.
    (
        BOXES,
        "At first the answer cannot be determined. But crates hold 8, so the answer is 12.",
        "12",
    ),
    (BOXES, "The answer cannot be 11. It is 12.", "12"),
    (BOXES, "The price cannot be determined, but she needs 12 crates.", "12"),
]

SUPPOSED = [
    (TAXI, "The answer is 27. If she rode 9 stops, the answer would be 39.", "27"),
    (TAXI, "#### 27\n\nNote: had the question asked for cents, the answer would be 2700.", "27"),
    (TAXI, "\\boxed{27}\n\nIf tips were included, the final answer would be different: 30.", "27"),
    (TAXI, "The answer is 27 dollars. Without the fee, the answer would be 24.", "27"),
    (TAXI, "She pays 27 dollars. If the question had meant a return trip, it would be 54.", "27"),
    (TAXI, "The answer is 27. Otherwise the answer would be 24.", "27"),
    (TAXI, "The answer would be 54 if she had to ride back. The answer is 27.", "27"),
    # A condition that is the question's own, and a conclusion.
    (TAXI, "If she rides 6 stops, the answer would be 27.", "27"),
    (TAXI, "So the answer would be 27.", "27"),
    (TAXI, "If we add 24 and 3, we see that the answer is 27.", "27"),
]

RUNS_ON = [
    (TAXI, f"The answer is 27.\n\n{head} {RUN_ON}\n\nThe answer is 96.", "27")
    for head in (
        "Problem:",
        "## Question:",
        "### Problem 2\n",
        "**Problem 3:**",
        "Example 2:",
        "Exercise 4.",
        "Next question:",
        "New Problem:\n",
        "# Task 2:",
        "Question 2:",
        "Q:",
        "Instruction:",
        "**Example**\n",
        "Here is another problem:",
        "Query:",
    )
] + [
    (TAXI, f"#### 27\nQuestion: {RUN_ON}\nAnswer: 88 + 8 = 96\n#### 96", "27"),
    (TAXI, f"27\n\nProblem: {RUN_ON}\nAnswer: 96", "27"),
    (TAXI, f"She pays 24 + 3 = 27 dollars.\n\nQuestion: {RUN_ON}\nAnswer: 96", "27"),
    (TAXI, f"Final answer: 27. Problem: {RUN_ON} Final answer: 96", "27"),
    # A heading of this item's own.
    (TAXI, "Problem: Find the fare.\n\n6 * 4 + 3 = 27\n\nThe answer is 27.", "27"),
    (TAXI, "Step 1: Restate it.\n\n**Question:** How much for 6 stops?\n\nThe answer is 27.", "27"),
    (
        TAXI,
        "Q1: What do the stops cost? 6 * 4 = 24. The answer is 24.\n"
        "Q2: And in all? 24 + 3 = 27. The answer is 27.",
        "27",
    ),
    (TAXI, "Let Q: 24 be the cost of stops.\nThe answer is 24 + 3 = 27.", "27"),
    (
        TAXI,
        "First I solve an example.\nExample: 2 stops cost 8.\n"
        "So 6 stops cost 24. The answer is 27.",
        "27",
    ),
]

TRANSCRIPTS = [
    (TAXI, f"user\n{TAXI}\nassistant\nShe pays 27 dollars.", "27"),
    (TAXI, f"System: You are model 7.\nUser: {TAXI}\nAssistant: The answer is 27.", "27"),
    (
        TAXI,
        "<|im_start|>system\nBe brief, 1 line.<|im_end|>\n"
        f"<|im_start|>user\n{TAXI}<|im_end|>\n<|im_start|>assistant\nThe answer is 27.<|im_end|>",
        "27",
    ),
    (TAXI, f"[INST] Solve step by step. {TAXI} [/INST] 24 + 3 = 27", "27"),
    (
        TAXI,
        f"<start_of_turn>user\n{TAXI}<end_of_turn>\n<start_of_turn>model\nIt is 27.<end_of_turn>",
        "27",
    ),
    (
        TAXI,
        "Human: What is 5 + 5?\n\nAssistant: The answer is 10.\n\n"
        f"Human: {TAXI}\n\nAssistant: The answer is 27.",
        "27",
    ),
    (
        TAXI,
        f"user\n{TAXI}\nassistant\nThe answer is 27.\n"
        "user\nWhat is 5 + 5?\nassistant\nThe answer is 10.",
        "27",
    ),
    (TAXI, "The answer is 27.\nuser\nThanks! And 5 + 5?\nassistant\nThe answer is 10.", "27"),
]

SPELLINGS = [
    ("", "The answer is $16,\\!386$.", "16386"),
    ("", "The answer is 16\\,386.", "16386"),
    ("", "\\boxed{1{,}016{,}386}", "1016386"),
    ("A field has 7 000 and 450 trees. How many are there?", "7 000 + 450 = 7 450 trees", "7450"),
    ("", "= 7 450", "7450"),
    ("", "The total comes to 12 000 people", "12000"),
    ("Ein Brot kostet 3,25 Euro. Was kosten zwei?", "Zwei kosten 6,50 Euro.", "6.5"),
    ("Ein Haus kostet 9.000 Euro und 500 Euro mehr. Wie viel?", "Es kostet 9.500 Euro.", "9500"),
    ("", "That costs 12,50 €", "12.5"),
    ("", "That is 1.234.567 in all", "1234567"),
    ("", "The answer is 5 dollars and 50 cents.", "5.5"),
    ("", "The answer is $5 and 50 cents.", "5.5"),
    (MINUTES, "It takes 3 hours and 45 minutes.", "225"),
    (HOURS, "It takes 3 hours 45 minutes.", "3.75"),
    ("How many inches is the shelf?", "The answer is 5 feet 6 inches.", "66"),
    ("How many cups?", "The answer is 2 and 1/2 cups.", "2.5"),
    ("How many cups?", "The answer is 2 and a half cups.", "2.5"),
    ("How many people?", "The answer is 1.2 million.", "1200000"),
    ("How many million people are 2 million and 1 million?", "The answer is 3 million.", "3"),
    ("", "The answer is 5! = 120.", "120"),
    ("", "The final answer is 5! / 3! = 20. Of 7 ways", "20"),
    # Neighbours that are two numbers.
    ("", "She buys 3 pens and 45 cards", "45"),
    ("", "numbers 3,25", "25"),
    ("", "He has 5 hours and 3 dogs", "3"),
    ("", "What a sum! 5", "5"),
]

ABSENT = "Of 80 guests 25% are absent. How many guests are present?"
ASIDES = [
    (TICKETS, "The total is 70 (7 x 5 + 7 x 5 makes 35 + 35).", "70"),
    (TICKETS, "The 14 tickets are $70 (35 + 35).", "70"),
    (ABSENT, "60 guests, which is 75% of 80, are present.", "60"),
    (ABSENT, "60 guests are present out of the 80 guests invited by 3 hosts.", "60"),
    (ABSENT, "60 of the 80 guests are present.\n\nLet me know if you have 1 more question!", "60"),
    (ABSENT, "There are 60 guests. I hope these 2 steps help.", "60"),
    (ABSENT, "<think>The answer is 20? No.</think>\n<answer>60</answer>", "60"),
    (ABSENT, "\\boxed{60}\n\nIf all came, we would have \\boxed{80}.", "60"),
    (ABSENT, "In percent 75% are present, and the answer is 60.", "60"),
    # No asides.
    (SHARE, "3 of 12 is 25% of the eggs.", "25"),
    (ABSENT, "They lost a total of 60 guests.", "60"),
    ("", "3 - (-5)", "-5"),
]

RANKS = [
    (RACE, "2 + 4 - 1 = 5\nSo Ivo is in 5th place.", "5"),
    (RACE, "He was 6th and passes 1 runner.\nIvo is 5th.", "5"),
    (RACE, "Therefore he comes in fifth place.", "5"),
    (BOXES, "96 / 8 = 12. She is done on the 3rd day.", "12"),
    (BOXES, "She is done on the 3rd day.", ""),
    (BOXES, "The answer is found on the 2nd page: 12", "12"),
]


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        *REPEATS_THE_QUESTION,
        *OTHER_UNIT,
        *IN_WORDS,
        *NO_ANSWER,
        *SUPPOSED,
        *RUNS_ON,
        *TRANSCRIPTS,
        *SPELLINGS,
        *ASIDES,
        *RANKS,
    ],
)
def test_number_of_every_kind(question: str, text: str, expected: str) -> None:
    assert number(text, "corrected", question) == expected
