"""Facts of an invented study without a fault, for tests to break in one place."""

import dataclasses

from kdstudy.config.schema import Study
from kdstudy.distill.kinds import TeacherCacheConfig, TrainConfig
from kdstudy.doctor.facts import (
    BenchmarkFacts,
    CorpusFacts,
    Losses,
    MachineFacts,
    ModelFacts,
    Speed,
    StudyFacts,
    TextFacts,
)
from kdstudy.doctor.findings import Shown, Span
from kdstudy.evaluation.kinds import GenerateConfig, ScoreConfig
from kdstudy.models.checkpoint import Room
from kdstudy.models.kinds import Named
from kdstudy.plan.plan import Plan
from kdstudy.stage import Config, Stage

GIB = 2**30
PROMPTS = {"template": "alpaca", "template_date": "2024-07-26"}
VOCABULARY = {"</s>": 0, "a": 1, "b": 2, "c": 3}
LINEAR = {
    f"model.layers.{i}.self_attn.{n}": (6, 8)
    for i in (0, 1)
    for n in ("q_proj", "k_proj", "v_proj")
} | {f"model.layers.{i}.mlp.{n}": (10, 8) for i in (0, 1) for n in ("up_proj", "down_proj")}


def study(**fields) -> Study:
    given = {
        "name": "t",
        "teachers": ["big"],
        "students": ["small"],
        "corpus": {"path": "rows.jsonl", "validation_rows": 100},
        "benchmarks": ["synth_addsub"],
        "methods": ["sft", "seqkd", "word_kd", "gkd"],
        "train": {"epochs": 2, "evaluations": 5, "max_length": 64},
    }
    return Study.model_validate(given | fields)


def model(name: str, role: str, **fields) -> ModelFacts:
    facts = {
        "name": name,
        "architecture": "qwen2",
        "roles": (role,),
        "parameters": 1000,
        "stored": 4000,
        "width": 4,
        "room": Room(most=4096),
        "hidden": 8,
        "linear": LINEAR,
        "vocabulary": VOCABULARY,
        "tokenizer_hash": "r",
        "eos": "</s>",
        "eos_id": 0,
        "ends": (0,),
    }
    return ModelFacts(**facts | fields)


def stage(kind: str, config: Config) -> Stage:
    return Stage(kind=kind, label=str(config), config=config.hashed())


def named(name: str) -> Named:
    return Named(name=name, fingerprint=name)


def train(method: str, student: str = "small", teacher: str = "", **more) -> Stage:
    config = TrainConfig(
        method={"type": method, **more}, student=named(student), seed=0, **PROMPTS,
        train={"epochs": 2.0, "evaluations": 5}, teacher=named(teacher) if teacher else None,
    )  # fmt: skip
    return stage("train", config)


def cached(teacher: str) -> Stage:
    config = TeacherCacheConfig(
        teacher=named(teacher), max_length=64, loss_turns="all", loss_tokens="response",
        precision="float32", mode="auto", **PROMPTS,
    )  # fmt: skip
    return stage("teacher_cache", config)


def generate(name: str, items: str = "synth_addsub", samples: int = 1) -> Stage:
    config = GenerateConfig(
        model=named(name), items=items, precision="float32", **PROMPTS,
        generation={"max_new_tokens": 256, "samples": samples},
    )  # fmt: skip
    return stage("generate", config)


def plan_of(stages, given) -> Plan:
    return Plan(
        study=given, stages={s.key: s for s in stages}, systems=(), trained={}, scored={},
        results="", report="",
    )  # fmt: skip


def speed(**fields) -> Speed:
    given = {"micro": 4, "train": 0.01, "forward": 0.002, "prompt": 0.003, "token": 0.0001,
             "together": 128, "load": 0.5, "memory": GIB, "distil": {"big": 0.012}}  # fmt: skip
    return Speed(**given | fields)


def healthy(**fields) -> StudyFacts:
    """Return a facts of whom every check says ok, but for what `fields` say."""
    score = stage("score", ScoreConfig(rule="corrected"))
    todo = (train("sft"), train("word_kd", teacher="big"), generate("small"), score)
    mask = Shown(title="row", spans=(Span(part="scored", text="a</s>", tokens=2),))
    prompt = Shown(title="p", spans=(Span(part="prompt", text="a", tokens=1),), ids=(1,))
    given = {
        "study": study(),
        "todo": todo,
        "models": (model("big", "teacher", parameters=5000), model("small", "student")),
        "corpus": CorpusFacts(name="rows", train=900, validation=100, read=1000, dropped={}),
        "texts": (
            TextFacts(
                models=("big", "small"), rows=900, cut=0, dropped=0, unknown=0, tokens=45_000,
                scored=18_000, needed=60, longest=80, parity=(prompt, prompt), masks=(mask,),
            ),
        ),
        "benchmarks": (
            BenchmarkFacts(
                name="synth_addsub", kind="number", found="built in", items=300,
                contaminated={"items": 300, "exact": 0, "normalised": 0, "masked": 0},
            ),
        ),
        "machine": MachineFacts(
            device="cpu", cuda=False, bfloat16=False, free=16 * GIB, store="/s", disk=50 * GIB
        ),
        "speeds": {"big": speed(distil={}), "small": speed()},
        "losses": {
            "big": Losses(nats=(20.0, 30.0), characters=(50, 50)),
            "small": Losses(nats=(40.0, 60.0), characters=(50, 50)),
        },
    }  # fmt: skip
    given |= {"plan": plan_of(todo, given["study"])} | fields
    return StudyFacts(**given)


def changed(field: str, place: int = 0, **facts) -> StudyFacts:
    """Return the same with other facts on one model, text or benchmark."""
    values = list(getattr(healthy(), field))
    values[place] = dataclasses.replace(values[place], **facts)
    return healthy(**{field: tuple(values)})


def on(**facts) -> StudyFacts:
    """Return the healthy facts on another machine."""
    return healthy(machine=dataclasses.replace(healthy().machine, **facts))
