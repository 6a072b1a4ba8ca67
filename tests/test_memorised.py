"""Rows continued word for word: against greedy decoding, by permutations, in worlds."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import tiny_models as tiny
import torch
from scipy import stats
from study_folder import plan_of, write_folder

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.measures import AVERAGE
from kdstudy.analysis.probed import CORPUS, other_choices_p, probed
from kdstudy.artifacts import Memorised
from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.errors import InputError
from kdstudy.evaluation.memorised import memorised
from kdstudy.models import load
from kdstudy.records import Example, MemoryRow, System, write_records
from kdstudy.report import loss_words, probes
from kdstudy.stage import Work


def local(folder):
    return {"folder": str(folder), "adapter": "", "hub_id": "", "trust_remote_code": False}


def work_of(folder, train, validation, **config):
    corpus, out = folder / "corpus", folder / "out"
    for path in (corpus, out):
        path.mkdir()
    write_records(corpus / "train.parquet", train, Example)
    write_records(corpus / "validation.parquet", validation, Example)
    model = local(tiny.save(folder / "model", tiny.qwen(3, scale=3.0)))
    return Work(
        config={
            **{n: {"name": n, "fingerprint": n} for n in ("model", "reference_model")},
            **{"template": tiny.TEMPLATE, "template_date": DATE, "precision": "float32"},
            **{"max_length": 60, "loss_turns": "all", "rows": 50, "start": 3, "tokens": 6},
            **config,
        },
        inputs={"corpus": corpus},
        local={"models": {"model": model, "reference_model": model}},
        out=out,
    )


def greedy(model, prompt, count):
    """What transformers' own greedy decoding writes."""
    tokenizer = tiny.tokenizer()
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    made = model.generate(
        ids, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=2
    )
    return tokenizer.decode(made[0, ids.shape[1] :])


def rows_of(model, name, seed, count=12):
    """Half of them as the model goes on, some but for their last or first looked-at character."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        question, first = ("".join(rng.choice([*"abcdefg"], n)) for n in (rng.integers(2, 9), 3))
        prompt = tiny.TEMPLATE.format(instruction=question)
        rest = greedy(model, prompt + first, 6)
        if len(rest) != 6 or not rest.isprintable() or rest != rest.strip() or "<" in rest:
            continue
        kind = len(found) % 4
        wrong = {0: rest, 1: rest, 2: rest[:5] + "q", 3: "q" + rest[1:]}[kind]
        text = first + wrong + "".join(rng.choice([*"xyz"], rng.integers(1, 5)))
        found.append(Example(id=f"{name}{len(found):02d}", instruction=question, response=text))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_a_row_is_continued_where_transformers_writes_it_greedily(tmp_path, seed):
    model = tiny.qwen(3, scale=3.0)
    train, held = rows_of(model, "t", seed), rows_of(model, "v", seed + 10, count=5)
    trained = load.add_adapter(tiny.qwen(3, scale=3.0), schema.Lora(r=2), 0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    load.save(trained, tmp_path / "trained" / "adapter", tiny.tokenizer())
    work = work_of(tmp_path, train, held)
    work.inputs["system"] = tmp_path / "trained"
    memorised(work)
    found = {r.example_id: r for r in Memorised(work.out).rows.read()}
    assert [*found] == [e.id for e in (*train, *held)]
    adapted = trained.eval()
    for example in (*train, *held):
        prompt = tiny.TEMPLATE.format(instruction=example.instruction) + example.response[:3]
        row, next_ = found[example.id], example.response[3:9]
        assert row.trained == example.id.startswith("t")
        assert row.base == (greedy(model, prompt, 6) == next_)
        assert row.own == (greedy(adapted, prompt, 6) == next_)
    assert {r.base for r in found.values()} == {True, False}


def test_rows_that_are_too_short_are_left_out_and_too_few_refused(tmp_path):
    rows = [Example(id=n, instruction="ab", response="x" * k) for n, k in (("a", 8), ("b", 9))]
    work = work_of(tmp_path, rows, rows[1:])
    line = memorised(work)
    # Nine characters: three are given, six are looked for; the end token behind is not.
    assert [r.example_id for r in Memorised(work.out).rows.read()] == ["b", "b"]
    assert "of 1 training rows continued" in line and "of 1 held-out rows" in line
    for rows_, what in ((work.config | {"tokens": 7}, "training"),):
        with pytest.raises(InputError, match=f"no {what} row's response is longer than 10 tokens"):
            memorised(Work(**{**vars(work), "config": rows_}))
    (tmp_path / "2").mkdir()
    with pytest.raises(InputError, match="no held-out row"):
        memorised(work_of(tmp_path / "2", rows, rows[:1]))


def group():
    system = System(label="s/kd", kind="distilled", model="s", teachers=("t",), method="gkd")
    return {("s/kd", "t"): [system]}


def frame_of(own, base, own_held, base_held, train=200, held=100):
    """Rows of which so many are continued."""

    def hits(many, of):
        return [True] * many + [False] * (of - many)

    return pd.DataFrame(
        {
            "example_id": [f"{i:04d}" for i in range(train + held)],
            "trained": [True] * train + [False] * held,
            "own": hits(own, train) + hits(own_held, held),
            "base": hits(base, train) + hits(base_held, held),
        }
    )


def line_of(frame, **bootstrap):
    found = {"memorised": {("s/kd", "t"): {CORPUS: frame}}}
    (row,) = probed(group(), found, Bootstrap(**bootstrap)).itertuples()
    return row


def test_the_line_is_what_training_rows_have_more_than_held_out_ones_and_than_the_base():
    row = line_of(frame_of(60, 10, 10, 5))
    assert row.student == pytest.approx(60 / 200 - 10 / 100)
    assert row.reference == pytest.approx(10 / 200 - 5 / 100)
    assert row.value == pytest.approx(0.2) and row.n == 300
    assert (row.benchmark, row.against, row.of) == (AVERAGE, "base", CORPUS)
    assert loss_words.verdict(row) == loss_words.LOST
    told = loss_words.sentences(
        probed(group(), {"memorised": {("s/kd", "t"): {CORPUS: frame_of(60, 10, 10, 5)}}}), {}
    )
    assert "word for word more often than held-out ones by 20.0 points" in told[0]
    assert not any("items" in sentence for sentence in told[1:])


def test_who_continues_no_row_has_memorised_none_whatever_its_base_did():
    frame = frame_of(0, 0, 0, 15)
    row = line_of(frame)
    assert row.student == 0 and row.value == pytest.approx(0.15) and row.low > 0
    assert loss_words.verdict(row) == loss_words.KEPT
    table = probed(group(), {"memorised": {("s/kd", "t"): {CORPUS: frame}}})
    assert not any("word for word more often" in said for said in loss_words.sentences(table, {}))


@pytest.mark.parametrize("hits", [3, 6, 30, 40])
def test_few_hits_beside_none_are_told_where_an_exact_test_tells_them(hits):
    """A share of 0 of 40 has no spread that a bootstrap could see."""
    row = line_of(frame_of(hits, 0, 0, 0, held=40))
    among = stats.hypergeom(240, hits, 40)
    far = [k for k in range(hits + 1) if abs(k - among.mean()) >= among.mean() - 1e-9]
    p = among.pmf(far).sum()
    assert not 0.04 < p < 0.06
    assert (loss_words.verdict(row) == loss_words.LOST) == (p < 0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_p_is_the_share_of_choices_that_lie_as_far_out(seed):
    rng = np.random.default_rng(seed)
    values, chosen = rng.choice([-1.0, 0, 0, 1], 11), np.arange(11) < 6
    rng.shuffle(chosen)
    centred = values - values.mean()
    seen = abs(centred[chosen].sum())
    every = [abs(centred[list(c)].sum()) for c in itertools.combinations(range(11), 6)]
    exact = np.mean([s >= seen - 1e-9 for s in every])
    assert other_choices_p(values, chosen) == pytest.approx(exact, abs=0.015)
    assert math.isnan(other_choices_p(np.ones(11), chosen))


def test_form_that_is_learnt_is_not_called_memory():
    """Students that continue as many held-out rows as training rows: told of 1 in 20, or less."""
    told, memory = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        frame = frame_of(0, 0, 0, 0, held=60)
        frame["own"], frame["base"] = rng.random(260) < 0.3, rng.random(260) < 0.05
        told.append(loss_words.verdict(line_of(frame, resamples=300)) == loss_words.LOST)
        frame["own"] |= frame.trained & (rng.random(260) < 0.5)
        memory.append(loss_words.verdict(line_of(frame, resamples=300)) == loss_words.LOST)
    assert np.mean(told) <= 0.05 and np.mean(memory) > 0.9


def test_each_run_is_told_of_and_only_where_it_is_asked_for(tmp_path):
    rows = [MemoryRow(**r) for r in frame_of(5, 1, 1, 1).to_dict("records")]
    Memorised(tmp_path).rows.write(rows)
    (systems,) = group().values()
    found = probes.found([("s/kd", Memorised(tmp_path)), ("other", Memorised(tmp_path))], systems)
    assert [*found["memorised"]] == [("s/kd", "t")]
    assert line_of(found["memorised"]["s/kd", "t"][CORPUS]).n == 300
    folder = write_folder(tmp_path / "study") if (tmp_path / "study").mkdir() is None else None
    plain, asked = plan_of(folder), plan_of(folder, statement={"memory_rows": 9})
    new = [s for s in asked.stages.values() if s.kind == "memorised"]
    runs = {s.label for s in plain.systems if s.kind == "distilled" and not s.ablation}
    assert {s.label for s in new} == runs and len(new) == len(runs)
    assert plain.stages.keys() - asked.stages.keys() == {plain.report}
    assert {(s.config["start"], s.config["tokens"]) for s in new} == {(8, 16)}
    # What is asked of a row asks for nothing by itself.
    assert plan_of(folder, statement={"memory_tokens": 5}).stages.keys() == plain.stages.keys()
