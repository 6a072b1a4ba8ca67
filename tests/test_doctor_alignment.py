"""Doctor on pairs with unlike tokenizers, and a whole study of one, from plan to report."""

import csv
import io
import json
import re

import other_tokenizers as other
import pytest
import study_facts
import torch
import yaml
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from kdstudy.cli import app
from kdstudy.doctor import alignment
from kdstudy.doctor.checks import check
from kdstudy.doctor.facts import AlignmentFacts
from kdstudy.doctor.findings import worst
from kdstudy.doctor.view import document, show
from kdstudy.errors import InputError
from kdstudy.records import Example

ANSWERS = ("it has 12 days.", "1234 + 5", "na\u00efve \U0001f600 \u65e5\u672c", "")
EXAMPLES = [Example(id=str(n), instruction="how?", response=a) for n, a in enumerate(ANSWERS)]


def read(ours, theirs, **train) -> AlignmentFacts:
    given = {"epochs": 1, "max_length": 200, **train}
    study = study_facts.study(methods=["gold"], train=given, template="Q: {instruction}\nA: ")
    return alignment.read(study, ("small", ours), ("big", theirs), EXAMPLES, {})


def shown(facts, colour: bool) -> str:
    page = io.StringIO()
    console = Console(file=page, width=80, force_terminal=colour, highlight=False)
    found = check(study_facts.healthy(alignments=(facts,)))
    show("t", [f for f in found if f.check == "alignment"], console)
    return page.getvalue()


def test_three_rows_are_shown_with_the_tokens_of_both():
    found = read(other.zoos(), other.trained())
    assert (found.rows, found.share, found.refusal) == (4, 1.0, None)
    page = shown(found, colour=False)
    assert "ok        alignment: small and big: 100.0% of the answers' text" in page
    assert page.count("  row ") == 3
    # The one has digits apart, the other together; the ends have other names.
    assert re.search(r"│ ·1·2= 1?·?1?2", page)
    assert "<|endoftext|>=<eos>" in page
    assert "\x1b[" not in page
    assert "\x1b[32m" in shown(found, colour=True)


def test_what_is_not_the_same_text_is_shown_apart():
    answer = Example(id="x", instruction="how?", response="cafe\u0301 is 12 words here and there")
    study = study_facts.study(methods=["gold"], template="Q: {instruction}\nA: ")
    sides = ("small", other.zoos()), ("big", other.trained())
    found = alignment.read(study, *sides, [answer], {})
    assert 0.5 < found.share < 0.95
    assert {span.part for span in found.shown[0].spans} == {"aligned", "apart"}
    page = shown(found, colour=False)
    assert "note      alignment" in page and "apart," in page and "≠" in page


def test_an_alignment_of_less_than_half_is_an_error_in_the_words_of_run():
    # The teacher's prompts fill max_length: in single characters they are longer.
    found = read(other.zoos(), other.characters(), max_length=12)
    assert found.share < 0.5 and isinstance(found.refusal, InputError)
    facts = study_facts.healthy(alignments=(found,))
    bad = [f for f in check(facts) if f.check == "alignment"]
    assert worst(bad) == "error" and "less than 50%" in bad[0].what
    assert json.loads(json.dumps(document("t", bad)))["findings"][0]["facts"]["share"] < 0.5


def test_a_tokenizer_that_cannot_be_spelled_is_refused():
    with pytest.raises(InputError, match="nothing tells which bytes"):
        read(other.zoos(), other.word_pieces())


TRAINED = "train", "zoo-xs/gold/other"


def run(folder, *arguments):
    return CliRunner().invoke(app, [*arguments, "--store", str(folder / "store")])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A shipped student, and a random teacher with BPE of its own."""
    folder = tmp_path_factory.mktemp("unlike")
    tokenizer = other.trained()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    study = {
        "name": "unlike",
        "teachers": ["./other"],
        "students": ["zoo-xs"],
        "corpus": {"name": "synthetic", "rows": 32, "validation_rows": 8},
        "benchmarks": ["synth_addsub"],
        "limit": 5,
        "methods": ["sft", "gold", "uld"],
        "train": {"epochs": 1, "batch_size": 8, "max_length": 400, "evaluations": 1,
                  "probe_rows": 0},
        "generation": {"max_new_tokens": 8},
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder


def test_a_study_of_unlike_tokenizers_is_planned_looked_over_run_and_reported(
    finished, monkeypatch
):
    monkeypatch.chdir(finished)
    planned = run(finished, "plan", "study.yaml")
    assert planned.exit_code == 0 and "zoo-xs/gold/other" in planned.output
    looked = run(finished, "doctor", "study.yaml", "--probe-seconds", "30")
    assert "zoo-xs and other: 100.0% of the answers' text" in looked.output
    done = run(finished, "run", "study.yaml")
    assert done.exit_code == 0, (done.output, done.exception)
    out = finished / "store" / "studies" / "unlike"
    systems = {row["system"] for row in csv.DictReader((out / "results.csv").open())}
    assert {"zoo-xs/gold/other", "zoo-xs/uld/other"} <= systems
    assert "zoo-xs/gold/other" in (out / "report.html").read_text()
    told = [json.loads(p.read_text()) for p in (finished / "store").glob("stages/*/manifest.json")]
    (line,) = [m["summary"] for m in told if (m["kind"], m["label"]) == TRAINED]
    assert "100.0% of the text compared, in spans of 1." in line
