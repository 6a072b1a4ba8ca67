"""A teacher that is told a row's answer: its states in float64; its student never reads it."""

import dataclasses

import pytest
import tiny_models as tiny
import torch
from placed_teachers import TRAIN, examples, models, numbers, using, work
from train_stage import furnish

from kdstudy import methods
from kdstudy.data.prompts import Encoded, encode, encode_prompt, told
from kdstudy.distill import batches, cache, model, onpolicy, stages
from kdstudy.distill.model import DistillModel
from kdstudy.distill.rows import encode_rows
from kdstudy.distill.teacher import LiveTeacher, ToldTeacher
from kdstudy.errors import InputError
from kdstudy.models import parts
from kdstudy.records import Example

CONTEXT = "{instruction}\nzq zq {response} zq zq."
MARK = "zq zq"
CPU = torch.device("cpu")


def encoded(number=6, context=CONTEXT, rows=None):
    rows = rows or examples(number, 0)
    return encode_rows(rows, tiny.tokenizer(), tiny.TEMPLATE, 40, context=context).rows


def test_the_student_reads_what_it_would_read_without_and_the_teacher_more():
    tok = tiny.tokenizer()
    for row, plain, example in zip(encoded(), encoded(context=""), examples(6, 0), strict=True):
        assert dataclasses.replace(row, told=()) == plain and MARK not in tok.decode(row.ids)
        text = f"Q: {example.instruction}\nzq zq {example.response} zq zq.\nA: "
        assert tok.decode(row.told) == text
        theirs = row.to_teacher
        assert tok.decode(theirs.ids) == f"{text}{example.response}</s>"
        assert [theirs.ids[i] for i in theirs.scored] == [row.ids[i] for i in row.scored]
        assert plain.to_teacher is plain


def test_what_is_filled_in_is_not_read_again():
    example = Example(id="a", instruction="{response}?", response="{instruction}", context="and")
    want = encode_prompt(tiny.tokenizer(), tiny.TEMPLATE, "{response}?\n\nand zq {instruction}")
    assert told(tiny.tokenizer(), tiny.TEMPLATE, "{instruction} zq {response}", example) == want


def test_loss_and_gradient_are_those_of_dense_autograd():
    student, teacher = tiny.qwen(0).double().eval(), tiny.qwen(1, width=24).double().eval()
    rows = encoded()
    want = 0.0
    for row in rows:
        response = row.ids[row.prompt_length :]
        theirs = torch.tensor([[*row.told, *response]])
        with torch.no_grad():
            t = teacher(theirs).logits[0, len(row.told) - 1 : -1].log_softmax(-1)
        s = student(torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)
        want = want + (t.exp() * (t - s)).sum()
    slopes = torch.autograd.grad(want, [*student.parameters()])
    live = LiveTeacher(teacher, tiny.VOCABULARY)
    theirs = [row.to_teacher for row in rows]
    states = cache.in_memory(live, theirs, "response", rows_per_pass=2)
    kept = cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response")
    for asked in (live, kept):
        made = DistillModel(student, methods.WordKD().recipe(), ToldTeacher(asked, "response"))
        for cut in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
            student.zero_grad()
            losses = [made(batches.collate(part, batches.Weighing(), CPU), 1)[0] for part in cut]
            sum(losses).backward()
            torch.testing.assert_close(sum(losses), want, rtol=1e-10, atol=1e-10)
            for parameter, slope in zip(student.parameters(), slopes, strict=True):
                torch.testing.assert_close(parameter.grad, slope, rtol=1e-7, atol=1e-9)


def test_a_teacher_that_is_the_student_teaches_it_what_the_context_changes():
    student = tiny.qwen(0).double().eval()
    own = LiveTeacher(tiny.qwen(0).double().eval(), tiny.VOCABULARY)
    batch = batches.collate(encoded(), batches.Weighing(), CPU)
    for asked, low, high in ((own, 0, 1e-10), (ToldTeacher(own, "response"), 0.1, 1e9)):
        loss, _ = DistillModel(student, methods.WordKD().recipe(), asked)(batch)
        assert low <= abs(loss.item()) <= high


@pytest.mark.parametrize("text", ["ids", "retokenised"])
def test_what_a_student_wrote_stands_behind_both_prompts(text):
    rows, seeds = encoded(), range(6)
    method = methods.GKD(on_policy_text=text).recipe()
    made = onpolicy.rewritten(
        tiny.qwen(0), rows, method, tiny.tokenizer(),
        max_length=40, width=None, seeds=seeds, eos_ids=[tiny.EOS],
    )  # fmt: skip
    for row, new in zip(rows, made, strict=True):
        assert new.told == row.told and new.ids[: new.prompt_length] == row.ids[: row.prompt_length]
        assert new.to_teacher.ids == (*row.told, *new.ids[new.prompt_length :])
        assert len(new.to_teacher.scored) == len(new.scored)


def privileged(place, out, mode, aid=None, context=CONTEXT):
    one = work(place, out, methods.GKD(temperature=2), using(mode), aid)
    inputs = {"corpus": place / "corpus"}
    return dataclasses.replace(one, config=one.config | {"context": context}, inputs=inputs)


def cached(place):
    """Run the teacher_cache stage."""
    fields = {"max_length", "loss_tokens", "loss_turns", "precision"}
    one = privileged(place, "cache", "disk")
    kept = {k: one.config[k] for k in ("teacher", "template", "template_date", "context")}
    config = kept | TRAIN.model_dump(include=fields) | {"mode": "disk"}
    local = {"models": models(place), "rows_per_pass": 6}
    stages.teacher_cache(dataclasses.replace(one, config=config, local=local))
    return place / "cache"


@pytest.fixture
def place(tmp_path):
    furnish(tmp_path)
    return tmp_path


def test_every_place_gives_the_same_student_and_nothing_of_the_context_reaches_it(
    place, monkeypatch
):
    """On-policy and off: all that the student's body reads, when it learns and when it writes."""
    tok, read, written = tiny.tokenizer(), [], []
    own, sample = model.packing.scored_hidden, onpolicy.sample

    def watched(body, ids_T, lengths, places_N):
        texts = [tok.decode(part) for part in ids_T.split(list(lengths))]
        read.append((any(p.requires_grad for p in body.parameters()), texts))
        return own(body, ids_T, lengths, places_N)

    def writing(writer, prompts, **more):
        written.extend(map(tok.decode, prompts))
        return sample(writer, prompts, **more)

    monkeypatch.setattr(model.packing, "scored_hidden", watched)
    monkeypatch.setattr(onpolicy, "sample", writing)
    aid = cached(place)
    for mode in ("off", "memory", "disk"):
        stages.train(privileged(place, mode, mode, aid if mode == "disk" else None))
    for mode in ("memory", "disk"):
        assert numbers(place / mode) == pytest.approx(numbers(place / "off"), rel=1e-6)
    students = [text for trained, texts in read if trained for text in texts]
    teachers = [text for trained, texts in read if not trained for text in texts]
    assert len(students) > 100 and len(written) > 50
    assert not any(MARK in text for text in (*students, *written))
    assert teachers and all(MARK in text for text in teachers)


def test_rows_in_which_nothing_says_where_the_context_stands_are_refused():
    chat = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    rows = [
        (Example(id="x", instruction="a", response="b", chat=chat), "is a conversation"),
        (Example(id="x", instruction="", response="b"), "is a text without a prompt"),
    ]
    for example, said in rows:
        with pytest.raises(InputError, match=said):
            told(tiny.tokenizer(), tiny.TEMPLATE, CONTEXT, example)


def test_a_teacher_without_room_for_what_it_is_told_is_refused(place, monkeypatch):
    room = dataclasses.replace(parts.room(tiny.qwen()), most=128, fixed=True)
    monkeypatch.setattr(parts, "room", lambda _: room)
    with pytest.raises(InputError, match="128"):
        stages.train(privileged(place, "off", "off", context=CONTEXT + "z" * 200))


def test_prompts_tokens_are_not_scored():
    with pytest.raises(AssertionError):
        ToldTeacher(LiveTeacher(tiny.qwen(), tiny.VOCABULARY), "all")
    assert Encoded((1, 2, 3), 1).to_teacher == Encoded((1, 2, 3), 1)
    assert encode(tiny.tokenizer(), tiny.TEMPLATE, "1?", "2", 40).told == ()
