"""A seeded, invented study with real structure: effects, shared errors, texts, one collapse."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.results import collect
from kdstudy.analysis.stats import Test, study_tests
from kdstudy.compared_pairs import compared_pairs, own_sft
from kdstudy.config.schema import Study
from kdstudy.evaluation.fidelity import pair
from kdstudy.measures import MEASURES, Measure, PairMeasure
from kdstudy.plan.plan import make_plan
from kdstudy.records import PairScore, Prompt, Score, System

STUDENTS = {"zoo-xs": 450_000, "zoo-s": 800_000, "zoo-m": 1_600_000}
TEACHER = "zoo-l"
METHODS = ("seqkd", "word_kd", "revkd", "gkd")
BENCHMARKS = {"one_step": 0.9, "two_step": 0.0, "choice": -0.5}
PARAMETERS = {**STUDENTS, TEACHER: 3_200_000}

SKILL = {"zoo-xs": -0.75, "zoo-s": -0.1, "zoo-m": 0.35}
GAIN = {"seqkd": 0.25, "word_kd": 0.4, "revkd": 0.5, "gkd": 0.42}
NAMES = ("Ada", "Ben", "Chidi", "Dara", "Emre", "Farah", "Goro", "Hana")
THINGS = ("apples", "marbles", "stamps", "pencils", "shells", "cards")


@dataclasses.dataclass(frozen=True, eq=False)
class FakeStudy:
    """Everything `collect`, `study_tests` and `write` take, for one invented study."""

    name: str
    systems: list[System]
    scores: dict[str, list[Score]]
    pairs: dict[tuple[str, str], list[PairScore]]
    parameters: dict[str, int]
    items: pd.DataFrame
    pair_items: pd.DataFrame
    provenance: dict[str, Any]
    overlaps: dict[str, dict[str, str]]
    tokens: dict[tuple[str, str], pd.DataFrame]


def systems_of(ablations: bool = True) -> list[System]:
    """Return the invented study's systems: one teacher, three students, four methods."""
    tuned = f"{TEACHER}/sft"
    systems = [System(label=f"{m}/base", kind="base", model=m) for m in PARAMETERS]
    systems.append(System(label=tuned, kind="teacher", model=TEACHER, method="sft", seed=6))
    for student in STUDENTS:
        systems.append(
            System(label=f"{student}/sft", kind="sft", model=student, method="sft", seed=6)
        )
        systems += [_distilled(student, method, tuned) for method in METHODS]
    if ablations:
        systems += [
            _distilled("zoo-s", m, tuned, ablation="temperature", temperature=t)
            for m in ("word_kd", "revkd")
            for t in (2.0, 5.0)
        ]
        systems += [
            _distilled("zoo-s", "word_kd", tuned, ablation="noise", noise=s)
            for s in (1.0, 2.0, 5.0)
        ]
        systems += [
            _distilled(s, "word_kd", f"{TEACHER}/base", ablation="base_teacher") for s in STUDENTS
        ]
    return systems


def planned(
    students: tuple[str, ...] = ("zoo-s",),
    teachers: tuple[str, ...] = (TEACHER,),
    seeds: tuple[int, ...] = (0, 1, 2),
    methods: tuple[str, ...] = ("sft", *METHODS),
    **ablations: Any,
) -> tuple[System, ...]:
    """Return the systems of a study as the planner makes them, labels included."""
    study = {
        "name": "planned",
        "students": list(students),
        "teachers": list(teachers),
        "corpus": {"name": "synthetic", "rows": 300, "validation_rows": 30},
        "benchmarks": ["synth_addsub"],
        "methods": list(methods),
        "seeds": list(seeds),
        "ablations": ablations,
    }
    return make_plan(Study.model_validate(study), Path(), None, {}).systems


def _distilled(student: str, method: str, teacher: str, **more: Any) -> System:
    extra = "".join(f"/{k}={v:g}" for k, v in more.items() if not isinstance(v, str))
    label = f"{student}/{method}/{teacher.replace('/', '-')}{extra}"
    return System(
        label=label,
        kind="distilled",
        model=student,
        teachers=(teacher,),
        method=method,
        seed=6,
        **more,
    )


@functools.cache
def fake_study(
    n: int = 60, seed: int = 0, ablations: bool = True, systems: tuple[System, ...] = ()
) -> FakeStudy:
    """Return an invented study of n items per benchmark; equal arguments, equal study.

    Args:
        n: Items per benchmark.
        seed: Seed of everything invented.
        ablations: Have ablation runs, where `systems` are left out.
        systems: Its systems, as `planned` makes them; else one seed of `systems_of`.
    """
    rng = np.random.default_rng(seed)
    systems = list(systems) or systems_of(ablations)
    questions = {b: [_question(b, i, rng) for i in range(n)] for b in BENCHMARKS}
    luck = {b: _luck(systems, n, rng) for b in BENCHMARKS}
    scores: dict[str, list[Score]] = {}
    for system in systems:
        rows = []
        for benchmark, ease in BENCHMARKS.items():
            level = _level(system) + ease
            for i in range(n):
                rows.append(_score(system, benchmark, i, level, luck, questions, rng))
        scores[system.label] = rows
    pairs = {p: pair(scores[p[0]], scores[p[1]]) for p in compared_pairs(systems)}
    overlaps = {
        b: {q["id"]: _overlap(q["id"]) for q in questions[b]} for b in ("one_step", "two_step")
    }
    return FakeStudy(
        "zoo-demo",
        systems,
        scores,
        pairs,
        PARAMETERS,
        items_frame(scores, questions, overlaps),
        pairs_frame(pairs),
        provenance(systems, n),
        overlaps,
        {(s.label, t): _tokens(rng) for s in systems if not s.ablation for t in s.teachers},
    )


@functools.cache
def with_texts(study: FakeStudy, n: int = 25, seed: int = 1) -> FakeStudy:
    """Return the study with a benchmark of free texts, `follow`, graded by an invented ROUGE-L."""
    rng = np.random.default_rng(seed)
    added = {
        system.label: [_free_text(system, i, 0.35 + 0.06 * _level(system), rng) for i in range(n)]
        for system in study.systems
    }
    asked = [{"id": f"follow-{i:04d}", "question": f"Write on {i}.", "gold": ""} for i in range(n)]
    return _with(study, "follow", added, asked, chance=0.0)


@functools.cache
def with_choices(study: FakeStudy, n: int = 25, seed: int = 1) -> FakeStudy:
    """Return the study with a benchmark of choices by likelihood, `facts`, of 2 to 5 options."""
    rng = np.random.default_rng(seed)
    truth = [rng.normal(size=2 + i % 4) for i in range(n)]
    added = {
        system.label: [
            _choice(i, logits, np.exp(0.5 * _level(system)), rng) for i, logits in enumerate(truth)
        ]
        for system in study.systems
    }
    asked = [
        {
            "id": f"facts-{i:04d}",
            "question": f"Which of {len(logits)} is number {i}?",
            "gold": "ABCDE"[logits.argmax()],
        }
        for i, logits in enumerate(truth)
    ]
    return _with(study, "facts", added, asked, chance=0.3)


def _with(
    study: FakeStudy, name: str, added: dict[str, list[Score]], asked: list[dict], chance: float
) -> FakeStudy:
    """Return the study with one benchmark more."""
    scores = {label: [*rows, *added[label]] for label, rows in study.scores.items()}
    pairs = {p: pair(scores[p[0]], scores[p[1]]) for p in study.pairs}
    items = pd.concat([study.items, items_frame(added, {name: asked}, {})], ignore_index=True)
    facts = {"n": len(asked), "chance": chance, "majority": None, "version": "1"}
    made = study.provenance | {"benchmarks": study.provenance["benchmarks"] | {name: facts}}
    return dataclasses.replace(
        study,
        scores=scores,
        pairs=pairs,
        items=items,
        pair_items=pairs_frame(pairs),
        provenance=made,
    )


def analysed(study: FakeStudy, partial: bool = False) -> tuple[pd.DataFrame, list[Test]]:
    """Return the study's table and tests, of few resamples; a study is analysed once."""
    table, tests = _analysed(study, partial, tuple(MEASURES.values()))
    return table.copy(), list(tests)


@functools.cache
def _analysed(
    study: FakeStudy, partial: bool, _: tuple[Measure | PairMeasure, ...]
) -> tuple[pd.DataFrame, list[Test]]:
    table = collect(
        study.systems,
        study.scores,
        study.pairs,
        study.parameters,
        study.name,
        overlaps=study.overlaps,
        tokens=study.tokens,
        partial=partial,
        bootstrap=Bootstrap(resamples=50),
    )
    chance = {b: facts["chance"] for b, facts in study.provenance["benchmarks"].items()}
    return table, study_tests(table, study.systems, study.scores, chance)


def items_frame(
    scores: dict[str, list[Score]], questions: dict, overlaps: dict[str, dict[str, str]]
) -> pd.DataFrame:
    """Return the report's `items`: one row per system, benchmark, item and draw."""
    text = {(b, q["id"]): (q["question"], q["gold"]) for b, qs in questions.items() for q in qs}
    rows = [
        {
            "system": label,
            **dataclasses.asdict(r),
            "overlap": overlaps.get(r.benchmark, {}).get(r.example_id, ""),
            "question": text[r.benchmark, r.example_id][0],
            "gold": text[r.benchmark, r.example_id][1],
        }
        for label, part in scores.items()
        for r in part
    ]
    return pd.DataFrame(rows)


def pairs_frame(pairs: dict[tuple[str, str], list[PairScore]]) -> pd.DataFrame:
    """Return the report's `pairs`: one row per pair of systems and item."""
    rows = [
        (a, b, r.benchmark, r.example_id, r.sample, r.agree, r.bleu, r.rouge_l, r.steps)
        for (a, b), part in pairs.items()
        for r in part
    ]
    keys = ["system", "reference", "benchmark", "example_id", "sample"]
    return pd.DataFrame(rows, columns=[*keys, "agree", "bleu", "rouge_l", "steps"])


def _overlap(example_id: str) -> str:
    kinds = {0: "exact", 1: "normalised", 2: "masked", 3: "masked"}
    return kinds.get(hash_(example_id) % 16, "none")


def _tokens(rng: np.random.Generator, rows: int = 20) -> pd.DataFrame:
    """Return token-level sums of one pair, as the stage `token_fidelity` writes them."""
    found = []
    for i in range(rows):
        n = int(rng.integers(30, 60))
        row: dict[str, Any] = {"example_id": f"held-{i}", "tokens": n, "agree": int(0.9 * n)}
        for name, nats in (("kl_teacher_student", 0.11), ("kl_student_teacher", 0.14)):
            row[name] = n * nats * float(rng.uniform(0.7, 1.3))
        row |= {"ce_teacher": 0.40 * n, "ce_student": 0.52 * n}
        for model, hit in (("teacher", 0.85), ("student", 0.78)):
            hits = int(hit * n)
            bins = {"tokens": (0, n), "confidence": (0.0, 0.86 * n), "hits": (0, hits)}
            row |= {f"{model}_{part}": pair for part, pair in bins.items()}
        found.append(row)
    return pd.DataFrame(found)


def _free_text(system: System, i: int, closeness: float, rng: np.random.Generator) -> Score:
    words = ["one", "may", "write", f"item{i}", "of", system.model, "well", f"w{rng.integers(9)}"]
    return Score(
        benchmark="follow",
        example_id=f"follow-{i:04d}",
        sample=0,
        completion=" ".join(words),
        extracted="",
        rule="text-rouge_l",
        outcome="rated",
        quality=float(np.clip(closeness + 0.1 * rng.normal(), 0, 1)),
        tokens=len(words),
    )


def _choice(i: int, logits: np.ndarray, skill: float, rng: np.random.Generator) -> Score:
    told = skill * logits + 0.4 * rng.normal(size=len(logits)) - 3.0
    chosen, target = int(told.argmax()), int(logits.argmax())
    words = [f"option {k} of {i}" for k in range(len(logits))]
    return Score(
        benchmark="facts",
        example_id=f"facts-{i:04d}",
        sample=0,
        completion=words[chosen],
        extracted="ABCDE"[chosen],
        rule="choice-likelihood",
        outcome="correct" if chosen == target else "wrong",
        quality=float(chosen == target),
        tokens=0,
        option_logprobs=tuple(told.tolist()),
        option_characters=tuple(map(len, words)),
        option_bytes=tuple(map(len, words)),
        target=target,
    )


def _luck(systems: list[System], n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return latent item scores: a system shares its SFT's, a distilled one its teacher's too."""
    hard = rng.normal(size=n)
    own: dict[str, np.ndarray] = {}
    for s in systems:
        noise = rng.normal(size=n)
        if s.kind != "distilled":
            own[s.label] = 0.7 * hard + 0.7 * noise
            continue
        before = own[own_sft(s, systems).label]
        taught = np.mean([own[teacher] for teacher in s.teachers], axis=0)
        own[s.label] = 0.45 * before + 0.45 * taught + 0.35 * noise + 0.1 * hard
    return own


def _level(system: System) -> float:
    if system.kind == "base":
        return -1.9 if system.model != TEACHER else -1.2
    if system.kind == "teacher":
        return 1.1
    skill = SKILL[system.model]
    if system.kind == "sft":
        return skill
    size_factor = 1.0 - 0.8 * (skill + 0.75)
    gain = GAIN[system.method] * size_factor
    gain -= 0.05 * (system.temperature - 1.0) ** 1.8 + 0.12 * system.noise**1.6
    return skill + gain - (0.9 if system.ablation == "base_teacher" else 0.0)


def _question(benchmark: str, i: int, rng: np.random.Generator) -> dict[str, Any]:
    a, b, c = (int(x) for x in rng.integers(3, 40, size=3))
    name, other = (NAMES[int(x)] for x in rng.choice(len(NAMES), 2, replace=False))
    thing = THINGS[int(rng.integers(len(THINGS)))]
    text = f"{name} has {a} {thing}. {other} gives {name} {b} more."
    gold = a + b
    if benchmark != "one_step":
        text += f" Then {name} loses {min(c, gold)}."
        gold -= min(c, gold)
    text += f" How many {thing} does {name} have now?"
    if benchmark == "choice":
        text += f" Options: (A) {gold - 2} (B) {gold + 5} (C) {gold} (D) {gold * 2}"
    answer = "C" if benchmark == "choice" else str(gold)
    return {
        "id": f"{benchmark}-{i:04d}",
        "question": text,
        "gold": answer,
        "a": a,
        "b": b,
        "total": gold,
        "name": name,
        "thing": thing,
    }


def _score(
    system: System,
    benchmark: str,
    i: int,
    level: float,
    luck: dict[str, dict[str, np.ndarray]],
    questions: dict[str, list[dict[str, Any]]],
    rng: np.random.Generator,
) -> Score:
    q = questions[benchmark][i]
    latent = level + luck[benchmark][system.label][i]
    collapsed = system.noise >= 5 and rng.random() < 0.6
    right = latent > 0 and not collapsed
    wrong_step = 1 if rng.random() < 0.6 else int(rng.integers(2, 9))
    value = q["total"] if right else max(0, q["total"] - wrong_step)
    text = _completion(system, benchmark, q, value, right)
    outcome, extracted = ("correct" if right else "wrong"), _answer(benchmark, q, value, right)
    if collapsed or (system.kind == "base" and rng.random() < 0.35):
        text = f"{q['name']} {q['name']} the the " * 40
        outcome, extracted = ("truncated" if rng.random() < 0.7 else "unparsed"), ""
    return Score(
        benchmark=benchmark,
        example_id=q["id"],
        sample=0,
        completion=text,
        extracted=extracted,
        rule="number-corrected" if benchmark != "choice" else "choice-corrected",
        outcome=outcome,
        quality=float(outcome == "correct"),
        tokens=len(text.split()),
    )


def _answer(benchmark: str, q: dict[str, Any], value: int, right: bool) -> str:
    if benchmark != "choice":
        return str(value)
    return "C" if right else "ABD"[value % 3]


def _completion(system: System, benchmark: str, q: dict[str, Any], value: int, right: bool) -> str:
    """Write in the corpus's style, or in the teacher's where the teacher taught the words."""
    answer = _answer(benchmark, q, value, right)
    first = q["a"] + q["b"] - (0 if right or value % 2 else 1)
    taught = system.kind == "teacher" or (system.kind == "distilled" and hash_(q["id"]) % 10 < 6)
    if taught and system.ablation != "base_teacher":
        return (
            f"Step 1: add what {q['name']} gets: {q['a']} + {q['b']} = {first}.\n"
            f"Step 2: so {q['name']} has {value} {q['thing']}.\nThe answer is {answer}."
        )
    return (
        f"To solve this we count the {q['thing']}. {q['name']} starts with {q['a']} and gets "
        f"{q['b']}, that makes {first}. In the end there are {value}.\nThe answer is {answer}."
    )


def hash_(text: str) -> int:
    """Return a small number that depends on the text alone (`hash` is salted per process)."""
    return sum(ord(c) * (i + 1) for i, c in enumerate(text))


def _stage_labels(systems: list[System]) -> list[str]:
    trained = [f"train|{s.label}" for s in systems if s.kind != "base"]
    return trained + [f"generate|{s.label} on {b}" for s in systems for b in BENCHMARKS]


def provenance(systems: list[System], n: int) -> dict[str, Any]:
    """Return how the invented study was made."""
    steps = range(0, 401, 40)
    return {
        "study": {
            "name": "zoo-demo",
            "protocol": "corrected",
            "seeds": sorted({s.seed for s in systems if s.kind == "distilled"}),
        },
        "study_text": "name: zoo-demo\nteachers: [zoo-l]\nstudents: [zoo-xs, zoo-s, zoo-m]\n"
        "methods: [sft, seqkd, word_kd, revkd, gkd]\n",
        "protocol_differences": [
            {
                "field": "decoding",
                "value": "sampled at temperature 1",
                "corrected": "greedy",
                "why": "one draw per item adds noise that no interval here would show",
            }
        ],
        "versions": {"kdstudy": "0.1.0", "python": "3.11", "torch": "2.9", "transformers": "5.0"},
        "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 15.6, "gpu": ""},
        "stages": [
            {
                "key": f"{i:08x}",
                "kind": label.partition("|")[0],
                "label": label.partition("|")[2],
                "seconds": 3.0 + i % 7,
                "status": "ran" if i % 3 else "kept",
                "started": "2026-01-01T00:00:00Z",
            }
            for i, label in enumerate(_stage_labels(systems))
        ],
        "corpus": {
            "name": "zoo-words",
            "read": 2000,
            "kept": 1874,
            "train": 1774,
            "validation": 100,
            "dropped": {"same question as a test item": 96, "longer than 256 tokens": 30},
            "truncated": 0,
        },
        "training": [
            {
                "system": s.label,
                "curve": [
                    {
                        "step": t,
                        "loss": 2.0 * np.exp(-t / 90) + 0.3,
                        "eval_loss": 2.1 * np.exp(-t / 95) + 0.35 + 0.03 * j,
                    }
                    for t in steps
                ],
                "seconds": 40.0 + j,
                "tokens_per_second": 5200.0 - 90 * j,
            }
            for j, s in enumerate(s for s in systems if s.kind != "base")
        ],
        "benchmarks": {
            b: {"n": n, "chance": 0.25 if b == "choice" else 0.0, "majority": 0.3, "version": "1"}
            for b in BENCHMARKS
        },
    }


def prompts_of(study: FakeStudy) -> list[Prompt]:
    """Return invented prompts of a study's items: a template of each model, options of `facts`."""
    rows = study.items.drop_duplicates(["benchmark", "example_id"])
    found = []
    for benchmark, name, question, told in zip(
        rows.benchmark, rows.example_id, rows.question, rows.option_logprobs, strict=True
    ):
        if told:
            number = int(name.rpartition("-")[2])
            scored = tuple(f" option {k} of {number}" for k in range(len(told)))
            own = {"labels": tuple("ABCDE"[: len(told)]), "given": ("",) * len(told)}
            text = f"Question: {question}\nAnswer:"
            found.append(
                Prompt(
                    benchmark=benchmark, example_id=name, model="", text=text, scored=scored, **own
                )
            )
            continue
        for model in sorted({s.model for s in study.systems}):
            system = "<|im_start|>system\nYou are a teacher.<|im_end|>\n" * (model == TEACHER)
            text = f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            found.append(Prompt(benchmark=benchmark, example_id=name, model=model, text=text))
    return found
