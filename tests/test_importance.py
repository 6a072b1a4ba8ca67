"""Students cut by what was measured on training rows: layers by influence, MLPs by neurons."""

import dataclasses
import json
import math

import forked
import pytest
import tiny_models as tiny
import torch
import yaml
from cut_models import cut_folder, gpt2, logits, model
from study_folder import plan_of
from torch import nn
from train_stage import local
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from kdstudy.artifacts import Importance
from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.doctor import cost
from kdstudy.doctor import models as doctor_models
from kdstudy.doctor.facts import CorpusFacts, Speed, StudyFacts
from kdstudy.errors import InputError
from kdstudy.models import layers, load, stages
from kdstudy.models.cut import cut
from kdstudy.models.importance import measure
from kdstudy.models.narrow import narrow, strongest
from kdstudy.models.resolve import resolve
from kdstudy.records import Example, write_records
from kdstudy.stage import Work

pytestmark = pytest.mark.filterwarnings("ignore")
# Of unlike lengths: a mean of rows' means is not the mean over positions.
ROWS = [[3 * i % tiny.VOCABULARY for i in range(n)] for n in (5, 24, 11)]
MODELS = {
    "llama": lambda: model(LlamaForCausalLM, LlamaConfig),
    "gpt2": gpt2,
    "gemma2": lambda: model(Gemma2ForCausalLM, Gemma2Config, head_dim=4, sliding_window=4),
}


def cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


@pytest.mark.parametrize("name", MODELS)
def test_influence_is_what_the_cosine_lacks_of_one_over_all_positions(name):
    made = MODELS[name]().double().eval()
    norm = made.transformer.ln_f if name == "gpt2" else made.model.norm
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 16))  # one of equal weights turns no vector
    last = []
    handle = norm.register_forward_pre_hook(lambda _, args: last.append(args[0][0].tolist()))
    lacks = [[] for _ in range(6)]
    lacks_normed = []
    for row in ROWS:
        states = made(torch.tensor([row]), output_hidden_states=True).hidden_states
        through = [h[0].tolist() for h in states[:6]] + [last[-1]]  # states[6] is normed
        for i in range(6):
            lacks[i] += [1 - cosine(*pair) for pair in zip(*through[i : i + 2], strict=True)]
        pairs = zip(through[5], states[6][0].tolist(), strict=True)
        lacks_normed += [1 - cosine(*pair) for pair in pairs]
    handle.remove()
    want = [math.fsum(some) / 40 for some in lacks]
    found = measure(made, ROWS, neurons=False)
    assert found.tokens == 40 and found.neurons_I == []
    assert found.influence == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert abs(math.fsum(lacks_normed) / 40 - want[5]) > 1e-3, "the final norm would be seen"


def idle(made, place):
    """Have a layer give back what it gets."""
    layer = made.model.layers[place]
    for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
        nn.init.zeros_(out.weight)
    return made


def test_a_layer_that_changes_nothing_has_no_influence_and_goes_first():
    whole = idle(model(LlamaForCausalLM, LlamaConfig), 3).eval()
    found = measure(whole, ROWS, neurons=False).influence
    assert abs(found[3]) < 1e-12 and min(x for i, x in enumerate(found) if i != 3) > 1e-3
    kept = layers.influential(5, found)
    assert kept == [0, 1, 2, 4, 5]
    want = logits(whole)
    torch.testing.assert_close(logits(cut(whole, kept)), want, rtol=0, atol=1e-5)


def test_the_most_influential_layers_are_kept_in_their_order():
    assert layers.influential(3, [0.9, 0.1, 0.5, 0.1, 0.2, 0.7]) == [0, 2, 5]
    assert layers.influential(4, [0.9, 0.1, 0.5, 0.1, 0.0, 0.7]) == [0, 1, 2, 5], "of equals one"


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_neurons_importance_is_the_rms_of_what_it_alone_adds(name):
    made = MODELS[name]().double().eval()
    found = measure(made, ROWS, neurons=True).neurons_I
    assert [len(some) for some in found] == [24] * 6
    for place, neuron in ((0, 0), (2, 7), (5, 23)):
        alone, added = MODELS[name]().double().eval(), []
        mlp = alone.model.layers[place].mlp
        weight = mlp.down_proj.weight
        weight[:, [i for i in range(24) if i != neuron]] = 0
        handle = mlp.register_forward_hook(lambda _, args, out, to=added: to.append(out[0]))
        for row in ROWS:
            alone(torch.tensor([row]))
        handle.remove()
        squares = torch.cat(added).square().sum(-1)
        assert float(found[place][neuron]) == pytest.approx(float(squares.mean().sqrt()), rel=1e-9)


def test_a_width_cut_silences_the_other_neurons_and_loads_as_itself(tmp_path):
    made = model(LlamaForCausalLM, LlamaConfig, mlp_bias=True)
    kept = [[i for i in range(24) if i % 3 != place % 3] for place in range(6)]
    silent = model(LlamaForCausalLM, LlamaConfig, mlp_bias=True)
    for layer, some in zip(silent.model.layers, kept, strict=True):
        others = [i for i in range(24) if i not in some]
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, args, gone=others: args[0].index_fill(-1, torch.tensor(gone), 0)
        )
    want = logits(silent)
    assert not torch.allclose(want, logits(made), atol=0.01)
    narrow(made, kept)
    torch.testing.assert_close(logits(made), want, rtol=0, atol=1e-5)
    assert made.config.intermediate_size == 16
    made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(made))


def test_the_strongest_neurons_are_ascending_and_of_equals_the_earlier():
    assert strongest(3, torch.tensor([1.0, 5.0, 1.0, 0.0, 1.0, 7.0])).tolist() == [0, 1, 5]


class Counted(nn.Module):
    """An MLP whose output depends on how many neurons it has."""

    def __init__(self, inner):
        super().__init__()
        self.up_proj, self.down_proj = inner.up_proj, inner.down_proj

    def forward(self, x):
        return self.down_proj(self.up_proj(x)) / self.down_proj.in_features


def counted():
    made = model(LlamaForCausalLM, LlamaConfig)
    for layer in made.model.layers:
        layer.mlp = Counted(layer.mlp)
    return made


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: model(Phi3ForCausalLM, Phi3Config), "none of the parts of layer 0"),
        (
            lambda: model(Qwen2MoeForCausalLM, Qwen2MoeConfig, num_experts=2,
                          moe_intermediate_size=24, shared_expert_intermediate_size=24,
                          num_experts_per_tok=1),
            "cannot say how wide they are: 0.mlp.shared_expert",
        ),
        (counted, "do more with a neuron than add its output"),
        (gpt2, "none of the parts of layer 0 is an MLP of None neurons"),
    ],
)  # fmt: skip
def test_mlps_that_cannot_be_cut_are_refused(build, said):
    made = build()
    with pytest.raises(InputError, match=said):
        narrow(made, [range(8)] * 6)


def test_a_model_without_finite_numbers_is_refused():
    made = model(LlamaForCausalLM, LlamaConfig).eval()
    nn.init.constant_(made.model.layers[2].mlp.down_proj.weight, math.inf)
    with pytest.raises(InputError, match="hidden states are not finite"):
        measure(made, ROWS, neurons=False)


def corpus(folder):
    """A corpus stage's folder; its validation split is no file that anybody can read."""
    folder.mkdir()
    rows = [Example(id=str(i), instruction=f"{i} + {i}?", response=f"{2 * i}") for i in range(9)]
    write_records(folder / "train.parquet", rows, Example)
    (folder / "validation.parquet").write_text("not to be read")
    return folder


def staged(folder, source, config, **inputs):
    folder.mkdir()
    return Work(
        config={"source": {"fingerprint": "s"}, **config}, inputs=inputs, out=folder,
        local={"models": {"source": local(source)}},
    )  # fmt: skip


def test_stages_measure_training_rows_and_cut_by_them(tmp_path):
    whole = idle(model(LlamaForCausalLM, LlamaConfig), 1)
    dead = [[i for i in range(24) if (i + place) % 4 == 0] for place in range(6)]
    with torch.no_grad():
        for layer, some in zip(whole.model.layers, dead, strict=True):
            layer.mlp.down_proj.weight[:, some] = 0
    tiny.save(tmp_path / "whole", whole)
    rows = corpus(tmp_path / "corpus")
    asked = {"template": tiny.TEMPLATE, "template_date": DATE, "max_length": 64, "rows": 5}
    asked |= {"neurons": True}
    first = staged(tmp_path / "measured", tmp_path / "whole", asked, corpus=rows)
    said = stages.importance(first)
    facts = Importance(first.out).facts.read()
    assert facts["rows"] == 5 and said.startswith(f"5 rows, {facts['tokens']} tokens; layer 1 ")
    texts = [f"Q: {i} + {i}?\nA: {2 * i}." for i in range(5)]  # one token a sign, one for the end
    assert facts["tokens"] == sum(map(len, texts))
    fields = {"layers": 5, "by": "influence", "intermediate": 18}
    second = staged(tmp_path / "cut", tmp_path / "whole", fields, importance=first.out)
    said = stages.cut(second)
    assert "layers 0, 2, 3, 4, 5 of 6, 18 of 24 neurons of each MLP, by 5 training rows" in said
    made = AutoModelForCausalLM.from_pretrained(second.out / "model")
    assert len(made.model.layers) == 5 and made.config.intermediate_size == 18
    want = logits(whole)
    torch.testing.assert_close(logits(made), want, rtol=0, atol=1e-5)


def test_every_field_of_a_measured_cut_is_in_its_key(tmp_path):
    folder = cut_folder(tmp_path)
    for name in ("big", "small"):
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 64}))

    def stage_keys(study=(), **fields):
        student = {"model": "./big"} | fields
        plan = plan_of(folder, students=[student], ablations={}, teachers=["./small"],
                       **dict(study))  # fmt: skip
        found = {s.kind: s for s in plan.stages.values() if s.kind in ("importance", "cut")}
        return {kind: s.key for kind, s in found.items()}, found

    spaced, found = stage_keys(layers=4)
    assert set(spaced) == {"cut"} and set(found["cut"].config) == {"source", "layers"}
    assert not found["cut"].inputs
    choices = [
        {"layers": 4, "by": "influence"},
        {"layers": 5, "by": "influence"},
        {"layers": 4, "intermediate": 32},
        {"layers": 4, "intermediate": 48},
        {"layers": 4, "by": "influence", "intermediate": 32},
        {"intermediate": 32},
    ]
    keys = [stage_keys(**fields)[0] for fields in choices]
    cuts = [k["cut"] for k in keys] + [spaced["cut"]]
    assert len(set(cuts)) == len(cuts)
    # Layers alone, or with neurons: two measurements.
    assert [k["importance"] == keys[0]["importance"] for k in keys] == [True] * 2 + [False] * 4
    # Rows, their split, their length and their prompt decide what is measured; spacing is free.
    (folder / "rows.jsonl").open("a").write('{"prompt": "What?", "completion": "That"}\n')
    for study in ({}, {"train": {"max_length": 99}}, {"template": "alpaca"}):
        moved, _ = stage_keys(study.items(), **choices[0])
        assert moved["importance"] not in {k["importance"] for k in keys}
        assert moved["cut"] not in cuts
        keys.append(moved)
        assert stage_keys(study.items(), layers=4)[0] == spaced


def test_names_tell_measured_cuts_apart(tmp_path):
    folder = cut_folder(tmp_path)
    students = [
        {"model": "./big", "layers": 4},
        {"model": "./big", "layers": 4, "by": "influence"},
        {"model": "./big", "layers": 4, "by": "influence", "intermediate": 8},
        {"model": "./big", "layers": [0, 7], "intermediate": 8},
        {"model": "./big", "layers": [0, 6], "intermediate": 8},
        {"model": "./big", "intermediate": 8, "name": "thin"},
    ]
    plan = plan_of(folder, students=students, ablations={}, teachers=["./small"])
    labels = [s.label for s in plan.stages.values() if s.kind == "cut"]
    assert labels == [
        "big[4 layers]", "big[4 layers by influence]",
        "big[4 layers by influence, intermediate 8]", "big[0,7, intermediate 8]",
        "big[0,6, intermediate 8]", "thin",
    ]  # fmt: skip
    measured = [s for s in plan.stages.values() if s.kind == "importance"]
    assert [s.config["neurons"] for s in measured] == [False, True], "students share them"


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"by": "influence"}, "give their number as layers"),
        ({"by": "influence", "layers": [0, 1]}, "give their number as layers"),
        ({"by": "depth", "layers": 4}, r"students.0..by: "),
        ({"by": "influence", "layers": 9}, "big has 8 layers, and 9 of them are asked for"),
        ({"intermediate": 0}, "students.0..intermediate"),
        ({"intermediate": 64}, "have 64 neurons, and 64 are asked for"),
        ({"layers": 4, "intermediate": 65}, "have 64 neurons, and 65 are asked for"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path, student, said):
    folder = cut_folder(tmp_path)
    path = folder / "big" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 64}))
    with pytest.raises(InputError, match=said):
        plan_of(folder, students=[{"model": "./big"} | student], ablations={})


def test_a_teacher_keeps_its_width(tmp_path):
    teacher = {"model": "./big", "intermediate": 8}
    with pytest.raises(InputError, match=r"teachers\[0\].intermediate: students are cut"):
        plan_of(cut_folder(tmp_path), teachers=[teacher], ablations={})


def test_doctor_counts_what_is_left_of_both(tmp_path):
    whole = model(LlamaForCausalLM, LlamaConfig)
    tiny.save(tmp_path / "whole", whole)
    ref = schema.ModelRef(model="whole", layers=4, by="influence", intermediate=10)
    found = resolve(ref, tmp_path, {})
    facts = doctor_models.facts(found, tmp_path / "whole", ("student",), True, "float32")
    small = model(LlamaForCausalLM, LlamaConfig, intermediate_size=10, num_hidden_layers=4)
    assert facts.parameters == sum(p.numel() for p in small.parameters())
    opened = load.open_model(dataclasses.replace(found).local(), "float32")
    assert sum(p.numel() for p in opened.parameters()) == facts.parameters


def test_a_study_measures_cuts_trains_and_says_what_went(tmp_path):
    """One run, which is why it takes seconds."""
    fields = {
        "name": "measured",
        "teachers": [{"model": "zoo-s", "finetune": False}],
        "students": [
            {"model": "zoo-s", "layers": 2, "by": "influence", "intermediate": 64, "name": "small"}
        ],
        "corpus": {"name": "synthetic", "rows": 33, "validation_rows": 9},
        "benchmarks": ["synth_addsub"],
        "limit": 3,
        "methods": ["sft"],
        "token_rows": 0,
        "train": {"epochs": 0.4, "batch_size": 8, "max_length": 192, "evaluations": 1,
                  "probe_rows": 0, "lora": False},
        "generation": {"max_new_tokens": 4},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))

    def kdstudy(*arguments):
        return forked.kdstudy(*arguments, "--store", "store", cwd=tmp_path)

    planned = kdstudy("plan", "study.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "zoo-s before its cut" in planned.stdout + planned.stderr
    done = kdstudy("run", "study.yaml")
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "store").glob("stages/**/cut.json")
    facts = json.loads(kept.read_text())
    influence = facts["measured"]["influence"]
    gone = min(range(3), key=influence.__getitem__)
    assert facts["kept"] == [i for i in range(3) if i != gone] and facts["measured"]["rows"] == 24
    page = (tmp_path / "store" / "studies" / "measured" / "report.html").read_text()
    assert f"small was cut out of its model: without layers {gone} of 3, 64 of " in page
    assert f"block influence up to {influence[gone]:.3f} gone" in page
    card = kdstudy("export", "study.yaml", "small/sft", "--out", "out")
    assert card.returncode == 0, card.stderr
    assert "| neurons kept of each MLP | 64 |" in (tmp_path / "out" / "README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.intermediate_size == 64
    rows = {r["system"]: r for r in json.loads(kdstudy("models", "study.yaml", "--json").stdout)}
    assert rows["small"]["origin"].endswith("cut to 2 layers by influence, 64 neurons of each MLP")


def test_doctor_knows_what_measuring_takes(tmp_path):
    folder = cut_folder(tmp_path)
    student = {"model": "./big", "layers": 4, "by": "influence", "name": "half"}
    speed = Speed(micro=1, train=1.0, forward=0.5, prompt=1.0, token=1.0, together=1, load=7.0)
    corpus = CorpusFacts(name="rows", train=9, validation=1, read=10, dropped={})
    for teacher, speeds, seconds in (
        ("./big", {"big": speed}, 7 + 9 * 0.5),
        ("./small", {"half": speed, "small": speed}, 7 + 9 * 0.5),
        ("./small", {"small": speed}, None),
    ):
        plan = plan_of(folder, students=[student], ablations={}, teachers=[teacher])
        todo = [s for s in plan.stages.values() if s.kind == "importance"]
        facts = StudyFacts(study=plan.study, plan=plan, todo=tuple(todo), corpus=corpus,
                          speeds=speeds)  # fmt: skip
        (found,) = cost.costs(facts)
        assert (found.kind, found.stages, found.unknown) == ("importance", 1, int(seconds is None))
        assert found.seconds == (seconds or 0.0)
