"""Hidden-state distillation against dense float64, and its guarantees: cuts, caches, resuming."""

import itertools
import json
import shutil

import numpy as np
import pytest
import tiny_models as tiny
import torch
from hidden_states import batch_of, dense
from safetensors.torch import load_file
from small_trainers import SETTINGS, make, micro, weights

from kdstudy import methods
from kdstudy.distill import cache
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.hidden_kd import HiddenKD
from kdstudy.methods.hidden_loss import HiddenLoss

CASES = list(itertools.product(("mse", "cosine"), (True, False), ((5, 7), (6, 6), (9, 4))))


@pytest.mark.parametrize(("distance", "normalise", "widths"), CASES)
def test_the_distance_is_its_definition_and_the_gradient_its_difference(
    distance, normalise, widths
):
    rng = np.random.default_rng(2)
    h_S, h_T = widths
    module = HiddenLoss(h_S, h_T, weight=0.7, distance=distance, normalise=normalise).double()
    assert (module.projection is None) == (h_S == h_T)
    s, t = rng.normal(size=(4, h_S)), 3 * rng.normal(size=(4, h_T))
    w = np.array([1.0, 0.0, 2.0, 0.5])
    projection = None if h_S == h_T else module.projection.weight.detach().numpy()

    def value(s):
        return 0.7 * (w * dense(s, t, projection, distance, normalise)).sum()

    x = torch.tensor(s, requires_grad=True)
    loss = module(x, torch.tensor(t), torch.tensor(w))
    assert loss.item() == pytest.approx(value(s), rel=1e-12)
    loss.backward()
    for i, j in itertools.product(range(4), range(h_S)):
        step = np.zeros_like(s)
        step[i, j] = 1e-6
        want = (value(s + step) - value(s - step)) / 2e-6
        assert x.grad[i, j].item() == pytest.approx(want, abs=1e-7)


def test_the_same_states_are_at_no_distance():
    states = torch.randn(5, 8, dtype=torch.float64)
    for distance, normalise in itertools.product(("mse", "cosine"), (True, False)):
        module = HiddenLoss(8, 8, weight=2.0, distance=distance, normalise=normalise)
        assert abs(module(states, states, torch.ones(5)).item()) < 1e-12


def test_no_other_draw_is_moved_by_the_projections():
    torch.manual_seed(4)
    want = torch.rand(3)
    torch.manual_seed(4)
    first = HiddenLoss(5, 7, weight=1, distance="mse", normalise=True)
    assert torch.equal(torch.rand(3), want)
    again = HiddenLoss(5, 7, weight=1, distance="mse", normalise=True)
    assert torch.equal(first.projection.weight, again.projection.weight)


def test_the_loss_is_the_divergence_and_the_distance():
    student, teacher = tiny.qwen(0).eval(), tiny.qwen(1, width=24).eval()
    live = LiveTeacher(teacher, len(teacher.get_input_embeddings().weight))
    batch = batch_of(tiny.rows(5, seed=3))
    plain, _ = DistillModel(student, methods.WordKD().recipe(), live)(batch)
    both, _ = DistillModel(student, HiddenKD(hidden_weight=0.3).recipe(), live)(batch)
    states = []
    for model in (student, teacher):
        rows = batch.ids_T.split(batch.lengths)
        read = torch.cat([model.model(input_ids=ids[None]).last_hidden_state[0] for ids in rows])
        states.append(read[batch.places_N])
    module = HiddenLoss(
        states[0].shape[1], states[1].shape[1], weight=0.3, distance="mse", normalise=True
    )
    want = plain + module(*states, batch.weights_N)
    assert both.item() == pytest.approx(want.item(), rel=1e-5)
    assert both.item() > plain.item()


def test_cached_states_give_the_live_teachers_loss():
    student, teacher = tiny.qwen(0).eval(), tiny.qwen(1, width=24).eval()
    width = len(teacher.get_input_embeddings().weight)
    live, rows = LiveTeacher(teacher, width), tiny.rows(4, seed=3)
    states = cache.in_memory(live, rows, "response", rows_per_pass=2)
    kept = cache.CachedTeacher(states, live.head, width, "response")
    recipe = HiddenKD().recipe()
    losses = [DistillModel(student, recipe, t)(batch_of(rows))[0].item() for t in (live, kept)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


METHOD = HiddenKD(hidden_weight=0.5)


def wide_teacher():
    return tiny.qwen(7, width=24)


def test_how_a_step_is_cut_changes_rounding_alone(tmp_path):
    ends = []
    for size in (1, 3, 4):
        settings = micro(size, SETTINGS.model_copy(update={"batch_size": 12}))
        trainer = make(tmp_path / str(size), METHOD, settings, teacher=wide_teacher())
        trainer.run()
        ends.append(weights(trainer) | dict(trainer.model.extra.state_dict()))
    for name, value in ends[0].items():
        for other in ends[1:]:
            torch.testing.assert_close(value, other[name], rtol=2e-4, atol=2e-5)


def test_the_projection_is_trained_saved_with_checkpoints_and_not_with_the_student(tmp_path):
    trainer = make(tmp_path, METHOD, teacher=wide_teacher())
    before = trainer.model.extra.projection.weight.detach().clone()
    trainer.run()
    assert not torch.equal(before, trainer.model.extra.projection.weight)
    checkpoint = max(tmp_path.glob("checkpoint-*"))
    assert (checkpoint / "method.safetensors").is_file()
    trainer.save_student(tmp_path / "out", "")
    assert not list((tmp_path / "out").glob("*method*"))
    saved = [name for f in (tmp_path / "out").glob("*.safetensors") for name in load_file(f)]
    assert saved and not [name for name in saved if "projection" in name]


def test_a_resumed_run_has_the_same_bits(tmp_path):
    whole = make(tmp_path / "whole", METHOD, teacher=wide_teacher())
    whole.run()
    first = make(tmp_path / "cut", METHOD, teacher=wide_teacher())
    first.run()
    *_, last = sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    shutil.rmtree(last)
    again = make(tmp_path / "cut", METHOD, teacher=wide_teacher())
    again.run()
    assert again._initial_global_step > 0
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    mine, theirs = (t.model.extra.projection.weight for t in (whole, again))
    assert torch.equal(mine, theirs)


def test_a_study_names_it_like_any_other():
    fields = json.loads(json.dumps({"type": "hidden_kd", "distance": "cosine"}))
    assert methods.named(fields).recipe().extra is not None
    assert HiddenKD in methods.METHODS.values()
