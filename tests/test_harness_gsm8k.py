"""GSM8K as lm-evaluation-harness runs it: prompts, texts, and what both filters make of them.

`python tests/test_harness_gsm8k.py`, with its 0.4.13 installed beside kdstudy, writes what it finds
anew. Questions are invented; the harness runs its own task file on them.
"""

import json
import shutil
from pathlib import Path

import pytest

from kdstudy.config.refs import BenchmarkRef
from kdstudy.config.schema import Generation as Settings
from kdstudy.data.prompts import PromptFormat, asked, render
from kdstudy.evaluation.asking import asking
from kdstudy.evaluation.benchmarks import from_rows
from kdstudy.evaluation.generate import generate
from kdstudy.evaluation.graders import chosen
from kdstudy.evaluation.score import score
from kdstudy.models import zoo

RECORD = Path(__file__).parent / "golden" / "harness_gsm8k.json"
TRAINING = [
    ("Ann has 4 apples and gets 3 more. How many has she?", "4 + 3 = <<4+3=7>>7.\n#### 7"),
    ("Tom had 9 pens and lost 2. How many are left?", "He has 9 - 2 = 7 pens.\n#### 7"),
    ("Kim sells 2 bags of 6 eggs. How many eggs?", "2 x 6 = 12\n#### 12"),
]
ITEMS = [
    ("Sam had 8 books and gave 5 away. How many books are left?", "8 - 5 = 3\n#### 3"),
    ("A box holds 1,000 nails. How many nails are in 2 boxes?", "1,000 x 2\n#### 2,000"),
    ("Mia has 6 coins and finds 7 more. How many coins has she?", "6 + 7 = 13\n#### 13"),
    ("There were 20 birds. 4 flew away, then 3. How many stayed?", "20 - 7 = 13\n#### 13"),
    ("Joe runs 3 miles a day. How many miles in 5 days?", "3 x 5 = 15\n#### 15"),
    ("Eve had $10 and spent $4. How much is left?", "10 - 4 = 6\n#### 6"),
]
STOPS = ["Question:", "</s>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>\\n' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\\n' }}{% endif %}"
)
MODES = {"bare": (False, False), "text": (True, False), "turns": (True, True)}
"""`shots_as`; --apply_chat_template and --fewshot_as_multiturn of the harness."""
TOKENS, SHOTS = 40, 2


def chat_model(folder: Path) -> Path:
    """Return the smallest shipped model with a chat template, which it has never learnt."""
    shutil.copytree(zoo.path("zoo-xs"), folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def write(scratch: Path) -> None:
    for name, rows in (("train", TRAINING), ("test", ITEMS)):
        told = [json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows]
        (scratch / f"{name}.jsonl").write_text("".join(told))


def harness(folder: Path, scratch: Path) -> dict:
    """Return what the harness asks, what the model writes, and what its filters make of it."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    write(scratch)
    own = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    files = {part: str(scratch / f"{part}.jsonl") for part in ("train", "test")}
    until = "".join(f"    - {json.dumps(stop)}\n" for stop in STOPS)
    (scratch / "task.yaml").write_text(
        f"include: {own}\ntask: kdstudy_gsm8k\ndataset_path: json\ndataset_name: null\ntag: null\n"
        f"dataset_kwargs: {{data_files: {json.dumps(files)}}}\n"
        f"num_fewshot: {SHOTS}\nfewshot_config: {{sampler: first_n}}\n"
        f"generation_kwargs:\n  until:\n{until}  do_sample: false\n  max_gen_toks: {TOKENS}\n"
    )
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=3)
    found = {}
    for mode, (chat, turns) in MODES.items():
        result = lm_eval.simple_evaluate(
            model=model, tasks=["kdstudy_gsm8k"], task_manager=manager, log_samples=True,
            bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=turns,
        )  # fmt: skip
        rows = [{} for _ in ITEMS]
        for sample in result["samples"]["kdstudy_gsm8k"]:
            row = rows[sample["doc_id"]]
            row |= {"prompt": sample["arguments"][0][0], "text": sample["resps"][0][0]}
            row[sample["filter"]] = float(sample["exact_match"])
        found[mode] = rows
    return found


def ours(folder: Path, scratch: Path) -> dict:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write(scratch)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    items = from_rows("mine", [{"question": q, "answer": a} for q, a in ITEMS], "number")
    found = {}
    for mode in MODES:
        fields = {"name": "gsm8k", "shots": SHOTS, "shots_as": mode, "stop": STOPS}
        fields |= {"exemplars": "train.jsonl", "question": "Question: {question}\nAnswer:"}
        how = asking(BenchmarkRef.model_validate(fields), scratch)
        put = [how.put(example) for example in items.examples]
        made = how.format(PromptFormat(template="chat"))
        batches = generate(
            model, tokenizer, [("mine", e) for e in put], made,
            Settings(max_new_tokens=TOKENS), endings=how.endings,
        )  # fmt: skip
        texts = {row.example_id: row for batch in batches for row in batch}
        rows = [
            {"prompt": render(made.template, **asked(e)[0], tokenizer=tokenizer),
             "text": texts[e.id].completion}
            for e in put
        ]  # fmt: skip
        for name, grader in (("strict-match", "strict"), ("flexible-extract", "flexible")):
            grader = chosen(grader, "mine", "number", ())
            scores = score(texts.values(), items, "corrected", grader=grader)
            for row, found_ in zip(rows, scores, strict=True):
                row[name] = found_.quality
        found[mode] = rows
    return found


def require_alike(found: dict, scratch: Path) -> None:
    mine = ours(chat_model(scratch / "chat"), scratch)
    for mode in MODES:
        assert mine[mode] == found[mode], mode
    assert any(row["flexible-extract"] for rows in mine.values() for row in rows)


def test_what_was_recorded_of_the_harness_is_found(tmp_path):
    require_alike(json.loads(RECORD.read_text())["found"], tmp_path)


def test_the_harness_itself_finds_the_same(tmp_path):
    pytest.importorskip("lm_eval", reason="lm_eval is not here: pip install 'kdstudy[harness]'")
    (tmp_path / "theirs").mkdir()
    found = harness(chat_model(tmp_path / "model"), tmp_path / "theirs")
    require_alike(found, tmp_path)


if __name__ == "__main__":
    import tempfile
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as scratch:
        recorded = harness(chat_model(Path(scratch) / "model"), Path(scratch))
    whole = {"lm_eval": version("lm_eval"), "model": "zoo-xs", "found": recorded}
    RECORD.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
