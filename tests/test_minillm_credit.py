"""What MiniLLM's tokens are credited with: whitened returns, and a reward for right answers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_models as tiny
import torch
import train_stage
from enumerated import (
    CPU,
    LONGEST,
    PROMPT,
    UNBIASED,
    V,
    every_text,
    fused_gradient,
    gradient,
    in_double,
    log_steps,
    log_texts,
    policy,
    texts_kl,
)
from pydantic import ValidationError
from small_trainers import SETTINGS, make, micro, weights
from study_folder import plan_of, write_folder

from kdstudy.answers.gold import Gold
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, onpolicy, policy_gradient, stages
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.model import DistillModel
from kdstudy.distill.rows import encode_dataset, golds_of
from kdstudy.distill.schedule import curve
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError
from kdstudy.methods.minillm import MiniLLM
from kdstudy.records import Example, read_records, write_records

SHORT = SETTINGS.model_copy(update={"evaluations": 4, "epochs": 1})
# The first capital letter of a text, which random texts of the tiny tokenizer often have.
GOLD = Gold(question="", answer="A", kind="letter", rule="reference")
ROWS = [dataclasses.replace(row, gold=GOLD) for row in tiny.rows(40)]
CREDITED = MiniLLM(whiten=True, reward=2.0, lmbda=0.7)


@pytest.fixture(scope="module")
def pair():
    return [in_double(seed) for seed in (0, 1)]


# The reward's gradient, over every text.


@pytest.mark.parametrize("one_step", ["full", "k1", "k2"])
@pytest.mark.parametrize(
    "right", [lambda y: 3 in y, lambda y: len(y) == LONGEST], ids=["3", "long"]
)
def test_the_mean_gradient_is_that_of_the_kl_less_the_mean_reward(pair, one_step, right):
    texts = every_text(LONGEST)
    rewards = [0.7 * right(y) for y in texts]
    kl, chance = texts_kl(pair, texts)
    earned = (
        log_texts(log_steps(pair[0], texts), texts).exp()
        * torch.tensor(rewards, dtype=torch.float64)
    ).sum()
    objective = policy(one_step=one_step, **UNBIASED)
    _, got = fused_gradient(pair, texts, chance, objective, rewards)
    want = gradient(kl - earned, pair[0])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12 * want.abs().max().item())
    _, without = fused_gradient(pair, texts, chance, objective)
    assert (without - want).norm() > 0.01 * want.norm(), "the oracle can fail"


def test_a_mixtures_text_earns_what_the_students_would(pair):
    """For texts of a token the importance weight is exact."""
    texts = every_text(1)
    rewards = [1.5 * (y == (3,)) for y in texts]
    kl, chance = texts_kl(pair, texts)
    ours, theirs = (log_texts(log_steps(model, texts), texts).exp() for model in pair)
    drawn = (0.3 * theirs + 0.7 * chance).detach()
    _, got = fused_gradient(pair, texts, drawn, policy(teacher_share=0.3), rewards)
    want = gradient(kl - (ours * torch.tensor(rewards, dtype=torch.float64)).sum(), pair[0])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12 * want.abs().max().item())


# Whitened returns, in float64 from whole logits.

TEXTS = [(0, 3, 2, 3, 1), (1,), (3, 3, 0), (2, 2), (0, 0, 0, 0, 0, 0, 1)]
REWARDS = [0.0, 0.9, 0.0, 0.9, 0.9]


def credit(pair, fields):
    """Return every token's credit, text by text, and its importance weight."""
    both = ([x[range(len(y)), list(y)] for x, y in zip(log_steps(m, TEXTS), TEXTS, strict=True)]
            for m in pair)  # fmt: skip
    found, shares = [], []
    for s, t, reward in zip(*both, REWARDS, strict=True):
        s, t = (x.detach().numpy() for x in (s, t))
        gamma, scale = fields.get("discount", 1.0), fields.get("long_term_weight", 1.0)
        for i in range(len(s)):
            behind = [gamma**k * r for k, r in enumerate((t - s)[i + 1 :])]
            to_go = np.mean(behind) if behind else 0.0
            found.append(scale * to_go + reward)
            shares.append(np.exp(s[i]) / (0.2 * np.exp(t[i]) + 0.8 * np.exp(s[i])))
    return np.array(found), np.array(shares)


def asked(pair, texts, rewards, fields, cut):
    """Return the micro-batches of a step, whitened."""
    model = DistillModel(pair[0], MiniLLM().recipe(), LiveTeacher(pair[1], V))
    made = [
        batches.collate(
            [Encoded((*PROMPT, *texts[i]), len(PROMPT)) for i in part],
            batches.Weighing(),
            CPU,
            sampled=True,
            objective=policy(**fields),
            rewards=[rewards[i] for i in part] if rewards else (),
        )
        for part in cut
    ]
    return policy_gradient.whitened(made, model.drawn, lambda matrix: matrix), model


@pytest.mark.parametrize(
    "cut", [[[0, 1, 2, 3, 4]], [[3, 0], [1], [4, 2]], [[4], [3], [2], [1], [0]]]
)
@pytest.mark.parametrize("fields", [{}, {"discount": 0.8, "long_term_weight": 0.4}], ids=str)
def test_whitened_returns_are_those_of_a_loop(pair, cut, fields):
    made, _ = asked(pair, TEXTS, REWARDS, fields, cut)
    plain, shares = credit(pair, fields)
    want = (plain - plain.mean()) / np.sqrt(plain.var() + 1e-8)
    first = np.cumsum([0, *map(len, TEXTS)])
    order = [i for part in cut for text in part for i in range(first[text], first[text + 1])]
    got = torch.cat([batch.drawn.returns_N for batch in made]).numpy()
    np.testing.assert_allclose(got, want[order], rtol=1e-9, atol=1e-11)
    assert abs(got.mean()) < 1e-12 and abs(got.var() - 1) < 1e-6
    told = torch.cat([batch.drawn.told_N2 for batch in made]).numpy()
    np.testing.assert_allclose(told[:, 0], shares[order], rtol=1e-9)
    np.testing.assert_allclose(told[:, 1], (shares * want)[order], rtol=1e-9, atol=1e-11)


def test_what_is_told_is_what_the_loss_uses(pair):
    made, model = asked(pair, TEXTS, REWARDS, {}, [[0, 1, 2, 3, 4]])
    pair[0].zero_grad()
    model(made[0], 1)[0].backward()
    got = torch.cat([p.grad.ravel() for p in pair[0].parameters()])
    plain, shares = credit(pair, {})
    credited = torch.tensor(shares * (plain - plain.mean()) / np.sqrt(plain.var() + 1e-8))
    steps = [log_steps(m, TEXTS) for m in pair]
    kl = sum((s.exp() * (s - t.detach())).sum() for s, t in zip(*steps, strict=True))
    drawn = torch.cat([s[range(len(y)), list(y)] for s, y in zip(steps[0], TEXTS, strict=True)])
    want = gradient(kl - (credited * drawn).sum(), pair[0])
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11 * want.abs().max().item())


@pytest.mark.parametrize(
    ("texts", "rewards"), [([(3,)], []), ([(3,)], [5.0]), ([(2,), (3,), (0,)], [1.0, 1.0, 1.0])]
)
def test_one_token_and_returns_all_alike_are_credited_with_nothing(pair, texts, rewards):
    made, model = asked(pair, texts, rewards, {}, [list(range(len(texts)))])
    assert made[0].drawn.returns_N.abs().max() < 1e-10
    assert model(made[0], 1)[0].isfinite()


def test_a_prompts_tokens_are_in_no_mean(pair):
    rows = [Encoded((2, 3, *y), 2) for y in TEXTS]
    found = []
    for loss_tokens in ("response", "all", "positions"):
        model = DistillModel(pair[0], MiniLLM().recipe(), LiveTeacher(pair[1], V))
        batch = batches.collate(
            rows, batches.Weighing(loss_tokens=loss_tokens), CPU, sampled=True,
            objective=policy(), rewards=REWARDS,
        )  # fmt: skip
        (made,) = policy_gradient.whitened([batch], model.drawn, lambda matrix: matrix)
        drawn = made.drawn.targets_N >= 0
        assert not made.drawn.returns_N[~drawn].any()
        found.append(made.drawn.returns_N[drawn])
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-12, atol=1e-12)


def test_adapters_do_not_drop_out_while_a_step_is_looked_at(tmp_path):
    settings = SHORT.model_copy(update={"lora": schema.Lora(r=4, dropout=0.5)})
    trainer = make(tmp_path, MiniLLM(whiten=True), settings, data=ROWS)
    trainer.model.train()
    batch = batches.collate(
        ROWS[:4], batches.Weighing(), CPU, sampled=True, objective=policy(teacher_share=0.2)
    )
    with torch.no_grad():
        for name, parameter in trainer.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    first, second = (trainer.model.drawn(batch).returns_N for _ in range(2))
    assert torch.equal(first, second) and trainer.student.training


# Runs.


def test_how_a_step_is_cut_changes_rounding_alone(tmp_path):
    ends, logged = [], []
    for size in (1, 4):
        trainer = make(
            tmp_path / str(size), CREDITED, micro(size, SHORT), data=ROWS,
            student=tiny.qwen(0).double(), teacher=tiny.qwen(1).double(),
        )  # fmt: skip
        trainer.run()
        ends.append(weights(trainer))
        logged.append([row.get("reward") for row in trainer.state.log_history if "loss" in row])
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-9)
    assert logged[0] == logged[1]


def test_a_resumed_run_has_the_same_bits(tmp_path):
    whole = make(tmp_path / "whole", CREDITED, SHORT, data=ROWS)
    whole.run()
    make(tmp_path / "cut", CREDITED, SHORT, data=ROWS).run()
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = make(tmp_path / "cut", CREDITED, SHORT, data=ROWS)
    again.run()
    assert again._initial_global_step > 0
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    assert curve(again.state.log_history) == curve(whole.state.log_history)


def test_the_share_of_right_texts_is_logged(tmp_path, monkeypatch):
    written = []

    def spy(row, tokenizer, eos_ids):
        text = tokenizer.decode(row.ids[row.prompt_length :], skip_special_tokens=True)
        first = next((c for c in text if c in "ABCDE"), "")
        written.append(first == "A")
        return right(row, tokenizer, eos_ids)

    right = onpolicy.right
    monkeypatch.setattr(onpolicy, "right", spy)
    trainer = make(tmp_path, MiniLLM(reward=2.0), SHORT, data=ROWS)
    trainer.run()
    logged = [row["reward"] for row in trainer.state.log_history if "loss" in row]
    each = np.array(written).reshape(-1, 4).mean(1)  # rows of a step
    assert len(each) == trainer.args.max_steps == len(logged)
    assert logged == pytest.approx(each.tolist()) and 0 < sum(written) < len(written)


def test_a_reward_makes_right_texts_likelier(tmp_path):
    found = []
    for reward in (0.0, 3.0):
        trainer = make(
            tmp_path / str(reward),
            MiniLLM(reward=reward, teacher_share=0),
            SETTINGS.model_copy(update={"evaluations": 1, "epochs": 6}),
            data=ROWS,
        )
        trainer.run()
        made = trainer._sampled(ROWS, 10**6)
        found.append(sum(onpolicy.right(row, trainer.processing_class, [1]) for row in made))
    assert found[1] > found[0] + 8, found


# Rows without an answer, and fields.


def test_rows_without_a_right_answer_are_refused(tmp_path):
    with pytest.raises(InputError, match="row 0 was encoded without its right answer"):
        make(tmp_path, MiniLLM(reward=1.0), SHORT)
    rows = [
        {"prompt": "Q: 1 + 1?", "completion": "2", "answer": "2"},
        {"prompt": "Q", "completion": "a"},
    ]
    args = DistillConfig(
        output_dir=str(tmp_path), method=MiniLLM(reward=1.0), use_cpu=True, max_length=24
    )
    with pytest.raises(InputError, match="row 1 has no answer, and the method rewards") as error:
        DistillTrainer(
            tiny.qwen(0), tiny.qwen(1), args, train_dataset=rows, processing_class=tiny.tokenizer()
        )
    assert "reward: 0" in error.value.remedy


def test_datasets_bring_their_answers(tmp_path):
    rows = [
        {"prompt": "Q: 1 + 1?", "completion": "it is 2", "answer": a} for a in ("2", "B", "yes")
    ]
    golds = golds_of(MiniLLM(reward=1.0, labels=["yes", "no"]).judging, "corrected")
    found = encode_dataset(rows, tiny.tokenizer(), 60, golds=golds).rows
    assert [row.gold.kind for row in found] == ["number", "letter", "label"]
    assert [row.gold.right(f"The answer is {row.gold.answer}.", cut=False) for row in found] == [
        True, True, True,
    ]  # fmt: skip
    text = tiny.tokenizer()("the answer is 2.", add_special_tokens=False)["input_ids"]
    ids = found[0].ids[: found[0].prompt_length]
    for end, answer, want in (
        ((tiny.EOS,), "2", True),
        ((), "2", False),
        ((tiny.EOS,), "3", False),
    ):
        gold = dataclasses.replace(found[0].gold, answer=answer)
        row = dataclasses.replace(found[0], ids=(*ids, *text, *end), gold=gold)
        assert onpolicy.right(row, tiny.tokenizer(), [tiny.EOS]) == want


def test_fields():
    for fields, named in (
        ({"labels": ["yes"]}, "they need reward"),
        ({"whiten": True, "long_term_weight": 0.5}, "long_term_weight 0.5 would change nothing"),
        ({"reward": -1}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValidationError, match=named):
            MiniLLM(**fields)
    assert MiniLLM(reward=1, labels=[True, False]).labels == ["true", "false"]
    assert not {"whiten", "reward", "labels"} & MiniLLM().model_dump().keys()


def test_a_corpus_without_answers_is_refused_when_it_is_planned(tmp_path):
    folder = write_folder(tmp_path)
    with pytest.raises(InputError, match="10 of 10 rows have no answer, and minillm rewards"):
        plan_of(folder, methods=[{"type": "minillm", "reward": 1}], ablations={})


def test_how_answers_are_read_is_in_the_key_of_rewarded_runs_alone(tmp_path):
    folder = write_folder(tmp_path)
    text = (folder / "rows.jsonl").read_text().splitlines()
    rows = [line[:-1] + f', "answer": "{i + 1}"}}' for i, line in enumerate(text)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    keys = {}
    for reward in (0, 1):
        for extraction in ("corrected", "reference"):
            method = {"type": "minillm", "reward": reward}
            plan = plan_of(folder, methods=[method], ablations={}, extraction=extraction)
            (keys[reward, extraction],) = {
                s.key
                for s in plan.stages.values()
                if s.kind == "train" and s.label == "small/minillm/big"
            }
    assert keys[0, "corrected"] == keys[0, "reference"]
    assert len(set(keys.values())) == 3


def test_a_studys_run_rewards_what_its_corpus_calls_right(tmp_path):
    """With a cached teacher for the steps on the corpus, and a letter that random texts have."""
    place = train_stage.furnish(tmp_path)
    for part in ("train", "validation"):
        path = place / "corpus" / f"{part}.parquet"
        rows = [dataclasses.replace(e, answer="A") for e in read_records(path, Example)]
        write_records(path, rows, Example)
    method = MiniLLM(reward=1.0, whiten=True, lmbda=0.6, teacher_share=0)
    work = train_stage.work(place, "out", method)
    work.config["extraction"] = "reference"
    stages.train(work)
    facts = json.loads((place / "out" / "training.json").read_text())
    texts = sum(point.get("reward_texts", 0) for point in facts["curve"])
    assert texts and texts % train_stage.TRAIN.batch_size == 0
    shares = [point["reward"] for point in facts["curve"] if "reward" in point]
    assert all(0 <= share <= 1 for share in shares) and any(shares)
