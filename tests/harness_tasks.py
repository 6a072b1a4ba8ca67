"""Local tasks of lm-evaluation-harness: their documents and their files."""

import json
from pathlib import Path

CHOICES = [
    {"question": "What is 2 + 2?", "options": ["3", "4", "22"], "label": 1},
    {"question": "Which is a metal?", "options": ["wood", "iron", "wool", "salt"], "label": 1},
    {"question": "Which one is a café?", "options": ["a place", "é"], "label": 0},
    {"question": "How many legs has a spider?", "options": [*"864201"], "label": 0},
]  # fmt: skip
BLANKS = [
    {"sentence": "Ann had more apples than Tom, so _ gave 2 away.", "one": "Ann", "two": "Tom",
     "answer": 0},
    {"sentence": "The box did not fit in the bag as _ was too small.", "one": "it",
     "two": "the bag", "answer": 1},
]  # fmt: skip
SUMS = [
    {"question": "Ann has 4 apples and gets 3 more. How many has she?", "answer": "7"},
    {"question": "Tom had 9 pens and lost 2. How many are left?", "answer": "7"},
    {"question": "Mia has 6 coins and finds 7 more. How many coins has she?", "answer": "13"},
    {"question": "Joe runs 3 miles a day. How many miles in 5 days?", "answer": "15"},
]
PLAIN = """
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
output_type: multiple_choice
"""
LAST = """
  - name: last
    filter:
      - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
      - {function: take_first}"""
WRITTEN = """
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
output_type: generate_until
generation_kwargs: {until: ["Question:", "."], do_sample: false, max_gen_toks: 24}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TASKS = {
    "plain": ("choices", PLAIN),
    "few": ("choices", PLAIN + "num_fewshot: 2\n"),
    "described": (
        "choices",
        PLAIN + 'description: "Answer {{question}} "\ntarget_delimiter: ": "\nnum_fewshot: 1\n'
        "fewshot_config: {sampler: first_n}\n",
    ),
    "blanks": (
        "blanks",
        "output_type: multiple_choice\ndoc_to_text: answer\ndoc_to_target: "
        "\"{{sentence[sentence.index('_') + 1:].strip()}}\"\n"
        "doc_to_choice: \"{{[sentence[:sentence.index('_')] + one, "
        "sentence[:sentence.index('_')] + two]}}\"\nmetric_list: [{metric: acc}]\n",
    ),
    "sums": (
        "sums",
        WRITTEN + "filter_list:" + LAST + "\n  - name: whole\n    filter:\n"
        "      - {function: remove_whitespace}\n      - {function: take_first}\n",
    ),
    "sums_few": ("sums", WRITTEN + "num_fewshot: 1\nfilter_list:" + LAST + "\n"),
}
ROWS = {"choices": CHOICES, "blanks": BLANKS, "sums": SUMS}


def write(folder: Path, name: str = "", more: str = "") -> Path:
    """Write the tasks' files; return that of `name`, with `more` in it."""
    for data, rows in ROWS.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{data}.jsonl").write_text(text, encoding="utf-8")
    for task, (data, body) in TASKS.items():
        where = folder / f"{data}.jsonl"
        (folder / f"{task}.yaml").write_text(
            f"task: kdstudy_{task}\ndataset_path: json\ntest_split: test\ntraining_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {where}}}}}\n" + body
            + (more if task == name else "")
        )  # fmt: skip
    return folder / f"{name}.yaml"
