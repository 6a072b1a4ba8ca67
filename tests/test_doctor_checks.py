"""The doctor's checks, one fault at a time, on invented facts."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from study_facts import (
    GIB,
    VOCABULARY,
    cached,
    changed,
    generate,
    healthy,
    model,
    named,
    on,
    plan_of,
    speed,
    study,
    train,
)

from kdstudy.distill.kinds import TrainConfig
from kdstudy.doctor import cost
from kdstudy.doctor.checks import CHECKS, check
from kdstudy.doctor.facts import (
    Accuracy,
    AdapterFacts,
    CorpusFacts,
    Failure,
    Losses,
    ModelFacts,
)
from kdstudy.doctor.findings import EXIT_CODES, Finding, Shown, Span, worst
from kdstudy.doctor.view import document, show
from kdstudy.errors import InputError, KdstudyError
from kdstudy.models.checkpoint import Room
from kdstudy.models.kinds import named_in
from kdstudy.stage import Stage

OTHER = VOCABULARY | {"b": 3, "c": 2}
REFUSED = InputError("what is refused", why="why", remedy="remedy")


def corpus(**facts):
    return healthy(corpus=dataclasses.replace(healthy().corpus, **facts))


def failed(part: str, which: str):
    return healthy(failures=(Failure(part=part, error=REFUSED, check=which),))


def adapted(**facts):
    return changed("models", 1, adapter=AdapterFacts(folder="a", **facts))


def losses(teacher: float, *, finetuned: bool = True):
    small = Losses(nats=(50.0,), characters=(100,))
    both = {"big": Losses(nats=(teacher,), characters=(100,)), "small": small}
    return dataclasses.replace(changed("models", finetuned=finetuned), losses=both)


def beyond(room: Room, **texts):
    """A model of 4 rows, 2 of them longer than 50 tokens, and 3 prompts, one longer than 10."""
    lengths = {"lengths": (40, 50, 51, 90), "prompts": {"synth_addsub": (9, 10, 11)}} | texts
    return dataclasses.replace(
        changed("models", 1, room=room), texts=changed("texts", **lengths).texts
    )


def accuracies(teacher: float):
    rows = [("big/teacher", "teacher", "big", teacher), ("small/sft", "sft", "small", 0.5)]
    found = [Accuracy(label=a, kind=b, model=c, value=d, items=300) for a, b, c, d in rows]
    return healthy(accuracies=tuple(found))


def speeds(**facts):
    found = healthy().speeds
    return healthy(speeds=found | {"small": dataclasses.replace(found["small"], **facts)})


BROKEN = {
    "a class that contradicts its file": (
        changed("models", 1, replaced="GPT2Tokenizer"), "tokenizer", "note", "GPT2Tokenizer"),
    "another tokenizer": (
        changed("models", 1, vocabulary=OTHER), "vocabulary", "error", "'b' is 3"),
    "a narrow head": (changed("models", 1, width=3), "vocabulary", "error", "embeddings for 3"),
    "padded rows": (changed("models", 0, width=6), "vocabulary", "note", "the first 4 are used"),
    "another end in the configuration": (
        changed("models", 1, ends=(2, 3)), "endings", "warning", "configuration with 2, 3"),
    "another end than the teacher": (
        changed("models", 1, eos="a", eos_id=1, ends=(1,)), "endings", "warning", "ends with 'a'"),
    "a tokenizer that reads otherwise": (
        changed("models", 1, tokenizer_hash="x", bos="<s>"),
        "template", "warning", "only one puts a token"),
    "no chat template": (
        healthy(study=study(template="chat")), "template", "error", "no chat template"),
    "other prompts in evaluation": (
        changed("texts", prompt_mismatches=3), "parity", "error", "3 of 900"),
    "nothing scored": (
        changed("texts", masks=(Shown(title="r", spans=()),)), "masks", "error", "scored"),
    "many rows cut": (changed("texts", cut=100), "truncation", "error", "100 of 900 train"),
    "some rows cut": (
        changed("texts", cut=20, dropped=5), "truncation", "warning", "20 are cut, 5"),
    "few rows cut": (changed("texts", cut=2), "truncation", "note", "2 are cut"),
    "rows beyond a table of positions": (
        beyond(Room(most=50, fixed=True)), "positions", "error",
        "small: qwen2: a text of 267 tokens is longer than the model's 50 positions: 2 of 4 rows "
        "of the corpus are longer (max_length 64)"),
    "prompts beyond it, with their answers": (
        beyond(Room(most=266, fixed=True), lengths=()), "positions", "error",
        "1 of 3 prompts of synth_addsub are longer with 256 new tokens"),
    "rows beyond what rotary positions were made for": (
        beyond(Room(most=50)), "positions", "warning", "3 of 3 prompts of synth"),
    "references in another script": (
        changed("benchmarks", foreign=200), "scripts", "warning", "200 of 300 items"),
    "some references in another script": (
        changed("benchmarks", foreign=20), "scripts", "note", "20 of 300 items"),
    "unknown characters": (changed("texts", unknown=900), "unknown", "warning", "900 of 45,000"),
    "empty rows": (corpus(dropped={"empty prompt": 30}), "rows", "warning", "30 empty prompt"),
    "repeated rows": (corpus(repeated=9), "rows", "note", "9 of 1,000 rows repeat"),
    "leaked rows": (corpus(leaked=4), "rows", "warning", "4 of 100 validation rows"),
    "a contaminated corpus": (
        changed("benchmarks",
                contaminated={"items": 300, "exact": 5, "normalised": 7, "masked": 20}),
        "contamination", "warning", "7 of 300 items, of 13 more"),
    "other numbers alone": (
        changed("benchmarks",
                contaminated={"items": 300, "exact": 0, "normalised": 0, "masked": 2}),
        "contamination", "note", "0 of 300 items, of 2 more"),
    "an edited benchmark": (
        changed("benchmarks", found="data folder, edited"), "benchmarks", "warning", "published"),
    "a broken benchmark": (
        dataclasses.replace(failed("benchmark x", "benchmarks"), benchmarks=()),
        "benchmarks", "error", "what is refused"),
    "an absent benchmark": (
        changed("benchmarks", found="nowhere", items=None, note="downloaded from x when used"),
        "benchmarks", "note", "downloaded from x"),
    "LoRA on layers that are not there": (
        healthy(study=study(train={"lora": {"target_modules": ["q_proj", "wq"]}})),
        "adapters", "error", "wq is no linear layer"),
    "an adapter of another shape": (
        adapted(base="org/small", refusal=REFUSED), "adapters", "error", "what is refused"),
    "an adapter of another name": (
        adapted(base="org/medium"), "adapters", "warning", "names org/medium"),
    "a hopeless teacher": (losses(63.0), "teacher", "warning", "0.630 nats"),
    "a teacher that is behind for now": (losses(55.0), "teacher", "note", "0.550 nats"),
    "the same, used as it is": (losses(55.0, finetuned=False), "teacher", "warning", "0.550"),
    "a trained teacher that is worse": (accuracies(0.45), "teacher", "warning", "45.0% right"),
    "slow bfloat16": (
        healthy(study=study(train={"precision": "bfloat16"})), "device", "warning", "bfloat16"),
    "a GPU left idle": (
        dataclasses.replace(on(cuda=True, bfloat16=True, device="G"),
                            study=study(train={"precision": "float32"})),
        "device", "note", "computes in float32"),
    "no vLLM": (
        failed("vllm", "device"), "device", "error", "what is refused"),
    "too little memory": (on(free=GIB // 2), "memory", "error", "needs most: 1.0 GiB"),
    "hardly enough memory": (on(free=int(1.1 * GIB)), "memory", "warning", "(measured)"),
    "a read-only store": (
        failed("store", "store"), "store", "error", "what is refused"),
    "a full disk": (on(disk=1000), "store", "error", "0.0 MiB free"),
    "no network": (
        failed("Hub", "downloads"), "downloads", "error", "what is refused"),
    "a small disk for downloads": (
        on(downloads={"org/m": 9 * GIB}, download_disk=10 * GIB), "downloads", "error", "9.0 GiB"),
    "a download": (
        on(downloads={"org/m": GIB}, download_disk=10 * GIB), "downloads", "note", "(1.0 GiB)"),
    "a week of work": (speeds(train=500.0), "time", "note", "about "),
    "an unmeasured model": (healthy(speeds={}), "time", "note", "3 of 3 stages unknown"),
    "code of a model": (changed("models", 1, trusted=True), "study", "note", "runs Python code"),
    "a study that is wrong": (
        dataclasses.replace(failed("plan", "study"), plan=None),
        "study", "error", "what is refused"),
    "a stuck look": (
        healthy(failures=(Failure(part="probe of big", error=KdstudyError("late"), slow=True),)),
        "doctor", "warning", "probe of big"),
    "a crashed look": (
        healthy(failures=(Failure(part="text", error=KdstudyError("KeyError: 'x'")),)),
        "doctor", "warning", "KeyError"),
}  # fmt: skip


def test_a_healthy_study_is_ok_everywhere():
    findings = check(healthy())
    assert {f.level for f in findings} == {"ok"}
    # What has nothing to say of a healthy study: unknown tokens, other scripts, trackers,
    # downloads, failures, an alignment, a start that writes.
    assert len({f.check for f in findings}) == len(CHECKS) - 7


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_found_and_nothing_else_is_worse(name):
    facts, which, level, words = BROKEN[name]
    findings = check(facts)
    found = [f for f in findings if f.check == which and f.level == level]
    assert found and words in found[0].what, [f.what for f in findings if f.check == which]
    # An explanation and a remedy belong to whatever a person should act on.
    assert all(f.why and f.remedy for f in findings if f.level not in ("ok",) and not
               facts.failures)  # fmt: skip
    assert worst(findings) == level, [(f.check, f.level, f.what) for f in findings]


def test_a_pair_that_only_exchanges_text_may_differ_in_vocabulary():
    facts = changed("models", 1, vocabulary=OTHER)
    facts = dataclasses.replace(facts, study=study(methods=["sft", "seqkd"]))
    (found,) = [f for f in check(facts) if f.check == "vocabulary"]
    assert found.level == "note"


def test_a_cache_that_does_not_fit_is_a_note_unless_it_is_demanded():
    stage = cached("big")
    # Tokens scored x hidden width x bytes, over both parts of the corpus.
    needed = 18_000 // 900 * 1000 * 8 * 4
    for mode, level in (("auto", "note"), ("disk", "error")):
        settings = {"teacher_cache": mode, "max_length": 64}
        facts = healthy(todo=(stage,), study=study(train=settings))
        facts = dataclasses.replace(facts, machine=dataclasses.replace(facts.machine, disk=needed))
        (found,) = [f for f in check(facts) if f.check == "store"]
        assert (found.level, found.facts["cache"]) == (level, needed)


def trained(stage):
    return dataclasses.replace(stage, inputs={"trained": "some train stage"})


def test_time_and_disk_are_those_of_a_hand_calculation():
    """Rows, answers and speeds of the healthy facts, worked out on paper."""
    seconds = [
        # load + epochs x rows x seconds + evaluations x validation rows x forward
        (train("sft"), 0.5 + 2 * 900 * 0.01 + 5 * 100 * 0.002),
        (train("word_kd", teacher="big"), 0.5 + 2 * 900 * 0.012 + 5 * 100 * 0.002),
        # half the steps: the teacher run, a prompt read, 20 tokens written
        (
            train("gkd", teacher="big", lmbda=0.5),
            0.5 + 2 * 900 * (0.012 + 0.5 * 0.002 + 0.5 * (0.003 + 20 * 0.0001)) + 5 * 100 * 0.002,
        ),
        # Trained on the corpus it writes answers of its length; as it comes, up to the budget.
        (trained(generate("small", samples=2)), 0.5 + 2 * 300 * (0.003 + 20 * 0.0001)),
        (generate("small", samples=2), 0.5 + 2 * 300 * (0.003 + 256 * 0.0001)),
    ]
    for stage, expected in seconds:
        (found,) = cost.costs(healthy(todo=(stage,)))
        assert found.seconds == pytest.approx(expected), stage.config
    (long,) = cost.costs(healthy(todo=(trained(generate("small")),)))
    assert long.most == pytest.approx(0.5 + 300 * (0.003 + 256 * 0.0001))
    # LoRA of rank 8 on 2 layers: q, k, v are 6 x 8 (8 x 14 numbers), up and down 10 x 8.
    (adapter,) = cost.costs(healthy(todo=(train("sft"),)))
    assert adapter.disk == 4 * 2 * (3 * 8 * 14 + 2 * 8 * 18)


def test_a_teacher_beside_the_student_needs_its_memory_only_where_it_must_be_there():
    small, big = model("small", "student"), model("big", "teacher", parameters=5000)
    facts = healthy()
    alone = cost.memory_needed(facts, small)
    assert cost.memory_needed(facts, small, [big]) - alone == 5000 * 4
    assert cost.memory_needed(facts, small, [big, big]) - alone == 2 * 5000 * 4
    assert cost.needs_live_teacher(facts)  # gkd asks it about new text
    assert not cost.needs_live_teacher(healthy(study=study(methods=["sft", "word_kd"])))
    off = study(methods=["sft", "word_kd"], train={"teacher_cache": "off"})
    assert cost.needs_live_teacher(healthy(study=off))


def test_several_teachers_of_a_run_cost_what_each_adds_and_lie_in_memory_together():
    config = TrainConfig.of(train("gkd", lmbda=0.5).config)
    config = dataclasses.replace(config, teachers=(named("big"), named("other")))
    speeds = {"small": speed(distil={"big": 0.012, "other": 0.015}), "big": speed()}
    speeds["other"] = speed(forward=0.005)
    seconds = {}
    for how in ("mixture", "route"):
        own = dataclasses.replace(config, together={how: "x"})
        one = Stage(kind="train", label="x", config=own.hashed())
        facts = healthy(todo=(one,), speeds=speeds)
        (found,) = cost.costs(facts)
        seconds[how] = found.seconds
    # 0.002 and 0.005 s more a row from the cache; half the steps ask both and have the student
    # read a prompt and write 20 tokens.
    written = 0.5 * (0.003 + 20 * 0.0001)
    row = 0.01 + 0.002 + 0.005 + 0.5 * (0.002 + 0.005) + written
    assert seconds["mixture"] == pytest.approx(0.5 + 2 * 900 * row + 5 * 100 * 0.002)
    row = 0.01 + 0.0035 + 0.5 * 0.0035 + written
    assert seconds["route"] == pytest.approx(0.5 + 2 * 900 * row + 5 * 100 * 0.002)
    planned = plan_of([one], facts.study)
    assert [m.name for m in named_in(one)] == ["small", "big", "other"]
    models = (*facts.models, model("other", "teacher", parameters=7000))
    groups = cost.teachers_beside(dataclasses.replace(facts, plan=planned, models=models))
    assert [[m.name for m in group] for group in groups] == [["big"], ["other"], ["big", "other"]]


def test_a_check_that_crashes_is_a_finding():
    def broken(facts):
        raise ZeroDivisionError("by zero")

    findings = check(healthy(corpus=CorpusFacts(
        name="r", train=1, validation=1, read=2, dropped={})), (broken, *CHECKS))  # fmt: skip
    assert findings[0].level == "warning" and "ZeroDivisionError" in findings[0].what
    assert len(findings) > 10


def test_exit_codes_follow_the_worst_level():
    levels = ("ok", "note", "warning", "error")
    findings = [Finding(level=level, check="c", what="w") for level in levels]
    assert [EXIT_CODES[worst(findings[: n + 1])] for n in range(4)] == [0, 0, 1, 2]
    assert worst([]) == "ok"


def test_the_view_fits_in_80_columns_and_masks_read_without_colour():
    spans = (
        Span(part="prompt", text="What is 1 + 1?\n" + "word " * 40, tokens=45),
        Span(part="scored", text="x" * 200, tokens=9),
        Span(part="cut", text="\x1b[31mlost", tokens=2),
    )
    finding = Finding(
        level="warning", check="c", what="w " * 90, why="y " * 90, remedy="r " * 90,
        texts=(Shown(title="row", spans=spans, ids=tuple(range(100, 300))),),
    )  # fmt: skip
    broken = [BROKEN[name][0] for name in BROKEN]
    findings = [finding, *(f for p in broken for f in check(p))]
    plain, colour = io.StringIO(), io.StringIO()
    show("t", findings, Console(file=plain, width=80))
    show("t", [finding], Console(file=colour, width=80, force_terminal=True, color_system="256"))
    text = plain.getvalue()
    assert max(map(len, text.split("\n"))) <= 80
    for part in ("prompt, 45 tokens:", "scored, 9 tokens:", "cut, 2 tokens:"):
        assert part in text
    # What a file says cannot colour the terminal; our own colours are there.
    assert "\\x1b[31mlost" in text and "\x1b" not in text
    assert "\x1b[31m      \\x1b[31mlost" in colour.getvalue()
    assert text.rstrip().split("\n")[-1].startswith("t: worst level: error")


def test_the_document_is_json_with_spans():
    findings = check(healthy())
    written = json.loads(json.dumps(document("t", findings)))
    assert (written["worst"], written["exit_code"]) == ("ok", 0)
    (masks,) = [f for f in written["findings"] if f["check"] == "masks"]
    assert masks["texts"][0]["spans"] == [{"part": "scored", "text": "a</s>", "tokens": 2}]


def truncation(limit=384, most=0.1, **facts):
    settings = study(train={"max_length": limit, "max_truncated_share": most})
    facts = dataclasses.replace(changed("texts", **facts), study=settings)
    (found,) = [f for f in check(facts) if f.check == "truncation"]
    return found


def test_no_remedy_for_rows_that_do_not_fit_is_a_shorter_length():
    few = truncation(rows=1000, cut=4, needed=327, longest=512)
    assert few.level == "note"
    assert few.remedy == "nothing, or set train.max_length to 512, in which all rows fit"
    refused = truncation(rows=1000, cut=4, most=0.001, needed=327, longest=512)
    assert refused.level == "error" and "to 512, in which all rows fit" in refused.remedy
    many = truncation(rows=1000, cut=40, needed=430, longest=900)
    assert many.level == "warning"
    assert many.remedy == "set train.max_length to 430, in which 99% of the rows fit"
    # In 430 tokens 1% of the rows would still be cut, which this study does not allow.
    strict = truncation(rows=1000, cut=40, most=0.0, needed=430, longest=900)
    assert "to 900, in which all rows fit" in strict.remedy


def timed(**fields):
    (found,) = [f for f in check(healthy(**fields)) if f.check == "time"]
    return found


def test_the_time_of_stages_that_nothing_is_known_of_is_said_in_a_sentence():
    none = timed(speeds={})
    assert none.what.startswith("no estimate: 3 of 3 stages unknown (")
    assert "0.0 s" not in " ".join([none.what, *none.lines])
    assert (none.facts["seconds"], none.facts["most"], none.facts["unknown"]) == (None, None, 3)
    some = timed(speeds={"small": healthy().speeds["small"]})
    assert "1 of 3 stages unknown; the other 2 take about " in some.what
    assert some.facts["seconds"] > 0
    assert any(" over " in line for line in some.lines if line.startswith("train"))


def test_a_probe_that_did_not_finish_says_what_it_needs():
    facts = healthy(
        speeds={"small": dataclasses.replace(healthy().speeds["small"], load=3.0)},
        unmeasured={"big": 134.0},
        failures=(Failure(part="probe of big", error=KdstudyError("not finished"), slow=True),),
        path=Path("my study.yaml"),
    )
    findings = check(facts)
    (found,) = [f for f in findings if f.check == "doctor"]
    assert "probe of big: not measured, needs about 2 min 14 s" in found.what
    # 134 + 3 to load the other again + 10 to measure it.
    assert found.remedy.endswith("kdstudy doctor 'my study.yaml' --probe-seconds 150")
    (time,) = [f for f in findings if f.check == "time"]
    assert time.why == "not measured in time: big"
    assert time.remedy == found.remedy
    absent = dataclasses.replace(
        facts, unmeasured={}, failures=(), models=(*facts.models[1:], ModelFacts(
            name="big", roles=("teacher",), here=False)),
    )  # fmt: skip
    (time,) = [f for f in check(absent) if f.check == "time"]
    assert time.why == "not here: big"


def test_a_tracker_that_is_not_installed_is_found():
    study = healthy().study
    train = study.train.model_copy(update={"report_to": ["dvclive"]})
    found = check(healthy(study=study.model_copy(update={"train": train})))
    (missing,) = [f for f in found if f.level == "error"]
    assert "dvclive" in missing.what and "pip install" in missing.remedy
