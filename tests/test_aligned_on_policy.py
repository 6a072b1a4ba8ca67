"""Text that the student writes, read by a teacher of another tokenizer."""

import dataclasses
import json
import shutil

import pytest
import tiny_models as tiny
import torch
import train_stage
from small_trainers import SETTINGS, micro, weights
from study_folder import model_folder, plan_of, write_folder
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.trainer_callback import PrinterCallback
from unlike_pair import WIDTH, dense, examples, merged, teacher, tokenizers

from kdstudy import DistillTrainer, methods
from kdstudy.data.prompts import Encoded, PromptFormat
from kdstudy.distill import batches, onpolicy, stages
from kdstudy.distill.aligned import Tokenizers
from kdstudy.distill.model import DistillModel
from kdstudy.distill.schedule import Schedule, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError, StageError
from kdstudy.methods.gold import GOLD
from kdstudy.methods.uld import ULD
from kdstudy.records import Example
from kdstudy.stage import silent


def batch_of(rows):
    weighing = batches.Weighing()
    made = batches.collate(rows, weighing, torch.device("cpu"), sampled=True)
    return made, weighing.weights(rows)[1]


def written(student, rows, method, seed, max_length=30):
    """What a student samples in the rows' place."""
    return onpolicy.rewritten(
        student, rows, method.recipe(), tiny.tokenizer(), max_length=max_length,
        width=tiny.VOCABULARY, seeds=[100 * seed + n for n in range(len(rows))],
        eos_ids=[tiny.EOS],
    )  # fmt: skip


def plain(row):
    """Whether a row's answer has no special token but perhaps an end."""
    said = row.ids[row.prompt_length :]
    return all(i >= len(tiny.SPECIAL) for i in said[:-1]) and said[-1] not in (0, 2)


def sampled(student, aligned, rows, method, seed, wanted=plain):
    """Return corpus rows and what was written in their place, where that is as wanted."""
    made = written(student, rows, method, seed)
    kept = [(row, new) for row, new in zip(rows, made, strict=True) if wanted(new)]
    assert len(kept) > 4
    return [row for row, _ in kept], [new for _, new in kept]


def gradients_agree(got, want, student, rtol=1e-8):
    assert got.item() == pytest.approx(want.item(), rel=1e-10)
    trained = list(student.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(got, trained), torch.autograd.grad(want, trained), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-11)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_with_one_tokenizer_it_is_gkd_on_the_same_text(seed, share):
    same = dataclasses.replace(tokenizers(), teacher=tiny.tokenizer())
    method = GOLD(lmbda=1, hard_label_weight=share)
    aligned, rows, model = teacher(method, same)
    student = tiny.qwen(seed, scale=1.0).double().eval()
    old, new = sampled(student, aligned, rows, method, seed)
    total, compared = aligned.read(old, new)
    assert total == compared == sum(len(r.ids) - r.prompt_length for r in new)
    batch, count = batch_of(new)
    (got,) = DistillModel(student, method.recipe(), aligned)(batch, count)
    gkd = methods.GKD(lmbda=1, hard_label_weight=share)
    live = LiveTeacher(model, tiny.VOCABULARY)
    (want,) = DistillModel(student, gkd.recipe(), live)(batch, count)
    assert want.item() > 0.001
    gradients_agree(got, want, student)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("method", [GOLD(lmbda=1), ULD(lmbda=1)], ids=lambda m: m.type)
def test_loss_and_gradient_are_those_of_whole_logits(method, seed):
    both = tokenizers()
    aligned, rows, model = teacher(method)
    student = tiny.qwen(seed, scale=1.0).double().eval()
    old, new = sampled(student, aligned, rows, method, seed)
    ended = {row.ids[-1] == tiny.EOS for row in new}
    assert ended == {True, False}  # some were cut at the limit
    aligned.read(old, new)
    # The teacher's rows by hand: its own prompt, the text in its tokens, its own end.
    named = dict(zip(rows, examples(20), strict=True))
    others = {}
    for row, made in zip(old, new, strict=True):
        question = tiny.TEMPLATE.format(instruction=named[row].instruction)
        prompt = both.teacher(question)["input_ids"]
        end = [both.teacher.eos_token_id] * (made.ids[-1] == tiny.EOS)
        said = made.ids[made.prompt_length : len(made.ids) - len(end)]
        answer = both.teacher("".join(both.student.convert_ids_to_tokens(said)))["input_ids"]
        others[made] = Encoded((*prompt, *answer, *end), len(prompt))
    batch, count = batch_of(new)
    (got,) = DistillModel(student, method.recipe(), aligned)(batch, count)
    # No share of ULD's cross-entropy: the student's own tokens are nobody's labels.
    want = dense(both, student, model, others, method.type == "gold")
    gradients_agree(got, want, student)


def read(both, row, ids, pair=None):
    """Return a row with an answer of these ids, as both read it."""
    made = Encoded((*row.ids[: row.prompt_length], *ids), row.prompt_length)
    pairs = both.pairs(examples(20), {}, "a and b")
    return made, both.written(row, pair or pairs[row], made)


ASKED = "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA: {% else %}"
TALKS = ASKED + "{{ m.content }}.{{ eos_token }}{% endif %}{% endfor %}"
BLUNT = ASKED.replace("Q: ", "q ") + "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    "templates", [None, (TALKS, TALKS), (TALKS, BLUNT), (BLUNT, TALKS)], ids=str
)
def test_a_text_that_is_the_corpus_rows_own_is_read_as_that_row(templates):
    both = tokenizers()
    if templates:
        both = Tokenizers(student=tiny.tokenizer(), teacher=merged(), max_length=40,
                          template=PromptFormat(template="chat"))  # fmt: skip
        both.student.chat_template, both.teacher.chat_template = templates
    pairs = both.pairs(examples(20), {}, "a and b")
    apart = templates == (TALKS, BLUNT)
    for row, pair in pairs.items():
        if not apart:
            assert both.written(row, pair, row) == pair
        # A closing full stop that the student's template alone has is not the answer's.
        assert both.written(row, pair, row).teacher == pair.teacher


def ids_of(text):
    return tiny.tokenizer()(text)["input_ids"]


def rows_of(both):
    return list(both.pairs(examples(20), {}, "a and b"))


def test_a_text_that_was_cut_has_no_end_on_either_side():
    both = tokenizers()
    row = rows_of(both)[0]
    _, ended = read(both, row, [*ids_of("it is 12"), tiny.EOS])
    _, cut = read(both, row, ids_of("it is 12"))
    end = both.teacher.eos_token_id
    assert ended.teacher.ids == (*cut.teacher.ids, end) and end not in cut.teacher.ids
    *text, last = ended.alignment.compared
    assert text == cut.alignment.compared and last.bytes == 0
    assert last.student == (8, 9) and last.teacher[1] == len(ended.teacher.ids) - (
        ended.teacher.prompt_length
    )


def test_an_empty_text_is_its_end_alone():
    both = tokenizers()
    made, pair = read(both, rows_of(both)[0], [tiny.EOS])
    assert len(pair.teacher.scored) == len(made.scored) == 1
    (span,) = pair.alignment.compared
    assert (span.student, span.teacher, pair.alignment.bytes) == ((0, 1), (0, 1), 0)


def test_special_tokens_in_a_text_are_counted_out_and_what_stands_around_them_is_not():
    both = tokenizers()
    unknown, pad = 0, 2
    ids = [*ids_of("so 12"), unknown, *ids_of(" it is"), pad, tiny.EOS]
    made, pair = read(both, rows_of(both)[1], ids)
    assert both.teacher.decode(pair.teacher.ids[pair.teacher.prompt_length :]).startswith(
        "so 12 it"
    )
    compared = {i for span in pair.alignment.compared for i in range(*span.student)}
    lost = sorted(set(range(len(ids))) - compared)
    assert {made.ids[made.prompt_length + i] for i in lost} == {unknown, pad}
    assert sum(span.bytes for span in pair.alignment.spans) == len("so 12 it is")
    assert pair.alignment.bytes == 2 * len("so 12 it is")
    for side, row in (("student", made), ("teacher", pair.teacher)):  # spans partition both
        places = [i for span in pair.alignment.spans for i in range(*getattr(span, side))]
        assert places == list(range(len(row.scored)))


def test_a_special_token_within_a_token_of_the_teachers_takes_that_one_along():
    both = tokenizers()
    ids = [2, *ids_of("i"), 0, *ids_of("t 12"), 2, 2]  # "it" is one token there, "12" is too
    made, pair = read(both, rows_of(both)[1], ids)
    said = made.ids[made.prompt_length :]
    spans = ["".join(both.student.convert_ids_to_tokens(list(said[slice(*span.student)])))
             for span in pair.alignment.compared]  # fmt: skip
    assert spans == [" ", "12"]
    assert pair.alignment.bytes == 2 * len("it 12")
    for side, row in (("student", made), ("teacher", pair.teacher)):
        places = [i for span in pair.alignment.spans for i in range(*getattr(span, side))]
        assert places == list(range(len(row.scored)))


def test_bytes_that_are_no_text_are_counted_out():
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({t: i for i, t in enumerate(["<e>", *signs])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    ours = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<e>", pad_token="<e>")
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(inner.to_str()),
                                     eos_token="<e>", pad_token="<e>")  # fmt: skip
    both = Tokenizers(student=ours, teacher=theirs, max_length=60,
                      template=PromptFormat(template=tiny.TEMPLATE))  # fmt: skip
    (row,) = both.pairs([Example(id="a", instruction="1", response="b")], {}, "a and b")
    lone = ours("\u00e9")["input_ids"][0]  # the first of two bytes
    said = [*ours("one")["input_ids"], lone, *ours(" two")["input_ids"], 0]
    pairs = both.pairs([Example(id="a", instruction="1", response="b")], {}, "a and b")
    _, pair = read(both, row, said, pairs[row])
    text = theirs.decode(pair.teacher.ids[pair.teacher.prompt_length : -1])
    assert text == "one\ufffd two"
    # Seven letters and a blank are compared; one byte and three of U+FFFD are not.
    assert sum(span.bytes for span in pair.alignment.spans) == len("one two")
    assert pair.alignment.bytes == (7 + 1) + (7 + 3)
    assert pair.alignment.compared[-1].bytes == 0  # the end


@pytest.mark.parametrize("lost", ["room", "turns"])
def test_a_text_that_the_teacher_cannot_read_adds_nothing_and_is_counted(lost):
    aligned, rows, _ = teacher(GOLD(lmbda=1))
    student = tiny.qwen(0, scale=1.0).double().eval()
    row = rows[1]
    pair = aligned._pairs[row]
    other = None if lost == "room" else dataclasses.replace(pair.teacher, spans=((3, 4), (6, 9)))
    aligned._pairs[row] = dataclasses.replace(pair, teacher=other)
    method = GOLD(lmbda=1)
    made = written(student, rows[:3], method, 5)
    total, compared = aligned.read(rows[:3], made)
    model = DistillModel(student, method.recipe(), aligned)
    sums = [model(batch_of([made[n] for n in some])[0], 1)[0].item() for some in
            ([0], [1], [0, 1, 2], [2])]  # fmt: skip
    assert sums[1] == 0 and sums[0] > 0
    assert sums[2] == pytest.approx(sums[0] + sums[3], rel=1e-12)
    unread, none = aligned.read([row], [made[1]])
    assert (unread > 0, none) == (True, 0)
    apart = aligned.read([rows[0], rows[2]], [made[0], made[2]])
    assert (total, compared) == (unread + apart[0], apart[1])


def test_the_share_is_of_the_students_tokens_by_hand():
    aligned, rows, _ = teacher(GOLD(lmbda=1))
    said = [[*ids_of("so 12"), 0, tiny.EOS], [2, *ids_of("it")], [tiny.EOS]]
    made = [Encoded((*row.ids[: row.prompt_length], *ids), row.prompt_length)
            for row, ids in zip(rows, said, strict=False)]  # fmt: skip
    # Without the unknown token and the padding; an end counts as a token, a text may lack one.
    assert aligned.read(rows[:3], made) == (7 + 3 + 1, 6 + 2 + 1)


def test_what_was_written_in_the_step_before_is_forgotten():
    aligned, rows, _ = teacher(GOLD(lmbda=1))
    student = tiny.qwen(0, scale=1.0).double().eval()
    first, second = (written(student, rows[:2], GOLD(lmbda=1), seed) for seed in (1, 2))
    aligned.read(rows[:2], first)
    aligned.hidden(batch_of(first)[0])
    aligned.read(rows[:2], second)
    with pytest.raises(StageError, match="2 of 2 rows have no alignment"):
        aligned.hidden(batch_of(first)[0])
    aligned.hidden(batch_of(rows[:2])[0])


SHORT = SETTINGS.model_copy(update={"evaluations": 4, "max_length": 30})


def run(folder, method, settings=SHORT, *, states=True, same=False) -> DistillTrainer:
    both = dataclasses.replace(tokenizers(30), teacher=tiny.tokenizer()) if same else tokenizers(30)
    aligned, rows, model = teacher(method, both, dtype=torch.float32, states=states)
    if states:
        aligned._teacher.live = LiveTeacher(model, len(both.teacher))
    trainer = DistillTrainer(
        tiny.qwen(0, scale=1.0), aligned, study_config(settings, method, rows[:16], folder, 3),
        train_dataset=rows[:16], eval_dataset=rows[16:], processing_class=tiny.tokenizer(),
        callbacks=[Schedule(settings.evaluations, silent)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.run()
    return trainer


@pytest.mark.parametrize("method", [GOLD(lmbda=1), ULD(lmbda=0.5)], ids=lambda m: m.type)
def test_how_a_step_is_cut_changes_rounding_alone(tmp_path, method):
    ends = [run(tmp_path / str(n), method, micro(n, SHORT)) for n in (1, 3, 4)]
    assert len({trainer.tokens for trainer in ends}) == 1  # the same text was sampled
    for other in ends[1:]:
        assert other.compared_share == ends[0].compared_share
        for name, value in weights(ends[0]).items():
            torch.testing.assert_close(value, weights(other)[name], rtol=2e-4, atol=2e-5)


def test_a_cached_teacher_is_asked_anew_about_what_the_student_wrote(tmp_path):
    cached, live = (run(tmp_path / str(n), GOLD(lmbda=0.5), states=n) for n in (True, False))
    for name, value in weights(cached).items():
        torch.testing.assert_close(value, weights(live)[name], rtol=2e-4, atol=2e-5)


def test_a_resumed_run_has_the_same_bits_and_the_same_curve(tmp_path):
    method = GOLD(lmbda=0.5)
    whole = run(tmp_path / "whole", method)
    run(tmp_path / "cut", method)
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[1:]:
        shutil.rmtree(last)
    again = run(tmp_path / "cut", method)
    assert again._initial_global_step > 0
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    curves = [
        [{k: v for k, v in entry.items() if "runtime" not in k and "second" not in k}
         for entry in trainer.state.log_history if "eval_loss" in entry or "loss" in entry]
        for trainer in (whole, again)
    ]  # fmt: skip
    assert curves[0] == curves[1]
    shares = [entry["compared_share"] for entry in curves[0] if "compared_share" in entry]
    assert shares and all(0.5 < share < 1 for share in shares)  # some special tokens are drawn
    assert whole.compared_share == again.compared_share


def test_where_nothing_is_sampled_nothing_is_said_of_it(tmp_path):
    trainer = run(tmp_path, GOLD())
    assert trainer.compared_share is None
    assert not any("compared_share" in entry for entry in trainer.state.log_history)


def furnished(folder):
    place = train_stage.furnish(folder)
    shutil.rmtree(place / "teacher")
    model = tiny.llama(1, width=WIDTH, vocabulary=len(merged()))
    tiny.save(place / "teacher", model, merged())
    return place


def test_a_stage_says_how_much_of_the_students_text_was_compared(tmp_path):
    place, method = furnished(tmp_path), GOLD(lmbda=0.5)
    curves = []
    for out, where in (("one", "off"), ("two", "memory")):
        train = train_stage.TRAIN.model_copy(update={"teacher_cache": where})
        done = train_stage.work(place, out, method, train)
        line = stages.train(done)
        facts = json.loads((done.out / "training.json").read_text())
        assert f", {facts['compared_share']:.1%} of the tokens that it wrote compared" in line
        assert 0.5 < facts["compared_share"] < 1
        curves.append([point["eval_loss"] for point in facts["curve"]])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_it_is_planned_with_prompts_alone_and_older_keys_stay(tmp_path):
    folder = write_folder(tmp_path)
    model_folder(folder / "other", vocabulary="xyz")
    fields = {"teachers": ["./other"], "ablations": {}, "students": ["./small"]}

    def of(method, **more):
        plan = plan_of(folder, methods=["sft", method], **fields | more)
        kinds = [s.kind for s in plan.stages.values()]
        return plan.stages[plan.trained["small/gold/other"]].config["method"], kinds

    plain, _ = of("gold")
    assert not {"lmbda", "sampling_temperature"} & plain.keys()
    half, kinds = of({"type": "gold", "lmbda": 0.5})
    assert half == plain | {"lmbda": 0.5} and "teacher_cache" in kinds
    _, kinds = of({"type": "gold", "lmbda": 1})
    assert "teacher_cache" not in kinds  # no cache holds what is written at every step
    (folder / "text.jsonl").write_text('{"text": "no prompt"}\n' * 9)
    with pytest.raises(InputError, match="gold needs prompts"):
        of({"type": "gold", "lmbda": 0.5}, corpus={"path": "text.jsonl", "validation_rows": 2})
    with pytest.raises(InputError, match="less than or equal to 1"):
        of({"type": "gold", "lmbda": 1.5})
