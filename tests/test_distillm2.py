"""DistiLLM-2: its two losses against dense float64, its schedule by hand, its labels."""

import dataclasses

import numpy as np
import pytest
import tiny_models as tiny
import torch
from divergence_oracles import charged, kl, logits
from scipy.special import softmax
from small_trainers import SETTINGS, make

from kdstudy import methods
from kdstudy.distill import batches
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.distillm2 import DistiLLM2

CONTRAST = DistiLLM2(alpha=0.2, contrast_start=1.0, contrast_end=1.4)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("sampled", [False, True])
def test_loss_and_gradient_are_those_of_dense_autograd(sampled, tau):
    s, t = (logits(5, 40, seed).double() for seed in (1, 2))
    x, y = (s.clone().requires_grad_() for _ in range(2))
    pace = DistiLLM2(alpha=0.2, contrast_end=1.4, temperature=tau).recipe().pace()
    got = charged(y, t, pace.objective(0.5, sampled))
    q, p = (x / tau).softmax(-1), (t / tau).softmax(-1)
    # Half-way from 1 to 1.4, b is 1.2.
    if sampled:
        want = 1.2 * tau**2 * (q * (q / (0.2 * q + 0.8 * p)).log()).sum(-1)
    else:
        want = 0.8 * tau**2 * (p * (p / (0.2 * p + 0.8 * q)).log()).sum(-1)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    (gradient,), (exact,) = (
        torch.autograd.grad(loss.sum(), z) for loss, z in ((got, y), (want, x))
    )
    torch.testing.assert_close(gradient, exact, rtol=1e-10, atol=1e-12)


def test_without_skew_and_contrast_it_is_both_kls():
    s, t = (logits(5, 40, seed).double() for seed in (1, 2))
    pace = DistiLLM2(alpha=0, contrast_end=1).recipe().pace()
    p, q = (softmax(x.numpy(), axis=-1) for x in (t, s))
    for sampled, want in ((False, kl(p, q)), (True, kl(q, p))):
        got = charged(s, t, pace.objective(0.3, sampled)).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_the_weights_move_in_proportion_to_the_steps():
    pace = CONTRAST.recipe().pace()
    assert not pace.listens and pace.state == {}
    on_corpus = [pace.objective(i / 4, False).weight for i in range(4)]
    on_samples = [pace.objective(i / 4, True).weight for i in range(4)]
    assert on_samples == pytest.approx([1.0, 1.1, 1.2, 1.3])
    assert on_corpus == pytest.approx([1.0, 0.9, 0.8, 0.7])


def test_equal_models_have_neither_loss_nor_gradient():
    pace = CONTRAST.recipe().pace()
    for sampled in (False, True):
        s = logits(4, 30, seed=4).double().requires_grad_()
        loss = charged(s, s.detach().clone(), pace.objective(0.5, sampled)).sum()
        (gradient,) = torch.autograd.grad(loss, s)
        assert abs(loss.item()) < 1e-12 and gradient.abs().max() < 1e-14


def test_hard_labels_never_act_on_the_students_own_text():
    student, teacher = tiny.qwen(0).double().eval(), tiny.qwen(1, width=24).double().eval()
    live = LiveTeacher(teacher, tiny.VOCABULARY)
    losses = []
    for share in (0.0, 0.4):
        method = DistiLLM2(hard_label_weight=share)
        batch = batches.collate(
            tiny.rows(3, seed=3),
            batches.Weighing(),
            torch.device("cpu"),
            sampled=True,
            objective=method.recipe().pace().objective(0.5, sampled=True),
        )
        losses.append(DistillModel(student, method.recipe(), live)(batch, 1)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    plain = dataclasses.replace(batch, sampled=False)
    other = DistillModel(student, method.recipe(), live)(plain, 1)[0].item()
    assert other != pytest.approx(losses[0], rel=1e-3)


def test_a_run_charges_each_text_by_its_own_divergence(tmp_path):
    short = SETTINGS.model_copy(update={"evaluations": 1, "epochs": 1})
    trainer = make(tmp_path, CONTRAST, short, seed=4)
    seen = []
    inner = trainer._pacing.objective

    def objective(step, steps, sampled):
        found = inner(step, steps, sampled)
        seen.append((sampled, found.divergence.__name__, found.weight, step / steps))
        return found

    trainer._pacing.objective = objective
    trainer.run()
    assert len(seen) == trainer.args.max_steps and {s for s, *_ in seen} == {False, True}
    for sampled, name, weight, progress in seen:
        assert name == ("skew_reverse_kl" if sampled else "skew_kl")
        b = 1 + 0.4 * progress
        assert weight == pytest.approx(b if sampled else 2 - b)


def test_fields():
    assert methods.named({"type": "distillm2"}).recipe().objective.parameter == 0.1
