"""Students cut in depth: what is kept, what is written, what the study makes of it."""

import copy
import itertools
import json
import math

import forked
import pytest
import study_folder
import tiny_models as tiny
import torch
import yaml
from cut_models import IDS, cut_folder, gpt2, logits, model
from peft import LoraConfig, get_peft_model
from study_folder import plan_of, write_folder
from torch import nn
from train_stage import local
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from kdstudy.config import schema
from kdstudy.config.read import read_study
from kdstudy.doctor import cost
from kdstudy.doctor import models as doctor_models
from kdstudy.doctor.facts import Speed, StudyFacts
from kdstudy.errors import InputError
from kdstudy.models import layers, load, zoo
from kdstudy.models.cut import cut
from kdstudy.models.resolve import resolve
from kdstudy.models.stages import cut as cut_stage
from kdstudy.plan.plan import make_plan
from kdstudy.stage import Work

pytestmark = pytest.mark.filterwarnings("ignore")
EXPERTS = {"moe_intermediate_size": 8, "num_experts_per_tok": 2}
ATTENTION = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
             "v_head_dim": 4, "num_key_value_heads": 4}  # fmt: skip
SHARED = {"shared_expert_intermediate_size": 8, "num_experts": 6}
FULL, SLIDING = "full_attention", "sliding_attention"


# Each model, and what a configuration by hand says of layers 0, 2, 3 and 5.
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3}
MODELS = {
    "llama": (lambda: model(LlamaForCausalLM, LlamaConfig), {}),
    "qwen2": (
        lambda: model(Qwen2ForCausalLM, Qwen2Config, **WINDOWS),
        {"layer_types": [FULL, FULL, SLIDING, SLIDING]},
    ),
    "gpt2": (gpt2, {}),
    "gemma2": (
        lambda: model(Gemma2ForCausalLM, Gemma2Config, head_dim=4, sliding_window=4),
        {"layer_types": [SLIDING, SLIDING, FULL, FULL]},
    ),
    "smollm3": (
        lambda: model(SmolLM3ForCausalLM, SmolLM3Config, no_rope_layer_interval=3),
        {"no_rope_layers": [1, 0, 1, 0]},
    ),
    "qwen2_moe": (
        lambda: model(Qwen2MoeForCausalLM, Qwen2MoeConfig, mlp_only_layers=[1, 3], **EXPERTS,
                      **SHARED),
        {"mlp_only_layers": [2]},
    ),
    "deepseek_v3": (
        lambda: model(DeepseekV3ForCausalLM, DeepseekV3Config, first_k_dense_replace=3,
                      n_routed_experts=4, n_group=1, topk_group=1, **EXPERTS, **ATTENTION),
        {"first_k_dense_replace": 2},
    ),
}  # fmt: skip
KEPT = [0, 2, 3, 5]


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_model_is_the_one_built_by_hand_and_loads_as_itself(tmp_path, name):
    build, said = MODELS[name]
    made, hand = cut(build(), KEPT), build()
    body = hand.get_decoder()
    stack = "h" if name == "gpt2" else "layers"
    setattr(body, stack, nn.ModuleList([getattr(body, stack)[i] for i in KEPT]))
    hand.config.num_hidden_layers = 4
    for field, value in said.items():
        setattr(hand.config, field, value)
        assert (
            list(v) == value if isinstance(v := getattr(made.config, field), list) else v == value
        )
    want = logits(hand, use_cache=False)
    assert torch.equal(logits(made, use_cache=False), want)
    assert not torch.allclose(want, logits(build(), use_cache=False), atol=0.01)
    numbers = {m.layer_idx for m in made.modules() if hasattr(m, "layer_idx")}
    assert numbers in ({0, 1, 2, 3}, set())
    assert made.config.num_hidden_layers == 4 and made.config.kept_layers == KEPT
    made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, use_cache=False), want)
    # A cache knows its layers by number.
    past = again(input_ids=IDS[:, :-1], use_cache=True).past_key_values
    last = logits(again, IDS[:, -1:], past_key_values=past)
    torch.testing.assert_close(last[:, 0], want[:, -1], rtol=0, atol=1e-3)


def test_a_model_that_is_cut_twice_says_which_layers_of_the_first_are_left():
    once = cut(model(LlamaForCausalLM, LlamaConfig), [0, 1, 3, 4, 5])
    twice = cut(once, [0, 2, 4])
    straight = cut(model(LlamaForCausalLM, LlamaConfig), [0, 3, 5])
    assert twice.config.kept_layers == [0, 3, 5]
    assert torch.equal(logits(twice), logits(straight))


def not_a_list():
    made = model(LlamaForCausalLM, LlamaConfig)
    made.model.layers = nn.Sequential(*made.model.layers)
    return made


def two_lists():
    made = model(LlamaForCausalLM, LlamaConfig)
    made.model.others = nn.ModuleList([nn.Identity() for _ in range(6)])
    return made


class Numbered(nn.Module):
    """An attention that computes with its layer's number."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.layer_idx = inner, inner.layer_idx

    def forward(self, *args, **kwargs):
        out, *rest = self.inner(*args, **kwargs)
        return (out / (1 + self.layer_idx), *rest)


def numbered():
    made = model(LlamaForCausalLM, LlamaConfig)
    for layer in made.model.layers:
        layer.self_attn = Numbered(layer.self_attn)
    return made


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (not_a_list, "none of its body's parts is a list of 6 layers"),
        (two_lists, "2 of its body's parts is a list of 6"),
        (numbered, "its layers compute with their own number"),
        (lambda: gpt2(scale_attn_by_inverse_layer_idx=True), r"1\.attn has another scaling"),
        (
            lambda: model(Qwen2MoeForCausalLM, Qwen2MoeConfig, decoder_sparse_step=2, **EXPERTS,
                          **SHARED),
            r"configuration cannot say which layers are left: 1\.mlp has another class",
        ),
    ],
)  # fmt: skip
def test_architectures_that_cannot_be_cut_are_refused(build, said):
    with pytest.raises(InputError, match=said):
        cut(build(), KEPT)


def test_kept_layers_are_evenly_spaced_from_the_first_to_the_last():
    for of in range(2, 40):
        for keep in range(2, of):
            kept = layers.evenly(keep, of)
            ideal = [math.floor(i * (of - 1) / (keep - 1) + 0.5 + 1e-12) for i in range(keep)]
            assert kept == ideal and kept[0] == 0 and kept[-1] == of - 1
            gaps = {b - a for a, b in itertools.pairwise(kept)}
            assert max(gaps) - min(gaps) <= 1 and min(gaps) >= 1
    assert layers.evenly(6, 8) == [0, 1, 3, 4, 6, 7]


@pytest.mark.parametrize(
    ("students", "said"),
    [
        ([{"model": "./big", "layers": 9}], "big has 8 layers, and 9 of them are asked for"),
        ([{"model": "./big", "layers": [0, 8]}], "layer 8 is asked for[^§]*the last is 7"),
        ([{"model": "./big", "layers": 8}], "all are kept[^§]*leave layers out"),
        ([{"model": "./big", "layers": list(range(8))}], "all are kept"),
        ([{"model": "./big", "layers": 1}], r"line \d+: students.0..layers: .*greater than or eq"),
        ([{"model": "./big", "layers": True}], "students.0..layers"),
        ([{"model": "./big", "layers": []}], "students.0..layers: .*at least 1 item"),
        ([{"model": "./big", "layers": [0, -1]}], r"students.0..layers\[1\]: .*greater than or"),
        ([{"model": "./big", "layers": [0, 3, 3]}], r"kept once; write \[0, 3\]"),
        ([{"model": "./big", "layers": [3, 0]}], r"keep their order[^§]*write \[0, 3\]"),
        ([{"model": "./big", "layers": "half"}], "students.0..layers: .*valid integer"),
        ([{"model": "./big", "name": "mine"}], "name: is what a cut student is called"),
        ([{"model": "./big", "layers": 4, "name": "a/b"}], "students.0..name"),
        ([{"model": "./big", "layers": n, "name": "one"} for n in (4, 5)], "one is listed twice"),
        ([{"model": "./big", "layers": 4}] * 2, "listed twice"),
        (
            [{"model": "./big", "layers": 3}, {"model": "./big", "layers": [0, 4, 7]}],
            "are cut alike, to layers 0, 4, 7",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_runs(tmp_path, students, said):
    with pytest.raises(InputError, match=said):
        plan_of(cut_folder(tmp_path), students=students, ablations={})


def test_a_teacher_is_used_whole(tmp_path):
    with pytest.raises(InputError, match=r"teachers\[0\].layers: students are cut"):
        plan_of(cut_folder(tmp_path), teachers=[{"model": "./big", "layers": 3}], ablations={})


def test_a_cut_student_is_a_model_of_its_own_in_the_plan(tmp_path):
    folder = cut_folder(tmp_path)
    students = [
        "./small",
        {"model": "./big", "layers": 4},
        {"model": "./big", "layers": [0, 1, 2, 7]},
        {"model": "./medium", "layers": [0, 7], "name": "ends"},
        {"model": "./small", "layers": 5},
    ]
    ablations = {"noise": {"methods": ["word_kd"], "values": [1]}, "students": ["ends"]}
    methods = ["sft", "word_kd", {"type": "gkd", "start": "sft"}]
    plan = plan_of(folder, students=students, methods=methods, ablations=ablations)
    names = ["small", "big[4 layers]", "big[0,1,2,7]", "ends", "small[5 layers]"]
    bases = [s.label for s in plan.systems if s.kind == "base"]
    assert bases == [*names, "big"]
    cuts = {s.label: s for s in plan.stages.values() if s.kind == "cut"}
    assert [*cuts] == names[1:]
    assert cuts["big[0,1,2,7]"].config["layers"] == (0, 1, 2, 7)
    assert cuts["ends"].local["models"]["source"]["folder"] == str(folder / "medium")
    for name in names[1:]:
        run = plan.stages[plan.trained[f"{name}/word_kd/big"]]
        assert run.inputs["cut:student"] == cuts[name].key
        assert run.local["models"]["student"]["folder"] is None, "it lies in the store"
        base = next(s for s in plan.stages.values() if s.label == f"{name} on synth_addsub")
        assert base.inputs["cut:model"] == cuts[name].key
    ablated = {s.model for s in plan.systems if s.ablation}
    assert ablated == {"ends"}
    # What is whole keeps its keys.
    plain = plan_of(folder, students=["./small"], methods=methods, ablations={})
    for label in ("small/sft", "small/word_kd/big", "big/teacher"):
        assert plain.trained[label] == plan.trained[label]


def test_weights_layers_and_nothing_else_decide_what_a_cut_is(tmp_path):
    def key(**fields):
        student = {"model": "./big", "layers": 4} | fields
        plan = plan_of(tmp_path, students=[student], ablations={}, teachers=["./small"])
        return next(k for k, s in plan.stages.items() if s.kind == "cut")

    cut_folder(tmp_path)
    first = key()
    assert key(name="mine") == first != key(layers=5)
    (tmp_path / "big" / "model.safetensors").write_bytes(b"other")
    assert key() != first


def test_a_model_of_the_hub_that_is_not_here_is_planned_by_what_is_written(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "study.yaml").write_text(
        yaml.safe_dump(
            study_folder.STUDY
            | {"students": [{"model": "some/model", "layers": 40}], "ablations": {}}
        )
    )
    pins = {"some/model@main": "0" * 40}
    plan = make_plan(read_study(folder / "study.yaml"), folder, None, pins)
    assert "model[40 layers]/sft" in plan.trained


def work(folder, source, kept, adapter=None):
    (folder / "out").mkdir(parents=True)
    return Work(
        config={"source": {"fingerprint": "s"}, "layers": kept}, inputs={}, out=folder / "out",
        local={"models": {"source": local(source, adapter) | {"layers": kept}}},
    )  # fmt: skip


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_stage_keeps_type_tokenizer_and_settings(tmp_path, stored):
    whole = model(LlamaForCausalLM, LlamaConfig).to(stored)
    whole.generation_config.update(do_sample=True, top_k=7)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tiny.save(tmp_path / "whole", whole, tokenizer)
    done = work(tmp_path, tmp_path / "whole", 4)
    count, layer = (
        sum(p.numel() for p in part.parameters()) for part in (whole, whole.model.layers[0])
    )
    share = f"{1 - 2 * layer / count:.0%} of the parameters"
    assert cut_stage(done) == f"layers 0, 2, 3, 5 of 6; {share}"
    facts = json.loads((done.out / "cut.json").read_text())
    assert facts == {"of": 6, "kept": [0, 2, 3, 5], "parameters": count - 2 * layer,
                     "parameters_before": count}  # fmt: skip
    made = AutoModelForCausalLM.from_pretrained(done.out / "model", dtype="auto")
    assert made.dtype == stored and made.generation_config.top_k == 7
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="auto")
    assert torch.equal(logits(made), logits(cut(loaded, [0, 2, 3, 5])))
    for file in (tmp_path / "whole").iterdir():
        if not file.name.startswith(("model", "config")):
            assert (done.out / "model" / file.name).read_bytes() == file.read_bytes(), file


def test_a_users_adapter_is_merged_before_the_cut(tmp_path):
    whole = model(LlamaForCausalLM, LlamaConfig)
    tiny.save(tmp_path / "whole", whole)
    given = get_peft_model(copy.deepcopy(whole), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in given.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    given.save_pretrained(tmp_path / "given")
    done = work(tmp_path, tmp_path / "whole", [1, 4], tmp_path / "given")
    cut_stage(done)
    made = load.load_model(done.out / "model", precision="float32").cpu()
    want = cut(given.merge_and_unload(), [1, 4])
    torch.testing.assert_close(logits(made), logits(want), rtol=0, atol=1e-4)


def test_doctor_counts_what_is_left(tmp_path):
    whole = model(LlamaForCausalLM, LlamaConfig)
    tiny.save(tmp_path / "whole", whole)
    ref = schema.ModelRef(model="whole", layers=[0, 5])
    found = resolve(ref, tmp_path, {})
    facts = doctor_models.facts(found, tmp_path / "whole", ("student",), True, "float32")
    assert facts.name == "whole[2 layers]"
    assert facts.parameters == sum(p.numel() for p in cut(whole, [0, 5]).parameters())


def test_a_study_with_cut_students_is_run_listed_and_handed_out(tmp_path):
    """One is trained whole, as `lora: false` says; another study puts adapters on it.

    Two studies and three exports, which is why it takes seconds.
    """
    fields = {
        "name": "cut",
        "teachers": [{"model": "zoo-s", "finetune": False}],
        "students": [{"model": "zoo-s", "layers": [0, 2]}],
        "corpus": {"name": "synthetic", "rows": 33, "validation_rows": 9},
        "benchmarks": ["synth_addsub"],
        "limit": 5,
        "methods": ["sft"],
        "token_rows": 3,
        "train": {"epochs": 1, "batch_size": 8, "max_length": 192, "evaluations": 1,
                  "probe_rows": 0, "lora": False},
        "generation": {"max_new_tokens": 8},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))
    fields["train"]["lora"] = {"r": 2}
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(fields | {"name": "lora"}))

    def kdstudy(*arguments):
        return forked.kdstudy(*arguments, "--store", "store", cwd=tmp_path)

    for study in ("study.yaml", "lora.yaml"):
        done = kdstudy("run", study)
        assert done.returncode == 0, done.stderr
        assert study == "lora.yaml" or "layers 0, 2 of 3; 83% of the parameters" in done.stderr
    rows = {r["system"]: r for r in json.loads(kdstudy("models", "study.yaml", "--json").stdout)}
    base = rows["zoo-s[2 layers]"]
    made = AutoModelForCausalLM.from_pretrained(tmp_path / base["path"], dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(zoo.path("zoo-s"), dtype=torch.float32)
    whole.model.layers = nn.ModuleList([whole.model.layers[0], whole.model.layers[2]])
    whole.config.num_hidden_layers = 2
    assert torch.equal(logits(made, use_cache=False), logits(whole, use_cache=False))
    assert base["parameters"] == sum(p.numel() for p in whole.parameters())
    assert base["origin"].endswith("zoo-s\ncut to layers 0, 2")
    sft = "zoo-s[2 layers]/sft"
    assert rows[sft]["parameters"] == base["parameters"] and rows[sft]["path"].endswith("/model")
    done = kdstudy("export", "study.yaml", sft, "--out", "whole")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "| layers kept | 0, 2 |" in card and "Made from `zoo-s`" in card
    assert str(tmp_path) not in card
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "whole").config.num_hidden_layers == 2
    refused = kdstudy("export", "lora.yaml", sft, "--out", "adapter")
    assert refused.returncode == 2 and "its base was cut out of zoo-s" in refused.stderr
    assert kdstudy("export", "lora.yaml", sft, "--out", "merged", "--merge").returncode == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_doctor_counts_the_folder_that_a_cut_writes(tmp_path):
    tiny.save(tmp_path / "whole", model(LlamaForCausalLM, LlamaConfig))
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "cost",
                "teachers": ["./whole"],
                "students": [{"model": "./whole", "layers": 3, "name": "half"}],
                "corpus": {"name": "synthetic", "rows": 20, "validation_rows": 5},
                "benchmarks": ["synth_addsub"],
                "limit": 2,
            }
        )
    )
    plan = make_plan(read_study(tmp_path / "study.yaml"), tmp_path, None, {})
    half = resolve(plan.study.students[0], tmp_path, {})
    facts = doctor_models.facts(half, tmp_path / "whole", ("student",), True, "float32")
    speed = Speed(micro=1, train=1.0, forward=1.0, prompt=1.0, token=1.0, together=1, load=7.0)
    todo = [s for s in plan.stages.values() if s.kind == "cut"]
    facts = StudyFacts(
        study=plan.study, plan=plan, todo=tuple(todo), models=(facts,), speeds={"half": speed}
    )
    size = (tmp_path / "whole" / "model.safetensors").stat().st_size  # and no less
    (found,) = cost.costs(facts)
    assert (found.kind, found.seconds, found.disk, found.unknown) == ("cut", 14.0, size, 0)
