"""MiniLLM's gradient against the exact one by enumeration of every text, and its guarantees."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import tiny_models as tiny
import torch
from divergence_oracles import logits
from enumerated import (
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

from kdstudy import methods
from kdstudy.data.prompts import Encoded
from kdstudy.distill import assemble, batches, onpolicy, policy_gradient
from kdstudy.distill.fused import TeacherSide, head_loss
from kdstudy.distill.model import DistillModel
from kdstudy.distill.noise import Noise
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError
from kdstudy.methods.minillm import MiniLLM
from kdstudy.models import packing, parts
from kdstudy.models.parts import Head
from kdstudy.models.sample import Beside, sample

STEPS = ("full", "k1", "k2", "k3")
CPU = torch.device("cpu")
# Every text of a tiny model.


@pytest.fixture(scope="module")
def pair():
    return [in_double(seed) for seed in (0, 1)]


@pytest.mark.parametrize("one_step", ["full", "k1", "k2"])
def test_the_mean_gradient_over_all_texts_is_that_of_their_kl(pair, one_step):
    texts = every_text(LONGEST)
    assert len(texts) == 1 + 3 * (1 + 3 * 4)
    kl, chance = texts_kl(pair, texts)
    loss, got = fused_gradient(pair, texts, chance, policy(one_step=one_step, **UNBIASED))
    want = gradient(kl, pair[0])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12 * want.abs().max().item())
    if one_step != "k2":  # whose value estimates something else
        assert loss == pytest.approx(kl.item(), rel=1e-11)


def test_without_what_follows_it_is_not(pair):
    """The oracle can fail: each step's own KL alone is another gradient."""
    texts = every_text(LONGEST)
    kl, chance = texts_kl(pair, texts)
    _, got = fused_gradient(pair, texts, chance, policy(long_term_weight=0.0, **UNBIASED))
    want = gradient(kl, pair[0])
    assert (got - want).norm() > 0.01 * want.norm()


def test_k3_estimates_the_reverse_kl_and_follows_the_forward_one(pair):
    texts = every_text(LONGEST)
    kl, chance = texts_kl(pair, texts)
    losses, grads = zip(
        *(
            fused_gradient(pair, texts, chance, policy(one_step=x, **UNBIASED))
            for x in ("full", "k3")
        ),
        strict=True,
    )
    assert losses[1] == pytest.approx(kl.item(), rel=1e-11)
    steps = zip(log_steps(pair[0], texts), log_steps(pair[1], texts), chance, strict=True)
    apart = 0
    for s, t, weight in steps:
        t = t.detach()
        apart = apart + weight * ((t.exp() * (t - s)).sum() - (s.exp() * (s - t)).sum())
    want = grads[0] + gradient(apart, pair[0])
    torch.testing.assert_close(grads[1], want, rtol=1e-9, atol=1e-12 * want.abs().max().item())


@pytest.mark.parametrize("one_step", ["full", "k1", "k2"])
def test_weights_make_the_teachers_part_in_the_text_good(pair, one_step):
    """For texts of a token the importance weight is exact."""
    texts = every_text(1)
    kl, chance = texts_kl(pair, texts)
    theirs = log_texts(log_steps(pair[1], texts), texts).detach().exp()
    objective = policy(one_step=one_step, teacher_share=0.3)
    _, got = fused_gradient(pair, texts, 0.3 * theirs + 0.7 * chance, objective)
    want = gradient(kl, pair[0])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12 * want.abs().max().item())


# A row, from whole logits and the definitions.


def surrogate(s, t, clean, y, fields, tau):
    """Return a row's loss whose autograd is the method's gradient; [tokens, V] each, y the text."""
    rows = torch.arange(len(y))
    s_y, t_y, clean_y = (x[rows, y] for x in (s, t, clean))
    share, gamma = fields.get("teacher_share", 0.2), fields.get("discount", 1.0)
    w = (s_y.exp() / (share * clean_y.exp() + (1 - share) * s_y.exp())).detach()
    reward = (t_y - s_y).detach()
    if clip := fields.get("reward_clip"):
        reward = reward.clamp(-clip, clip)
    own, total = fields.get("long_term") == "released", 0.0
    for i in range(len(y)):
        first = i if own else i + 1
        behind = [gamma ** (k - first) * reward[k] for k in range(first, len(y))]
        if behind:
            r = sum(behind) / (len(behind) if fields.get("length_normalised", True) else 1)
            total = total - fields.get("long_term_weight", 1.0) * w[i] * r * s_y[i]
    d = s_y - t_y
    one = {
        "full": lambda: (s.exp() * (s - t)).sum(-1),
        "k1": lambda: w * d.detach() * s_y,
        "k2": lambda: w * d * d / 2,
        "k3": lambda: w * ((-d).exp() - 1 + d),
    }[fields.get("one_step", "full")]()
    return tau**2 * (one.sum() + total)


FIELDS = [
    *({"one_step": x} for x in STEPS),
    {"long_term": "released", "discount": 0.95},
    {"discount": 0.5, "length_normalised": False, "long_term_weight": 0.7},
    {"reward_clip": 0.4, "teacher_share": 0.0},
    {"long_term_weight": 0.0, "one_step": "k3"},
    {"long_term_weight": 0.0, "one_step": "k1", "teacher_share": 0.0},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_rows_have_the_gradient_of_their_definition(pair, fields, tau, noise):
    student, teacher = pair
    texts = [(0, 3, 2, 3, 1), (1,), (3, 3, 0)]
    recipe = MiniLLM(temperature=tau, noise=noise, **fields).recipe()
    model = DistillModel(student, recipe, LiveTeacher(teacher, V))
    batch = batches.collate(
        [Encoded((*PROMPT, *y), len(PROMPT)) for y in texts],
        batches.Weighing(),
        CPU,
        noise_seeds=[5, 10**6, 10**9] if noise else (),
        sampled=True,
        objective=recipe.pace().objective(0.0, sampled=True),
    )
    (loss,) = model(batch, 1)
    got = gradient(loss, student)
    counts = [len(y) for y in texts]
    raw = torch.cat(log_steps(teacher, texts)).detach()
    noisy = Noise(noise, batch.noise_seeds_N)(raw.clone(), slice(None)) if noise else raw
    theirs = ((x / tau).log_softmax(-1).split(counts) for x in (noisy, raw))
    rows = zip(log_steps(student, texts, tau), *theirs, texts, strict=True)
    want = sum(surrogate(s, t, clean, list(y), fields, tau) for s, t, clean, y in rows)
    want = gradient(want, student)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11 * want.abs().max().item())


def test_the_prompt_and_the_end_bring_nothing(pair):
    student, teacher = pair
    row = Encoded((2, 3, 0, 3, tiny.EOS), 2)
    live = LiveTeacher(teacher, V)
    first = None
    for loss_tokens, want in (
        ("response", [0, 3, 1]),
        ("all", [-1, 0, 3, 1]),
        ("positions", [-1, 0, 3, 1, -1]),
    ):
        batch = batches.collate([row], batches.Weighing(loss_tokens=loss_tokens), CPU)
        packing.enable(student)
        hidden = packing.scored_hidden(student, batch.ids_T, batch.lengths, batch.places_N)
        side = TeacherSide(hidden=live.hidden(batch), head=live.head)
        objective = policy(teacher_share=0.5)
        found = policy_gradient.drawn(objective, batch, hidden, parts.head(student), side)
        drawn, told = found.targets_N, found.told_N2
        assert drawn.tolist() == want
        assert not told[drawn < 0].any() and (told[drawn >= 0, 0] > 0).all()
        alone = told[drawn >= 0]
        first = alone if first is None else first
        torch.testing.assert_close(alone, first)


# One token, by hand.


def charged(s, t, objective, drawn, told):
    eye = Head(weight=torch.eye(s.shape[1], dtype=s.dtype))
    side = TeacherSide(hidden=t, head=eye)
    ones = torch.ones(len(s), dtype=s.dtype)
    return head_loss(s, eye, drawn, ones, objective, side, told_N=told)[0]


def test_three_tokens_by_hand():
    """S = (1/2, 1/4, 1/4), T = (1/4, 1/2, 1/4), the first drawn: log S/T is ln 2, T/S one half."""
    s, t = (torch.tensor([x]).double().log() for x in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25]))
    first, told = torch.tensor([0]), torch.tensor([[0.8, -0.3]], dtype=torch.float64)
    two = math.log(2)
    want = {
        "full": (0.5 * two - 0.25 * two, None),
        "k1": (0.8 * two, 0.8 * two),
        "k2": (0.8 * two * two / 2, 0.8 * two),
        "k3": (0.8 * (0.5 - 1 + two), 0.8 * 0.5),
    }
    for one_step, (value, slope) in want.items():
        x = s.clone().requires_grad_()
        loss = charged(x, t, policy(one_step=one_step), first, told)
        assert loss.item() == pytest.approx(value, abs=1e-12)
        (got,) = torch.autograd.grad(loss, x)
        # The logits' gradient of log S(first) is (1/2, -1/4, -1/4).
        log_slope = torch.tensor([[0.5, -0.25, -0.25]]).double()
        if slope is None:
            # That of the KL is S * (log S/T - KL).
            kl = s.exp() * (s - t - 0.25 * two)
            torch.testing.assert_close(got, kl + 0.3 * log_slope, rtol=1e-12, atol=1e-14)
        else:
            torch.testing.assert_close(got, (slope + 0.3) * log_slope, rtol=1e-12, atol=1e-14)


def test_k2_and_k3_are_losses_whose_slope_is_their_difference():
    s, t = (logits(3, 5, seed).double() for seed in (7, 8))
    drawn, told = torch.tensor([4, 0, -1]), torch.tensor([[1.0, 0], [0.4, 0], [0, 0]]).double()
    for one_step in ("k2", "k3"):
        what = policy(one_step=one_step)
        x = s.clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, what=what: charged(x, t, what, drawn, told), (x,), eps=1e-6, atol=1e-7
        )


def test_equal_models_have_neither_loss_nor_gradient(pair):
    student = pair[0]
    twin = in_double(0)
    texts = every_text(LONGEST)
    for one_step in STEPS:
        loss, got = fused_gradient(
            (student, twin), texts, torch.ones(len(texts)), policy(one_step=one_step)
        )
        assert abs(loss) < 1e-12 and got.abs().max() < 1e-11


def test_a_token_that_one_of_them_excludes_leaves_finite_numbers():
    s = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, -1e30]]).requires_grad_()
    t = torch.zeros(2, 3)
    drawn, told = torch.tensor([0, -1]), torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    for one_step in ("k1", "k2", "k3"):
        loss = charged(s, t, policy(one_step=one_step), drawn, told)
        (got,) = torch.autograd.grad(loss, s)
        assert loss.isfinite() and got.isfinite().all() and not got[1].any()


# Text drawn from a mixture.


def test_a_mixtures_text_is_that_of_a_loop_over_whole_logits(pair):
    student, teacher = pair
    # Without an end, so that texts are long enough to be unlike.
    prompts, seeds, share, tau = [(2, 3), (0,), (3, 2, 0)], [11, 12, 13], 0.4, 1.5
    got = sample(
        student, prompts, max_new_tokens=12, temperature=tau, seeds=seeds, eos_ids=[],
        pad_id=0, width=V, beside=Beside(model=teacher, share=share),
    )  # fmt: skip
    plain = sample(
        student, prompts, max_new_tokens=12, temperature=tau, seeds=seeds, eos_ids=[],
        pad_id=0, width=V,
    )  # fmt: skip
    assert [x.ids for x in got] != [x.ids for x in plain]
    for prompt, seed, text in zip(prompts, seeds, got, strict=True):
        uniforms = np.random.Generator(np.random.PCG64(seed)).random(12)
        ids = []
        for u in uniforms:
            both = [
                (m(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1] / tau).softmax(-1)
                for m in (student, teacher)
            ]
            mixed = (1 - share) * both[0] + share * both[1]
            ids.append(int(np.searchsorted(mixed.detach().numpy().cumsum(), u, side="right")))
        assert text.ids == tuple(ids)


def test_a_model_beside_itself_changes_nothing(pair):
    student = pair[0]
    twin = in_double(0)
    asked = {
        "max_new_tokens": 20, "temperature": 0.7, "seeds": range(6), "eos_ids": [tiny.EOS],
        "pad_id": 0, "width": V,
    }  # fmt: skip
    prompts = [(2,)] * 6
    both = [
        sample(student, prompts, **asked, beside=b) for b in (None, Beside(model=twin, share=0.4))
    ]
    assert both[0] == both[1]


def test_the_run_draws_from_the_mixture_at_the_losses_temperature(tmp_path, monkeypatch):
    calls = []

    def spy(*args, **settings):
        calls.append(settings)
        return sample(*args, **settings)

    monkeypatch.setattr(onpolicy, "sample", spy)
    trainer = make(tmp_path, MiniLLM(temperature=1.3, teacher_share=0.4), SHORT)
    trainer.run()
    assert len(calls) == trainer.args.max_steps
    assert {c["temperature"] for c in calls} == {1.3}
    assert all(c["beside"].share == 0.4 for c in calls)
    assert all(c["beside"].model is trainer.model.teacher.model for c in calls)


# Runs.

SHORT = SETTINGS.model_copy(update={"evaluations": 4, "epochs": 1})


@pytest.mark.parametrize("method", [MiniLLM(), MiniLLM(one_step="k1", lmbda=0.6, noise=0.5)])
def test_how_a_step_is_cut_changes_rounding_alone(tmp_path, method):
    ends = []
    for size in (1, 4):
        trainer = make(
            tmp_path / str(size),
            method,
            micro(size, SHORT),
            student=tiny.qwen(0).double(),
            teacher=tiny.qwen(1).double(),
        )
        trainer.run()
        ends.append(weights(trainer))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-9)


def test_a_step_is_divided_by_the_tokens_that_were_drawn(tmp_path):
    trainer = make(tmp_path, MiniLLM(), micro(2))
    inputs, total = trainer.get_batch_samples(iter([[0, 1], [2, 3]]), 2, CPU)
    assert total == sum(i["batch"].targets_N.numel() for i in inputs)
    assert total != batches.Weighing().weights(trainer.rows[:4])[1]


def test_a_resumed_run_has_the_same_bits(tmp_path):
    method = MiniLLM(lmbda=0.7)
    whole = make(tmp_path / "whole", method, SHORT)
    whole.run()
    make(tmp_path / "cut", method, SHORT).run()
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = make(tmp_path / "cut", method, SHORT)
    again.run()
    assert again._initial_global_step > 0
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_each_steps_own_kl_alone_is_onpolicy_revkl(tmp_path):
    plain = MiniLLM(long_term_weight=0, teacher_share=0)
    runs = [make(tmp_path / m.type, m, SHORT) for m in (plain, methods.OnPolicyRevKL())]
    for run in runs:
        run.run()
    ours, theirs = map(weights, runs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_validation_measures_reverse_kl_on_the_corpus(pair):
    student, teacher = pair
    live = LiveTeacher(teacher, V)
    batch = batches.collate([Encoded((2, 3, 0, 1), 1)], batches.Weighing(), CPU)
    ours, theirs = (
        DistillModel(student, m.recipe(), live)(batch) for m in (MiniLLM(), methods.RevKD())
    )
    assert [x.item() for x in ours] == [x.item() for x in theirs]


def test_a_teacher_that_cannot_write_is_refused(tmp_path):
    student, live = tiny.qwen(0), LiveTeacher(tiny.qwen(1), tiny.VOCABULARY)
    states = dataclasses.make_dataclass("States", ["width", "head", "hidden"])(
        live.width, live.head, live.hidden
    )
    for teacher, sharded, named in ((states, False, "hidden states"), (live, True, "FSDP")):
        with pytest.raises(InputError, match=r"teacher_share: 0\.2 of the text") as error:
            assemble.require_writer(teacher, MiniLLM().recipe(), sharded=sharded)
        assert named in error.value.why and "teacher_share to 0" in error.value.remedy
        assemble.require_writer(teacher, MiniLLM(teacher_share=0).recipe(), sharded=sharded)
    assert assemble.writer(live) is live.model and student is not live.model


def test_fields():
    for fields, named in (
        ({"teacher_share": 1}, "less than 1"),
        ({"one_step": "k4"}, "'full', 'k1', 'k2' or 'k3'"),
        ({"discount": 1.1}, "less than or equal to 1"),
        ({"lmbda": 0}, "greater than 0"),
        ({"sampling_temperature": 0.7}, "sampling_temperature"),
    ):
        with pytest.raises(ValidationError, match=named):
            MiniLLM(**fields)
    assert methods.named({"type": "minillm", "start": "sft"}).name == "minillm-from-sft"
    with pytest.raises(ValueError, match="what they are"):
        live = LiveTeacher(tiny.qwen(1), tiny.VOCABULARY)
        batch = batches.collate(tiny.rows(2), batches.Weighing(), CPU)
        hidden = live.hidden(batch)
        side = TeacherSide(hidden=hidden, head=live.head)
        head_loss(hidden, live.head, batch.targets_N, batch.weights_N, policy(), side)
