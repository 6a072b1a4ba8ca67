"""On text of its own: float64 loops over whole logits, laws that are known, plans and pages."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tiny_models as tiny
import torch
from fake_study import analysed, fake_study, planned
from report_parts import all_figures, all_sheets
from scipy.special import rel_entr
from study_folder import plan_of, write_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.losses import distilled
from kdstudy.analysis.measures import AVERAGE
from kdstudy.analysis.probed import LEAST, by_position, probed
from kdstudy.config.schema import Study
from kdstudy.data.chat import DATE
from kdstudy.errors import InputError
from kdstudy.evaluation import tokens
from kdstudy.evaluation.own_text import own_text, row
from kdstudy.measures.own_text import BINS
from kdstudy.models import zoo
from kdstudy.records import Example, Generation, OwnTextRow, System, write_records
from kdstudy.report import loss_words, statement
from kdstudy.report.data import ReportData
from kdstudy.report.sections import own_text as section
from kdstudy.stage import Work, kinds

EDGES = [(1, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 10**9)]
NAMES = ("kl_student_teacher", "kl_teacher_student", "ce_student", "ce_teacher")


def local(folder):
    return {"folder": str(folder), "adapter": "", "hub_id": "", "trust_remote_code": False}


def generation(name, text, stop="eos", tokens=1, sample=0):
    return Generation(
        benchmark="own", example_id=name, sample=sample, completion=text, stop=stop, tokens=tokens
    )


def work_of(folder, models, items, answers, **config):
    """Return the stage's work: `answers` are the system's and its reference's."""
    for name, kind, rows in (
        ("items/examples", Example, items),
        ("own/generations", Generation, answers[0]),
        ("theirs/generations", Generation, answers[1]),
    ):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        write_records(path, rows, kind)
    (folder / "out").mkdir()
    names = ("model", "reference_model")
    return Work(
        config={
            **{n: {"name": n, "fingerprint": n} for n in names},
            **{"template": tiny.TEMPLATE, "template_date": DATE, "items": "own", "rows": 99},
            "precision": "float32",
            **config,
        },
        inputs={
            "items": folder / "items",
            "own_answers": folder / "own",
            "reference_answers": folder / "theirs",
        },
        local={"models": dict(zip(names, map(local, models), strict=True))},
        out=folder / "out",
    )


def found(work):
    own_text(work)
    frame = pd.read_parquet(work.out / "own_text.parquet")
    return frame, json.loads((work.out / "own_text.json").read_text())


def by_hand(models, tokenizer, prompt, text, ended):
    """Each token's numbers from whole logits in float64, a plain pass per text."""
    before = tokenizer(prompt)["input_ids"]
    ids = [*before, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    ids += [tokenizer.eos_token_id] if ended else []
    p = []
    for model in models:
        with torch.no_grad():
            p.append(model.double()(torch.tensor([ids])).logits[0].softmax(-1).numpy())
    told = {name: [] for name in NAMES}
    for at in range(len(before), len(ids)):
        s, t = (q[at - 1] for q in p)
        told["kl_student_teacher"].append(rel_entr(s, t).sum())
        told["kl_teacher_student"].append(rel_entr(t, s).sum())
        told["ce_student"].append(-np.log(s[ids[at]]))
        told["ce_teacher"].append(-np.log(t[ids[at]]))
    return told


def expected(own, theirs):
    both = min(len(own["ce_student"]), len(theirs["ce_student"]))
    told = {}
    for whose, text in (("own", own), ("reference", theirs)):
        for name in NAMES:
            told[f"{whose}_{name}"] = [
                sum(text[name][i - 1] for i in range(1, both + 1) if a <= i <= b) for a, b in EDGES
            ]
    told["tokens"] = [sum(a <= i <= b for i in range(1, both + 1)) for a, b in EDGES]
    return told


ODD = [
    # What the system wrote and its reference, and whether each ended it: lengths 8 and 9, 17 and
    # 33, one that ends at once, one cut before its first token, one of more than 64 tokens.
    (("it is 12", True), ("it is 12:", True)),
    (("so 3 + 4 = 7 and", False), ("first 3 then 4 more comes to 7.", True)),
    (("", True), ("a long answer of many words", True)),
    (("", False), ("nine", True)),
    (("again " * 13, False), ("again and " * 9, False)),
]


@pytest.mark.parametrize("together", [30, 2**12])
@pytest.mark.parametrize("seeds", [(1, 2), (3, 4)])
def test_sums_by_position_are_those_of_plain_passes_in_float64(
    tmp_path, monkeypatch, seeds, together
):
    monkeypatch.setattr(tokens, "_TOGETHER", together)
    models = [tiny.qwen(seeds[0], scale=2.0), tiny.llama(seeds[1], scale=2.0)]
    folders = [tiny.save(tmp_path / str(i), m) for i, m in enumerate(models)]
    items = [Example(id=f"i{i}", instruction="n" * (1 + 4 * i)) for i in range(len(ODD))]
    answers = [
        [
            generation(e.id, pair[side][0], "eos" if pair[side][1] else "length",
                       len(pair[side][0]) + pair[side][1])
            for e, pair in zip(items, ODD, strict=True)
        ]
        for side in (0, 1)
    ]  # fmt: skip
    # A second draw is there and is not read.
    answers[0] += [generation(e.id, "no", sample=1) for e in items]
    frame, facts = found(work_of(tmp_path, folders, items, answers))
    assert [*frame.example_id] == [e.id for e in items]
    tokenizer = tiny.tokenizer()
    for got, example, pair in zip(frame.itertuples(), items, ODD, strict=True):
        prompt = tiny.TEMPLATE.format(instruction=example.instruction)
        own, theirs = (by_hand(models, tokenizer, prompt, *text) for text in pair)
        for name, want in expected(own, theirs).items():
            assert [*getattr(got, name)] == pytest.approx(want, rel=2e-5, abs=1e-9), name
        assert (got.own_length, got.reference_length) == tuple(
            len(text["ce_student"]) for text in (own, theirs)
        )
    assert (facts["pairs"], facts["empty"], facts["retokenised"]) == (5, 1, 0)
    assert frame.tokens.map(sum).tolist()[2:4] == [1, 0]


def test_real_words_of_the_zoo_against_transformers_own_forward(tmp_path):
    folders = [zoo.path("zoo-xs"), zoo.path("zoo-s")]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float64) for f in folders]
    texts = ["Ada has 3 + 4 = 7 apples. The answer is 7.", "The answer is 12.", "so 5"]
    items = [Example(id=str(i), instruction=f"What is {i} + 4?") for i in range(3)]
    answers = [[generation(str(i), t) for i, t in enumerate(ts)] for ts in (texts, texts[::-1])]
    frame, facts = found(work_of(tmp_path, folders, items, answers, template="{instruction} ; "))
    for got, example, *pair in zip(frame.itertuples(), items, texts, texts[::-1], strict=True):
        prompt = f"{example.instruction} ; "
        want = expected(*(by_hand(models, tokenizer, prompt, t, True) for t in pair))
        for name, numbers in want.items():
            assert [*getattr(got, name)] == pytest.approx(numbers, rel=1e-4, abs=1e-7), name
    # Not one text is one token: that they are read in others than were written is said.
    assert facts["retokenised"] == 6
    again, _ = found(
        work_of(tmp_path / "b", folders, items, answers[::-1], template="{instruction} ; ")
    )
    assert [*again.own_ce_teacher.map(sum)] == pytest.approx([*frame.reference_ce_teacher.map(sum)])


def test_behind_a_stop_string_there_is_no_end_to_score(tmp_path):
    folders = [tiny.save(tmp_path / n, tiny.qwen(i)) for i, n in enumerate("st")]
    items = [Example(id="a", instruction="one")]
    answers = [[generation("a", "it is 3")], [generation("a", "it is 45")]]
    plain, _ = found(work_of(tmp_path / "1", folders, items, answers))
    stopped, facts = found(work_of(tmp_path / "2", folders, items, answers, asking={"stop": ["Q"]}))
    assert (plain.own_length[0], stopped.own_length[0]) == (8, 7)
    assert facts["retokenised"] is None
    with pytest.raises(InputError, match="answers hold thoughts"):
        own_text(work_of(tmp_path / "3", folders, items, answers, asking={"thinking": "</think>"}))


def test_other_tokens_and_texts_without_room_are_refused(tmp_path):
    folders = [tiny.save(tmp_path / "s", tiny.qwen(1))]
    folders.append(tiny.save(tmp_path / "t", tiny.qwen(2), tiny.tokenizer("!")))
    items = [Example(id="a", instruction="one")]
    answers = [[generation("a", "it is 3")], [generation("a", "it is 45")]]
    with pytest.raises(InputError, match="the distance on a student's own text is not defined"):
        own_text(work_of(tmp_path / "1", folders, items, answers))
    folders[1] = tiny.save(tmp_path / "u", tiny.qwen(2))
    answers[1] = [generation("a", "long " * 40)]
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": tiny.EOS, "eos_token_id": tiny.EOS}
    short = GPT2LMHeadModel(GPT2Config(vocab_size=tiny.VOCABULARY, **sizes, **ends))
    folders[0] = tiny.save(tmp_path / "g", short)
    with pytest.raises(InputError, match="64"):
        own_text(work_of(tmp_path / "2", folders, items, answers))


# What is known of an invented pair: items differ, and the gap grows by SLOPE nats a token.
SLOPE, START = 0.01, 0.2
SHORTEST, LONGEST = 12, 80


def invented(seed, n=60, run=0, slope=SLOPE):
    rng = np.random.default_rng([seed, run])
    rows = []
    for i in range(n):
        hard = rng.gamma(4, 0.1)
        lengths = rng.integers(SHORTEST, LONGEST, 2)
        texts = []
        for length, own in zip(lengths, (1, 0), strict=True):
            at = np.arange(1, length + 1)
            kl = START + hard + own * slope * at + rng.normal(0, 0.3) + rng.normal(0, 1, length)
            texts.append(dict.fromkeys(NAMES, kl))
        rows.append(dataclasses.asdict(row("own", f"{i:03d}", *texts)))
    return pd.DataFrame(rows)


def group(runs=1):
    systems = [
        System(label=f"s/kd/seed={i}", kind="distilled", model="s", teachers=("t",), method="gkd")
        for i in range(runs)
    ]
    return {("s/kd", "t"): systems}


@pytest.mark.parametrize("runs", [1, 3])
def test_a_gap_that_grows_by_a_law_is_found_and_its_interval_holds_it(runs):
    worlds, inside, values = 60, {}, {}
    for seed in range(worlds):
        frames = {(f"s/kd/seed={i}", "t"): {"own": invented(seed, run=i)} for i in range(runs)}
        table = by_position(group(runs), frames, Bootstrap(resamples=300))
        reached = np.mean([
            np.minimum(f["own"].own_length, f["own"].reference_length) for f in frames.values()
        ])  # fmt: skip
        assert reached > SHORTEST
        for r in table[table.text == "gap"].itertuples():
            first, last = EDGES[BINS.index(r.tokens)]
            # Of the positions that are there: further ones are rarer.
            counts = sum(
                (np.minimum(f["own"].own_length, f["own"].reference_length).to_numpy()[:, None]
                 >= np.arange(first, min(last, LONGEST) + 1)).sum(0)
                for f in frames.values()
            )  # fmt: skip
            truth = SLOPE * np.average(np.arange(first, min(last, LONGEST) + 1), weights=counts)
            inside.setdefault(r.tokens, []).append(r.low <= truth <= r.high)
            values.setdefault(r.tokens, []).append(r.value - truth)
    assert [*inside][:4] == ["1-8", "9-16", "17-32", "33-64"]
    for tokens_, hits in inside.items():
        if len(hits) == worlds:
            assert np.mean(hits) > 0.85, tokens_
            assert abs(np.mean(values[tokens_])) < 0.05


def test_the_line_of_the_statement_is_the_mean_over_benchmarks_of_means_over_tokens():
    frames = {b: invented(i, n=20 + 10 * i) for i, b in enumerate(("b", "a"))}
    table = probed(group(), {"own_text": {("s/kd/seed=0", "t"): frames}})
    means = {}
    for name, f in frames.items():
        tokens_ = np.array([*f.tokens]).sum()
        means[name] = [
            np.array([*f[f"{w}_kl_student_teacher"]]).sum() / tokens_ for w in ("own", "reference")
        ]
    rows = table.set_index("benchmark")
    assert [*table.benchmark] == [AVERAGE, "a", "b"] and set(table.measure) == {"own_text"}
    for name in ("a", "b"):
        assert rows.student[name] == pytest.approx(means[name][0])
        assert rows.value[name] == pytest.approx(means[name][0] - means[name][1])
    assert rows.value[AVERAGE] == pytest.approx(np.mean([a - b for a, b in means.values()]))
    assert rows.n[AVERAGE] == 50 and rows.low[AVERAGE] < rows.value[AVERAGE] < rows.high[AVERAGE]
    assert loss_words.verdict(next(table.itertuples())) == loss_words.LOST


def test_runs_are_averaged_and_few_texts_or_other_items_are_not_told_of():
    frames = {(f"s/kd/seed={i}", "t"): {"own": invented(7, run=i)} for i in range(3)}
    table = by_position(group(3), frames)
    singles = [by_position(group(3), {k: v}) for k, v in frames.items()]
    first = [t[t.text == "own"].value.iloc[0] for t in singles]
    assert table[table.text == "own"].value.iloc[0] == pytest.approx(np.mean(first))
    assert set(table.seeds) == {3} and table.sd.notna().all() and singles[0].sd.isna().all()
    assert table.n.min() >= LEAST and BINS[-1] not in set(table.tokens)
    few = {k: {"own": v["own"].head(LEAST - 1)} for k, v in frames.items()}
    assert by_position(group(3), few).empty
    frames["s/kd/seed=1", "t"]["own"] = invented(7).assign(example_id=[f"x{i}" for i in range(60)])
    for call in (
        lambda: by_position(group(3), frames),
        lambda: probed(group(3), {"own_text": frames}),
    ):
        with pytest.raises(InputError, match="other items of own"):
            call()


def test_answers_without_any_token_have_a_reason_for_a_number():
    empty = {name: np.zeros(0) for name in NAMES}
    frame = pd.DataFrame([dataclasses.asdict(row("own", str(i), empty, empty)) for i in range(12)])
    found_ = {("s/kd/seed=0", "t"): {"own": frame}}
    (told,) = probed(group(), {"own_text": found_}).itertuples()
    assert np.isnan(told.value) and told.n == 0 and "nothing to count" in told.why
    assert by_position(group(), found_).empty
    assert (
        "cannot be said: there is nothing"
        in loss_words.sentences(probed(group(), {"own_text": found_}), {})[0]
    )


def stages(plan):
    return {key: stage for key, stage in plan.stages.items() if stage.kind == "own_text"}


def test_a_study_that_does_not_ask_has_the_keys_that_it_had(tmp_path):
    folder = write_folder(tmp_path)
    plain, asked = plan_of(folder), plan_of(folder, statement={"own_text_items": 7})
    new = {s.label for s in stages(asked).values()}
    runs = [s for s in plain.systems if s.kind == "distilled" and not s.ablation]
    assert new == {
        f"{s.label} with {t} on {b}"
        for s in runs
        for t in s.teachers
        for b in ("synth_addsub", "synth_multiarith")
    }
    assert plain.stages.keys() - asked.stages.keys() == {plain.report}
    assert asked.stages.keys() - plain.stages.keys() == {asked.report, *stages(asked)}
    assert not stages(plain) and "statement" not in plain.stages[plain.report].config["study"]
    assert asked.stages[asked.report].config["study"]["statement"]["own_text_items"] == 7
    assert kinds()["own_text"].needs_model


def test_what_cannot_be_asked_is_refused_before_anything_runs(tmp_path):
    folder = write_folder(tmp_path)
    thinks = [{"name": "synth_addsub", "thinking": True}]
    with pytest.raises(InputError, match="no benchmark is answered in text without thoughts"):
        plan_of(folder, statement={"own_text_items": 7}, benchmarks=thinks)
    only = plan_of(
        folder, statement={"own_text_items": 7}, benchmarks=[*thinks, "synth_svamp"], ablations={}
    )
    assert {s.config["items"] for s in stages(only).values()} == {"synth_svamp"}
    study = {"name": "x", "students": ["zoo-xs"], "corpus": "synthetic", "methods": ["sft"]}
    with pytest.raises(ValueError, match=r"statement\.own_text_items: there is no teacher"):
        Study.model_validate(
            study | {"benchmarks": ["synth_addsub"], "statement": {"own_text_items": 1}}
        )


@pytest.fixture(scope="module")
def data():
    systems = planned(students=("zoo-s",), seeds=(0, 1), methods=("sft", "word_kd", "gkd"))
    study = fake_study(n=30, systems=systems)
    table, tests = analysed(study)
    runs = distilled(systems, {})
    found_ = {
        (run[0].label, teacher): {"one_step": invented(i), "two_step": invented(50 + i)}
        for i, ((_, teacher), run) in enumerate(runs.items())
    }
    return ReportData(
        table=table, tests=tests, items=study.items, pairs=study.pair_items, systems=systems,
        made=study.provenance, probes={"own_text": found_},
    )  # fmt: skip


def test_the_report_has_a_section_a_figure_and_a_line(data):
    parts = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
    assert "own_text" in all_figures(**parts)
    sheet = all_sheets(**parts)["own_text"]
    assert [*sheet.columns][:3] == ["System", "Benchmark", "Tokens"]
    assert len(sheet.frame) == 2 * 2 * 4 and "–" not in sheet.frame.to_numpy()
    said = section.sentence(data)
    assert "in tokens 1-8" in said and "in tokens 33-64" in said
    gaps = data.own_texts[data.own_texts.text == "gap"]
    one = gaps[(gaps.system == next(s for s in set(gaps.system) if s in said))]
    one = one[one.benchmark == "one_step"]
    sure = sum(r.low > 0 or r.high < 0 for r in one.itertuples())
    assert f"{sure or 'None'} of {len(one)} stretches of the text " in said
    assert "is further" not in said
    told = statement.markdown(data)
    assert "is further from its teacher on its own text" in told
    assert "It cannot tell why the two part" in told
    without = parts | {"probes": {}}
    assert "own_text" not in all_figures(**without) | all_sheets(**without)
    assert "own text" not in statement.markdown(dataclasses.replace(data, probes={}))


def test_a_row_comes_back_from_its_file(tmp_path):
    frame = invented(3, n=4)
    rows = [OwnTextRow(**r) for r in frame.to_dict("records")]
    write_records(tmp_path / "rows.parquet", rows, OwnTextRow)
    again = pd.read_parquet(tmp_path / "rows.parquet")
    assert [tuple(t) for t in again.tokens] == [r.tokens for r in rows]
    found_ = [{("s/kd/seed=0", "t"): {"own": f}} for f in (frame, again)]
    assert by_position(group(), found_[0]).equals(by_position(group(), found_[1]))
