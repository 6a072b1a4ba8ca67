"""What becomes of scored turns: batches, cache, sampling, measures, the library, plan, doctor."""

import dataclasses
import io
import json

import chat_models as models
import pytest
import tiny_models as tiny
import torch
from chat_models import TALK, TOOL, assistant, learnt, made, user
from rich.console import Console
from study_facts import healthy

from kdstudy import DistillConfig, DistillTrainer, methods
from kdstudy.config import schema
from kdstudy.data import chat
from kdstudy.data.prompts import Encoded, has_template
from kdstudy.distill import batches, cache, onpolicy
from kdstudy.distill.rows import encode_rows
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.doctor import check_text
from kdstudy.doctor import text as doctor_text
from kdstudy.doctor.view import show
from kdstudy.errors import InputError
from kdstudy.evaluation import tokens
from kdstudy.plan.plan import make_plan
from kdstudy.records import Example, Generation


def spanned() -> Encoded:
    """A row of 12 tokens with two answers."""
    return Encoded(tuple(range(3, 15)), 9, spans=((2, 4), (9, 12)))


def test_scored_turns_are_those_of_the_batch_the_cache_and_the_measures(tmp_path):
    row, other = spanned(), Encoded(tuple(range(3, 15)), 9)
    batch = batches.collate([row, other], batches.Weighing(), torch.device("cpu"))
    assert batch.places_N.tolist() == [1, 2, 8, 9, 10, 20, 21, 22]
    assert batch.targets_N.tolist() == [5, 6, 12, 13, 14, 12, 13, 14]
    assert batches.Weighing().weights([row, other]) == ([1.0, 1.0], 8)
    assert cache.row_key(row, "response") != cache.row_key(other, "response")
    model = tiny.llama(1, width=24)
    states = cache.in_memory(
        LiveTeacher(model, tiny.VOCABULARY), [row, other], "response", rows_per_pass=2
    )
    with torch.no_grad():
        own = model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[-1][0]
    got = states[cache.row_key(row, "response")]
    assert torch.allclose(got, own[[1, 2, 8, 9, 10]], atol=1e-5)
    (found,) = tokens.compare(model, tiny.llama(2), [("a", row)], tiny.VOCABULARY)
    with torch.no_grad():
        logs = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    want = -sum(logs[i - 1, row.ids[i]] for i in (2, 3, 9, 10, 11)).item()
    assert found.tokens == 5
    assert found.ce_student == pytest.approx(want, rel=1e-5)


def chat_tokenizer():
    """One token per character, and ChatML's control tokens."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = models.TEMPLATES["chatml"]
    return tokenizer


def test_the_library_learns_every_turn_or_the_last_and_stops_at_the_templates_end(tmp_path):
    tokenizer, rows = chat_tokenizer(), [{"messages": TALK}] * 8
    model = tiny.qwen(0, vocabulary=len(tokenizer), scale=1.0)
    settings = {
        **{"output_dir": str(tmp_path), "method": "sft", "use_cpu": True, "max_steps": 2},
        **{"per_device_train_batch_size": 2, "disable_tqdm": True, "max_length": 128},
    }
    both = ["yes<|im_end|>", "no, never<|im_end|>"]
    for turns, want in (("all", both), ("last", both[1:])):
        trainer = DistillTrainer(
            model, args=DistillConfig(loss_turns=turns, **settings), train_dataset=rows,
            processing_class=tokenizer,
        )  # fmt: skip
        assert learnt(tokenizer, trainer.rows[0]) == want
        trainer.train()
        assert trainer.tokens == 4 * sum(len(t.replace("<|im_end|>", "!")) for t in want)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in trainer.eos_ids
    with pytest.raises(InputError, match=r"row 1: the chat template leaves out the tools"):
        DistillTrainer(
            model, args=DistillConfig(**settings), processing_class=tokenizer,
            train_dataset=[rows[0], rows[0] | {"tools": [TOOL]}],
        )  # fmt: skip
    with pytest.raises(InputError, match="loss_turns is 'first'"):
        DistillConfig(loss_turns="first", **settings).chats()


def test_a_student_that_writes_its_own_text_is_scored_on_it_alone():
    tokenizer = chat_tokenizer()
    model = tiny.qwen(0, vocabulary=len(tokenizer), scale=1.0)
    row = made(tokenizer, TALK)
    for method in (methods.GKD(), methods.GKD(on_policy_text="retokenised")):
        (own,) = onpolicy.rewritten(
            model, [row], method.recipe(), tokenizer, max_length=len(row.ids) + 9,
            width=None, seeds=[1], eos_ids=[tokenizer.eos_token_id],
        )  # fmt: skip
        # The prompt's control tokens stay, and no earlier answer is the student's.
        assert own.ids[: row.prompt_length] == row.ids[: row.prompt_length]
        assert own.scored == range(row.prompt_length, len(own.ids))


def test_a_teacher_cut_inside_a_character_teaches_no_broken_one():
    tokenizer = models.tokenizer(None)
    example = Example(id="a", instruction="q", response="r")
    text = tokenizer.decode(tokenizer("caf\u00e9", add_special_tokens=False)["input_ids"][:-1])
    assert text.endswith("\ufffd")
    cut = Generation(
        benchmark="c", example_id="a", sample=0, completion=text, stop="length", tokens=4
    )
    (row,) = encode_rows([example], tokenizer, "alpaca", 999, {"a": cut}).rows
    assert learnt(tokenizer, row) == ["caf"]


def test_the_plan_and_the_key_follow_the_models_own_files(tmp_path):
    tokenizer = chat_tokenizer()
    tiny.save(tmp_path / "own", tiny.qwen(0, vocabulary=len(tokenizer)), tokenizer)
    tiny.save(tmp_path / "none", tiny.qwen(1))
    assert has_template(tmp_path / "own")
    assert not has_template(tmp_path / "none")

    def plan(**fields):
        study = schema.Study(
            name="t", teachers=[], students=[str(tmp_path / "own"), str(tmp_path / "none")],
            corpus="synthetic", benchmarks=["synth_addsub"], methods=["sft"], **fields,
        )  # fmt: skip
        return make_plan(study, tmp_path, None, {})

    planned = plan()
    assert planned.prompts["own"].startswith("chat (auto")
    assert planned.prompts["none"].startswith("alpaca (auto")
    # A student and its teacher in different prompts: said by the plan, unless the study sets one.
    study = schema.Study(
        name="t", teachers=[str(tmp_path / "own")], students=[str(tmp_path / "none")],
        corpus="synthetic", benchmarks=["synth_addsub"], methods=["seqkd"],
    )  # fmt: skip
    apart = make_plan(study, tmp_path, None, {})
    told = apart.prompts
    assert told["none and own differ"].startswith("alpaca and chat; word-level")
    reported = apart.stages[apart.report].config["prompts_apart"]
    assert reported == {"none and own differ": told["none and own differ"]}
    alpaca = study.model_copy(update={"template": "alpaca"})
    assert set(make_plan(alpaca, tmp_path, None, {}).prompts) == {"none", "own"}
    trained = [s for s in planned.stages.values() if s.kind == "train"]
    assert {s.config["template_date"] for s in trained} == {chat.DATE}
    keys = [set(p.trained.values()) for p in (
        planned, plan(template="alpaca"), plan(template_arguments={"a": 1}),
        plan(train={"loss_turns": "last"}),
    )]  # fmt: skip
    assert not any(a & b for i, a in enumerate(keys) for b in keys[:i])
    # Which answers are learnt is nothing that a benchmark's text depends on.
    written = [
        {k for k, s in p.stages.items() if s.kind == "generate" and not s.inputs.get("trained")}
        for p in (planned, plan(train={"loss_turns": "last"}))
    ]
    assert written[0] == written[1]
    with pytest.raises(ValueError, match="add_generation_prompt is not the study's to set"):
        plan(template_arguments={"add_generation_prompt": False})


def test_doctor_shows_each_token_and_the_end_and_counts_what_run_refuses():
    study = schema.Study(
        name="t", teachers=[], students=["zoo-s"], corpus="synthetic",
        benchmarks=["synth_addsub"], methods=["sft"],
    )  # fmt: skip
    talk = [
        Example(id=str(n), instruction="hi", response="yes", chat=json.dumps({"messages": m}))
        for n, m in enumerate([TALK, TALK[:2], [user("a<|im_end|>"), assistant("b")],
                               [*TALK[:2], assistant("again")]])
    ]  # fmt: skip
    facts = doctor_text.read(study, models.tokenizer("chatml"), ["m"], talk, {})
    assert (facts.rows, facts.refused, facts.written, facts.prompt_mismatches) == (4, 1, 1, 0)
    spans = facts.masks[0].spans
    assert [s.part for s in spans] == ["prompt", "scored", "prompt", "scored"]
    assert spans[1].pieces == ("y", "e", "s", "<|im_end|>")
    assert spans[1].ends
    out = io.StringIO()
    facts = dataclasses.replace(healthy(), texts=(facts,))
    show("t", [*check_text.masks(facts), *check_text.contract(facts)], Console(file=out))
    shown = " ".join(out.getvalue().split())
    assert "scored, 4 tokens, the last, <|im_end|>, ends the answer: y│e│s│<|im_end|>" in shown
    assert "`run` refuses 1 of 4 rows; the first: row 3" in shown
    assert "1 of 4 rows write control tokens out" in shown
