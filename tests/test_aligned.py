"""Training with a teacher of another tokenizer, from rows to weights, against dense float64."""

import dataclasses
import json
import shutil

import pytest
import tiny_models as tiny
import torch
import train_stage
from small_trainers import SETTINGS, micro, weights
from study_folder import model_folder, plan_of, write_folder
from transformers.trainer_callback import PrinterCallback
from unlike_pair import WIDTH, dense, examples, merged, teacher, tokenizers

from kdstudy import DistillConfig, DistillTrainer, methods
from kdstudy.data.prompts import PromptFormat
from kdstudy.distill import batches, stages
from kdstudy.distill.aligned import said_of
from kdstudy.distill.model import DistillModel
from kdstudy.distill.schedule import Schedule, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError, StageError
from kdstudy.methods.gold import GOLD
from kdstudy.methods.uld import ULD
from kdstudy.records import Example
from kdstudy.stage import silent


def collate(rows):
    weighing = batches.Weighing()
    return batches.collate(rows, weighing, torch.device("cpu")), weighing.weights(rows)[1]


@pytest.mark.parametrize("method", [GOLD(), GOLD(hard_label_weight=0.3), ULD()], ids=str)
def test_loss_and_gradient_are_those_of_whole_logits(method):
    both = tokenizers()
    aligned, rows, model = teacher(method)
    student = tiny.qwen(0).double().eval()
    batch, total = collate(rows)
    pairs = both.pairs(examples(20), {}, "a and b")
    (got,) = DistillModel(student, method.recipe(), aligned)(batch, total)
    hybrid, share = method.type == "gold", method.hard_label_weight
    others = {row: pairs[row].teacher for row in rows}
    want = dense(both, student, model, others, hybrid, share)
    assert got.item() == pytest.approx(want.item(), rel=1e-10)
    trained = list(student.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(got, trained), torch.autograd.grad(want, trained), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_the_rows_do_meet_in_spans_of_several_tokens_and_share_most_tokens():
    both = tokenizers()
    pairs = both.pairs(examples(20), {}, "a and b")
    lengths = {tuple(b - a for a, b in (span.student, span.teacher))
               for pair in pairs.values() for span in pair.alignment.compared}  # fmt: skip
    assert {(1, 1), (2, 1)} <= lengths
    assert len(both.shared()) == len(tiny.CHARACTERS) + 1
    assert "100.0% of the text compared" in said_of(pairs)


@pytest.mark.parametrize(("beta", "plain"), [(0, methods.WordKD()), (0.5, methods.GKD(lmbda=0))])
def test_with_the_students_own_tokenizer_gold_is_the_divergence_that_there_was(beta, plain):
    same = dataclasses.replace(tokenizers(), teacher=tiny.tokenizer())
    aligned, rows, model = teacher(GOLD(beta=beta), same)
    student = tiny.qwen(0).double().eval()
    batch, total = collate(rows)
    (got,) = DistillModel(student, GOLD(beta=beta).recipe(), aligned)(batch, total)
    live = LiveTeacher(model, tiny.VOCABULARY)
    (want,) = DistillModel(student, plain.recipe(), live)(batch, total)
    assert got.item() == pytest.approx(want.item(), rel=1e-10)
    trained = list(student.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(got, trained), torch.autograd.grad(want, trained), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("method", [GOLD(), GOLD(beta=0), ULD(hard_label_weight=0)], ids=str)
def test_a_teacher_that_is_the_student_teaches_nothing(method):
    same = dataclasses.replace(tokenizers(), teacher=tiny.tokenizer())
    aligned, rows, model = teacher(method, same)
    student = tiny.llama(1, width=WIDTH).double().eval()
    assert torch.equal(student.lm_head.weight, model.lm_head.weight)
    batch, total = collate(rows)
    (loss,) = DistillModel(student, method.recipe(), aligned)(batch, total)
    assert abs(loss.item()) < 1e-13
    for gradient in torch.autograd.grad(loss, list(student.parameters())):
        assert gradient.abs().max() < 1e-12


def test_a_cached_teacher_and_loud_entries_that_are_no_tokens_change_nothing():
    aligned, rows, _ = teacher(GOLD())
    cached, _, _ = teacher(GOLD(), states=True)
    batch, total = collate(rows)
    student = tiny.qwen(0).double().eval()
    (want,) = DistillModel(student, GOLD().recipe(), aligned)(batch, total)
    (again,) = DistillModel(student, GOLD().recipe(), cached)(batch, total)
    wide = tiny.widen(tiny.qwen(0), 7).double().eval()
    (loud,) = DistillModel(wide, GOLD().recipe(), aligned)(batch, total)
    assert again.item() == pytest.approx(want.item(), rel=1e-10)
    assert loud.item() == pytest.approx(want.item(), rel=1e-10)


def test_validation_measures_the_cross_entropy_of_every_token():
    aligned, rows, _ = teacher(GOLD())
    student = tiny.qwen(0).double().eval()
    batch, total = collate(rows)
    with torch.no_grad():
        loss, entropy = DistillModel(student, GOLD().recipe(), aligned)(batch)
        _, want = DistillModel(student, methods.Sft().recipe())(batch)
    (mean,) = DistillModel(student, GOLD().recipe(), aligned)(batch, total)
    assert entropy.item() == pytest.approx(want.item(), rel=1e-12)
    assert loss.item() / total == pytest.approx(mean.item(), rel=1e-12)


def test_a_row_without_room_for_the_teacher_adds_nothing_and_too_many_are_refused():
    both = tokenizers(max_length=16)
    longer = Example(id="x", instruction="9" * 4, response="4")
    template = "{instruction} so it is it 12 12: "
    tight = dataclasses.replace(
        both, template=PromptFormat(template=template), student=merged(), teacher=tiny.tokenizer()
    )
    with pytest.raises(InputError, match="small and big: 0% of the text is the same"):
        tight.pairs([longer], {}, "small and big")
    aligned, rows, _ = teacher(GOLD())
    lost = rows[1]
    aligned._pairs[lost] = dataclasses.replace(
        aligned._pairs[lost],
        teacher=None,
        alignment=dataclasses.replace(aligned._pairs[lost].alignment, spans=()),
    )
    student = tiny.qwen(0).double().eval()
    model = DistillModel(student, GOLD().recipe(), aligned)
    sums = [
        model(collate(some)[0], 1)[0].item() for some in ([rows[0]], [lost], rows[:3], [rows[2]])
    ]
    assert sums[1] == 0
    assert sums[2] == pytest.approx(sums[0] + sums[3], rel=1e-12)


def test_a_row_that_was_not_aligned_is_refused():
    aligned, _, _ = teacher(GOLD())
    batch, _ = collate(tiny.rows(2))
    with pytest.raises(StageError, match="2 of 2 rows have no alignment"):
        aligned.hidden(batch)


def run(folder, method, settings=SETTINGS) -> DistillTrainer:
    aligned, rows, _ = teacher(method, dtype=torch.float32, states=True)
    trainer = DistillTrainer(
        tiny.qwen(0), aligned, study_config(settings, method, rows[:16], folder, 3),
        train_dataset=rows[:16], eval_dataset=rows[16:], processing_class=tiny.tokenizer(),
        callbacks=[Schedule(settings.evaluations, silent)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.run()
    return trainer


SHORT = SETTINGS.model_copy(update={"evaluations": 4, "max_length": 40})


@pytest.mark.parametrize("method", [GOLD(), ULD()], ids=lambda m: m.type)
def test_how_a_step_is_cut_changes_rounding_alone(tmp_path, method):
    ends = [weights(run(tmp_path / str(n), method, micro(n, SHORT))) for n in (1, 4)]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=2e-4, atol=2e-5)


def test_a_resumed_run_has_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole", GOLD(), SHORT)
    run(tmp_path / "cut", GOLD(), SHORT)
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = run(tmp_path / "cut", GOLD(), SHORT)
    assert again._initial_global_step > 0
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_training_lowers_what_is_charged(tmp_path):
    settings = SHORT.model_copy(update={"epochs": 20, "learning_rate": 1e-2})
    history = run(tmp_path, GOLD(), settings).state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


def test_a_trainer_without_the_texts_says_where_they_are(tmp_path):
    args = DistillConfig(output_dir=str(tmp_path), method=GOLD(), max_length=40)
    with pytest.raises(InputError, match="gold: this trainer has rows in the student's tokens"):
        DistillTrainer(
            tiny.qwen(0), tiny.qwen(1), args, train_dataset=tiny.rows(4),
            processing_class=tiny.tokenizer(),
        )  # fmt: skip


@pytest.fixture
def unlike(tmp_path):
    write_folder(tmp_path)
    model_folder(tmp_path / "other", vocabulary="xyz")
    return tmp_path


def test_unlike_tokenizers_are_planned_and_word_level_methods_name_what_to_use(unlike):
    fields = {"teachers": ["./other"], "ablations": {}}
    plan = plan_of(unlike, methods=["sft", "seqkd", "gold", {"type": "uld", "merge": "bayesian"}],
                   **fields)  # fmt: skip
    assert {"small/gold/other", "small/uld/other", "medium/gold/other"} <= plan.trained.keys()
    caches = [s for s in plan.stages.values() if s.kind == "teacher_cache"]
    assert [s.label for s in caches] == ["other/teacher on corpus"]
    with pytest.raises(InputError, match="distributions in word_kd") as e:
        plan_of(unlike, methods=["word_kd", "gold"], **fields)
    assert "gold or uld" in e.value.remedy


def test_what_cannot_be_aligned_is_refused_when_it_is_planned(unlike):
    fields = {"teachers": ["./other"], "ablations": {}, "methods": ["gold"]}
    with pytest.raises(InputError, match=r"gold with train\.loss_tokens: all"):
        plan_of(unlike, **fields, train={"loss_tokens": "all"})
    varied = [{"vary": "train.loss_tokens", "values": ["positions"], "methods": ["gold"]}]
    with pytest.raises(InputError, match=r"gold with train\.loss_tokens: positions"):
        plan_of(unlike, **(fields | {"ablations": varied}))
    with pytest.raises(InputError, match="ablations"):
        plan_of(unlike, **(fields | {"ablations": {"noise": {"methods": ["gold"]}}}))
    together = {"teachers": [["./other", "./big"]]}
    with pytest.raises(InputError, match="gold with several teachers together"):
        plan_of(unlike, **(fields | together))
    told = [{"model": "./other", "context": "{instruction} ({response})"}]
    with pytest.raises(InputError, match="gold with a teacher's context"):
        plan_of(unlike, **(fields | {"teachers": told}))
    curve = {"temperature": {"methods": ["gold"], "values": [1, 2]}}
    plan = plan_of(unlike, **(fields | {"ablations": curve}))
    assert "small/gold/other/tau=2" in plan.trained


def furnished(folder, tokenizer):
    """Return files of a student, of a teacher with that tokenizer, and of a corpus."""
    place = train_stage.furnish(folder)
    shutil.rmtree(place / "teacher")
    model = tiny.llama(1, width=WIDTH, vocabulary=len(tokenizer))
    tiny.save(place / "teacher", model, tokenizer)
    return place


@pytest.mark.parametrize("method", [GOLD(), ULD()], ids=lambda m: m.type)
def test_a_stage_makes_the_same_student_again_and_from_memory(tmp_path, method):
    place, made = furnished(tmp_path, merged()), []
    for out, where in (("one", "off"), ("two", "off"), ("three", "memory")):
        train = train_stage.TRAIN.model_copy(update={"teacher_cache": where})
        work = train_stage.work(place, out, method, train)
        line = stages.train(work)
        assert "; 100.0% of the text compared, in spans of 1." in line
        made.append((work.out / "adapter" / "adapter_model.safetensors", work.out))
    first, again, cached = made
    assert first[0].read_bytes() == again[0].read_bytes()
    curves = [
        json.loads((out / "training.json").read_text())["curve"] for _, out in (first, cached)
    ]
    for one, other in zip(*curves, strict=True):
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-5)


def test_a_stage_refuses_a_teacher_that_knows_less_than_half_of_the_text(tmp_path):
    place = furnished(tmp_path, merged(signs="0123456789"))
    with pytest.raises(InputError, match=r"student and teacher: [0-9]+% of the text is the same"):
        stages.train(train_stage.work(place, "out", GOLD()))
