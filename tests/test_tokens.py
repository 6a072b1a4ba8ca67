"""Token-level fidelity against float64 on whole logits, closed forms and a plain loop."""

import json
import math

import numpy as np
import pytest
import tiny_models as tiny
import torch
from scipy.special import rel_entr

from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.data.prompts import Encoded, encode
from kdstudy.errors import InputError
from kdstudy.evaluation import tokens
from kdstudy.evaluation.stages import token_fidelity
from kdstudy.models import load
from kdstudy.records import Example, read_records, write_records
from kdstudy.stage import Work

ROWS = [(f"row-{i}", row) for i, row in enumerate(tiny.rows(25, 3))]


def probabilities(model, row: Encoded, width: int) -> np.ndarray:
    """Whole logits of the whole text, softmax in float64, at the response's tokens."""
    with torch.no_grad():
        logits = model(torch.tensor([row.ids])).logits[0, :, :width].double().numpy()
    logits = logits[row.prompt_length - 1 : -1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def expected(model, row: Encoded, width: int) -> tuple:
    p = probabilities(model, row, width)
    text = np.array(row.ids[row.prompt_length :])
    return p, -np.log(p[np.arange(len(text)), text]).sum(), p.max(1), p.argmax(1) == text


def literal_ece(confidence, hits) -> float:
    """Guo et al. 2017, equations 2, 3 and 5, as they stand."""
    total = 0.0
    for m in range(1, 16):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / 15 < c <= m / 15]
        if inside:
            accuracy = sum(hits[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("chunk", [tokens._CHUNK, 7 * tiny.VOCABULARY])
@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_sums_are_those_of_whole_logits_in_float64(build, chunk, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    monkeypatch.setattr(tokens, "_TOGETHER", 60)
    student, teacher = build(1, scale=2.0), tiny.widen(build(2, scale=2.0), 5)
    found = tokens.compare(student, teacher, ROWS, tiny.VOCABULARY)
    assert [row.example_id for row in found] == [name for name, _ in ROWS]
    everything = {"teacher": ([], []), "student": ([], [])}
    for got, (_, row) in zip(found, ROWS, strict=True):
        s, ce_s, conf_s, hit_s = expected(student, row, tiny.VOCABULARY)
        t, ce_t, conf_t, hit_t = expected(teacher, row, tiny.VOCABULARY)
        assert got.tokens == len(s) == len(row.ids) - row.prompt_length
        assert got.agree == (s.argmax(1) == t.argmax(1)).sum()
        assert got.kl_teacher_student == pytest.approx(rel_entr(t, s).sum(), rel=1e-5)
        assert got.kl_student_teacher == pytest.approx(rel_entr(s, t).sum(), rel=1e-5)
        assert got.ce_teacher == pytest.approx(ce_t, rel=1e-5)
        assert got.ce_student == pytest.approx(ce_s, rel=1e-5)
        for who, c, h in (("teacher", conf_t, hit_t), ("student", conf_s, hit_s)):
            everything[who][0].extend(c)
            everything[who][1].extend(h)
            assert sum(getattr(got, f"{who}_hits")) == h.sum()
    facts = tokens.summary(found)
    for who, (confidence, hits) in everything.items():
        assert facts[f"ece_{who}"] == pytest.approx(literal_ece(confidence, hits), abs=1e-6)
        assert sum(n for n, _, _ in facts[f"bins_{who}"]) == facts["tokens"] == len(hits)


def test_a_model_agrees_with_itself():
    facts = tokens.summary(tokens.compare(tiny.qwen(1), tiny.qwen(1), ROWS, tiny.VOCABULARY))
    assert facts["top1_agreement"] == 1
    assert facts["kl_teacher_student"] == facts["kl_student_teacher"] == 0
    assert facts["ce_teacher"] == facts["ce_student"] > 0
    assert facts["bins_teacher"] == facts["bins_student"]


def constant(*logits: float):
    """A model that says the same at every position: its head has a bias and no weight."""
    model = tiny.llama(0, vocabulary=len(logits))
    model.lm_head = torch.nn.Linear(16, len(logits))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.copy_(torch.tensor(logits))
    return model.eval()


def test_two_constant_models_have_closed_forms():
    # T says 0 with 3/4, S with 1/4; everything else is never said.
    t, s = constant(math.log(3), 0.0, -math.inf), constant(0.0, math.log(3), -math.inf)
    with pytest.raises(InputError, match="not finite"):
        tokens.compare(s, t, [("a", Encoded((0, 0), 1))], 3)
    t, s = constant(math.log(3), 0.0, -200.0), constant(0.0, math.log(3), -200.0)
    (row,) = tokens.compare(s, t, [("a", Encoded((2, 0, 0, 0, 1), 1))], 3)
    facts = tokens.summary([row])
    assert (row.tokens, row.agree) == (4, 0)
    # 3/4 log 3 + 1/4 log 1/3
    assert facts["kl_teacher_student"] == pytest.approx(math.log(3) / 2, rel=1e-6)
    assert facts["kl_student_teacher"] == pytest.approx(math.log(3) / 2, rel=1e-6)
    assert facts["ce_teacher"] == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4, rel=1e-6)
    # Both are sure to 3/4 each time: the teacher is right on 3 of 4 tokens, the student on 1.
    assert facts["ece_teacher"] == pytest.approx(0, abs=1e-6)
    assert facts["ece_student"] == pytest.approx(0.5, abs=1e-6)
    n, confidence, accuracy = facts["bins_student"][11]
    assert (n, accuracy) == (4, 0.25) and confidence == pytest.approx(0.75)
    assert facts["bins_student"][0] == [0, None, None]


def test_a_bin_holds_its_upper_border():
    values = {"agree": np.ones(3), "confidence_student": np.array([1 / 15, 1.0, 0.0])}
    values |= {"confidence_teacher": np.array([2 / 15 + 1e-9, 0.5, 0.5])}
    values |= {f"{m}_{w}": np.ones(3) for m in ("ce", "hit") for w in ("teacher", "student")}
    values |= {"kl_teacher_student": np.zeros(3), "kl_student_teacher": np.zeros(3)}
    row = tokens._row("a", values)
    assert row.student_tokens == (2, *[0] * 13, 1)
    assert row.teacher_tokens == (0, 0, 1, 0, 0, 0, 0, 2, *[0] * 7)


def test_a_model_that_is_training_is_refused():
    training = load.add_adapter(tiny.qwen(0), schema.Lora(), 0).train()
    with pytest.raises(AssertionError, match="dropout"):
        tokens.compare(training, tiny.qwen(0), ROWS, tiny.VOCABULARY)


EXAMPLES = [Example(id=f"v{i}", instruction="n" * (5 + i), response=f"is {i}") for i in range(6)]
CONFIG = {
    "model": {"name": "s", "fingerprint": "1"},
    "reference_model": {"name": "t", "fingerprint": "2"},
    "template": tiny.TEMPLATE,
    "template_date": DATE,
    "max_length": 20,
    "loss_turns": "all",
    "precision": "float32",
    "rows": 5,
}


def local(folder):
    return {"folder": str(folder), "adapter": "", "hub_id": "", "trust_remote_code": False}


@pytest.fixture
def work(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "out").mkdir()
    write_records(tmp_path / "corpus" / "validation.parquet", EXAMPLES, Example)
    models = {
        "model": local(tiny.save(tmp_path / "s", tiny.qwen(1))),
        "reference_model": local(tiny.save(tmp_path / "t", tiny.widen(tiny.qwen(2), 5))),
    }
    return Work(
        config=CONFIG,
        inputs={"corpus": tmp_path / "corpus"},
        local={"models": models},
        out=tmp_path / "out",
    )


def test_the_stage_reads_validation_rows_as_training_does(work):
    line = token_fidelity(work)
    rows = read_records(work.out / "tokens.parquet", tokens.TokenRow)
    facts = json.loads((work.out / "tokens.json").read_text())
    texts = [
        encode(tiny.tokenizer(), tiny.TEMPLATE, e.instruction, e.response, 20) for e in EXAMPLES[:5]
    ]
    assert [r.example_id for r in rows] == ["v0", "v1", "v2", "v3", "v4"]
    assert [r.tokens for r in rows] == [len(t.ids) - t.prompt_length for t in texts]
    assert facts["truncated"] == sum(t.truncated for t in texts) > 0 == facts["dropped"]
    assert facts["width"] == tiny.VOCABULARY
    want = [
        rel_entr(probabilities(tiny.widen(tiny.qwen(2), 5), t, tiny.VOCABULARY),
                 probabilities(tiny.qwen(1), t, tiny.VOCABULARY)).sum()
        for t in texts
    ]  # fmt: skip
    assert [r.kl_teacher_student for r in rows] == pytest.approx(want, rel=1e-4)
    assert facts["kl_teacher_student"] == pytest.approx(sum(want) / facts["tokens"], rel=1e-4)
    assert f"{facts['tokens']} tokens of 5 rows" in line


def test_the_stage_uses_what_was_trained(work, tmp_path):
    before = json.loads(token_fidelity(work) and (work.out / "tokens.json").read_text())
    trained = load.add_adapter(tiny.qwen(1), schema.Lora(r=2), 0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    load.save(trained, tmp_path / "trained" / "adapter", tiny.tokenizer())
    tiny.save(tmp_path / "tuned" / "model", tiny.qwen(1))
    work.inputs["system"] = tmp_path / "trained"
    token_fidelity(work)
    after = json.loads((work.out / "tokens.json").read_text())
    assert after["ce_teacher"] == before["ce_teacher"]
    assert after["ce_student"] != before["ce_student"]
    work.inputs["reference"] = tmp_path / "tuned"
    del work.inputs["system"]
    token_fidelity(work)
    facts = json.loads((work.out / "tokens.json").read_text())
    assert facts["top1_agreement"] == 1 and facts["kl_student_teacher"] == 0


def test_different_tokenizers_and_rows_without_room_are_refused(work, tmp_path):
    with pytest.raises(InputError, match="no validation row leaves room"):
        token_fidelity(Work(**{**vars(work), "config": CONFIG | {"max_length": 8}}))
    tiny.save(tmp_path / "t", tiny.qwen(2), tiny.tokenizer("!"))
    with pytest.raises(InputError, match=r"token-level fidelity is not defined: .*tokenizers"):
        token_fidelity(work)
