"""hidden_kd over layers of one's choice, against whole models read densely in float64."""

import shutil

import numpy as np
import pytest
import tiny_models as tiny
import torch
from hidden_states import batch_of, dense
from pydantic import ValidationError
from safetensors.torch import load_file
from small_trainers import SETTINGS, make, micro, weights
from study_folder import plan_of, write_folder
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from kdstudy import methods
from kdstudy.distill import assemble, cache
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError
from kdstudy.methods.hidden_kd import HiddenKD
from kdstudy.models import packing
from kdstudy.models.layers import paired


def gpt2(seed, layers, width=16):
    """A model of which every part computes in float64: Llama's norms, for one, do not."""
    config = GPT2Config(
        vocab_size=tiny.VOCABULARY, n_positions=64, n_embd=width, n_layer=layers, n_head=2,
        bos_token_id=None, eos_token_id=tiny.EOS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return tiny._seeded(GPT2LMHeadModel, config, seed, 10.0).double()


def llama(seed, layers, width=16):
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=width, intermediate_size=32,
        num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=tiny.EOS,
    )  # fmt: skip
    return tiny._seeded(LlamaForCausalLM, config, seed, 4.0)


def test_even_pairs_by_hand():
    assert paired("even", 2, 4) == [(0, 0), (1, 3)]
    assert paired("even", 3, 7) == [(0, 0), (1, 3), (2, 6)]
    assert paired("even", 4, 2) == [(0, 0), (3, 1)]
    assert paired("even", 3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert paired("even", 1, 5) == [(0, 4)] and paired("even", 5, 1) == [(4, 0)]
    assert paired(((1, 4), (0, 2)), 2, 5) == [(1, 4), (0, 2)]


def states(model, batch, number):
    """Return a layer's states at the scored places from transformers' own list, rows alone."""
    rows = batch.ids_T.split(batch.lengths)
    read = [model(input_ids=ids[None], output_hidden_states=True).hidden_states for ids in rows]
    # The first of them are the embeddings.
    return torch.cat([all_of_them[number + 1][0] for all_of_them in read])[batch.places_N]


PAIRS = ((0, 1), (1, 3), (2, 4))


@pytest.mark.parametrize("attention", ["packed", "eager"])
@pytest.mark.parametrize(("distance", "width"), [("mse", 16), ("mse", 24), ("cosine", 24)])
def test_loss_and_gradient_are_those_of_dense_float64(attention, distance, width):
    student, teacher = gpt2(0, 3).eval(), gpt2(1, 5, width).eval()
    live = LiveTeacher(teacher, tiny.VOCABULARY)
    method = HiddenKD(hidden_weight=0.3, distance=distance, layers=PAIRS)
    batch = batch_of(tiny.rows(5, seed=3))
    plain = DistillModel(student, methods.WordKD().recipe(), live)
    model = DistillModel(student, method.recipe(), live).double()
    assert model.pairs == [*PAIRS] and len(model.extra) == 3
    if attention == "eager":
        for one in (student, teacher):
            one.set_attn_implementation("eager")
    else:
        assert packing.enabled(student) and packing.enabled(teacher)
    projections = [m.projection and m.projection.weight for m in model.extra]
    assert all((p is None) == (width == 16) for p in projections)
    trained = [*student.parameters()]

    def apart(s, t, projection):
        s = s if projection is None else s @ projection.T
        if distance == "cosine":
            return 1 - torch.nn.functional.cosine_similarity(s, t)
        s, t = (x / x.square().mean(-1, keepdim=True).sqrt() for x in (s, t))
        return (s - t).square().mean(-1)

    kl, _ = plain(batch)
    found = [
        apart(states(student, batch, i), states(teacher, batch, j).detach(), projection)
        for (i, j), projection in zip(PAIRS, projections, strict=True)
    ]
    want = kl + 0.3 * sum(part.sum() for part in found) / 3
    got, _ = model(batch)
    assert got.item() == pytest.approx(want.item(), rel=1e-11)
    pair = [torch.cat([g.ravel() for g in torch.autograd.grad(x, trained)]) for x in (got, want)]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-11 * pair[1].abs().max().item())
    # And the distance by numpy, from its definition.
    s, t = (states(m, batch, n).detach().numpy() for m, n in ((student, 1), (teacher, 3)))
    matrix = projections[1] if projections[1] is None else projections[1].detach().numpy()
    np.testing.assert_allclose(found[1].detach(), dense(s, t, matrix, distance, True), rtol=1e-10)


def test_the_last_layers_are_the_final_states():
    student, teacher = llama(0, 2).eval(), llama(1, 4, 24).eval()
    live, batch = LiveTeacher(teacher, tiny.VOCABULARY), batch_of(tiny.rows(5, seed=3))
    losses = [
        DistillModel(student, HiddenKD(layers=layers).recipe(), live)(batch)[0].item()
        for layers in ("last", [(1, 3)], [(0, 3)])
    ]
    assert losses[0] == losses[1] != losses[2]


def test_equal_models_are_at_no_distance():
    student, batch = llama(0, 3).eval(), batch_of(tiny.rows(5, seed=3))
    live = LiveTeacher(llama(0, 3), tiny.VOCABULARY)
    for layers in ("even", [(0, 0), (1, 1)]):
        model = DistillModel(student, HiddenKD(layers=layers).recipe(), live)
        assert abs(model(batch)[0].item()) < 1e-5
    model = DistillModel(student, HiddenKD(layers=[(0, 1)]).recipe(), live)
    assert model(batch)[0].item() > 1


METHOD = HiddenKD(hidden_weight=0.5, layers=[(0, 1), (1, 2)])


def teacher():
    return llama(7, 4, 24)


def test_how_a_step_is_cut_changes_rounding_alone(tmp_path):
    ends = []
    for size in (1, 3, 4):
        settings = micro(size, SETTINGS.model_copy(update={"batch_size": 12}))
        trainer = make(tmp_path / str(size), METHOD, settings, build=tiny.llama, teacher=teacher())
        trainer.run()
        ends.append(weights(trainer))
    assert any(name.startswith("extra.1.projection") for name in ends[0])
    for name, value in ends[0].items():
        for other in ends[1:]:
            torch.testing.assert_close(value, other[name], rtol=2e-4, atol=2e-5)


def test_each_pair_has_its_projection_and_a_resumed_run_the_same_bits(tmp_path):
    whole = make(tmp_path / "whole", METHOD, build=tiny.llama, teacher=teacher())
    whole.run()
    first, second = (m.projection.weight for m in whole.model.extra)
    assert not torch.equal(first, second)
    checkpoint = max((tmp_path / "whole").glob("checkpoint-*"))
    assert len(load_file(checkpoint / "method.safetensors")) == 2
    make(tmp_path / "cut", METHOD, build=tiny.llama, teacher=teacher()).run()
    *_, last = sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    shutil.rmtree(last)
    again = make(tmp_path / "cut", METHOD, build=tiny.llama, teacher=teacher())
    again.run()
    assert again._initial_global_step > 0
    mine = weights(again)
    assert all(torch.equal(value, mine[name]) for name, value in weights(whole).items())


def gradients(layers, reentrant=None, frozen=()):
    student = llama(0, 3).train()
    for part in frozen:
        student.get_submodule(part).requires_grad_(False)
    live = LiveTeacher(llama(1, 4), tiny.VOCABULARY)
    model = DistillModel(student, HiddenKD(layers=layers).recipe(), live)
    if reentrant is not None:
        settings = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        model.gradient_checkpointing_enable(**settings)
    model(batch_of(tiny.rows(5, seed=3)))[0].backward()
    return torch.cat([p.grad.ravel() for p in student.parameters() if p.requires_grad])


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_give_the_same_gradient(reentrant):
    plain = gradients("even")
    torch.testing.assert_close(gradients("even", reentrant), plain, rtol=1e-5, atol=1e-5)


def test_layers_that_nothing_can_move_are_refused():
    frozen = "model.embed_tokens", "model.layers.0"
    with pytest.raises(InputError, match="states of layer 0 have no gradient") as error:
        gradients("even", frozen=frozen)
    assert "choose higher layers" in error.value.remedy
    assert gradients([(1, 2)], frozen=frozen).isfinite().all()


def test_a_cache_does_not_hold_them(tmp_path):
    student, live = tiny.llama(0), LiveTeacher(teacher(), tiny.VOCABULARY)
    rows = tiny.rows(3)
    kept = cache.CachedTeacher(
        cache.in_memory(live, rows, "response", rows_per_pass=2), live.head, live.width, "response"
    )
    with pytest.raises(InputError, match="gives the last alone"):
        DistillModel(student, METHOD.recipe(), kept)
    args = DistillConfig(output_dir=str(tmp_path), method=METHOD, use_cpu=True)
    assert args.teacher_cache == "memory"
    tok = tiny.tokenizer()
    folder = tiny.save(tmp_path / "teacher", teacher(), tok)
    made = assemble.teacher(str(folder), METHOD.recipe(), args, student, tok, rows)
    assert isinstance(made, LiveTeacher)
    last = assemble.teacher(str(folder), HiddenKD().recipe(), args, student, tok, rows)
    assert isinstance(last, cache.CachedTeacher)


def test_layers_that_a_model_has_not_are_refused():
    with pytest.raises(InputError, match=r"layer 4 of the teacher is asked for in \[0, 4\]"):
        paired([(0, 4)], 2, 4)
    with pytest.raises(InputError, match=r"layer 2 of the student .*it has 2 layers"):
        live = LiveTeacher(teacher(), tiny.VOCABULARY)
        DistillModel(tiny.llama(0), HiddenKD(layers=[(2, 3)]).recipe(), live)
    for layers, said in (
        ([], "no pair"),
        ([(0, 1), (0, 1)], "one twice"),
        ([(-1, 0)], "greater than or equal to 0"),
        ([(1,)], "Field required"),
        ("first", "'last' or 'even'"),
    ):
        with pytest.raises(ValidationError, match=said):
            HiddenKD(layers=layers)


def written(tmp_path, depths):
    """A folder of models whose configurations say how many layers they have."""
    folder = write_folder(tmp_path)
    for name, layers in depths.items():
        config = f'{{"model_type": "qwen2", "num_hidden_layers": {layers}}}'
        (folder / name / "config.json").write_text(config)
    return folder


def test_a_plan_refuses_them_and_caches_nothing(tmp_path):
    folder = written(tmp_path, {"big": 6, "small": 3, "medium": 4})

    def planned(layers, **train):
        listed = ["sft", "word_kd", {"type": "hidden_kd", "layers": layers}]
        return plan_of(folder, methods=listed, ablations={}, train=train)

    with pytest.raises(InputError, match=r"layer 3 of the student is asked for in \[3, 5\]"):
        planned([[2, 5], [3, 5]])
    with pytest.raises(InputError, match="disk holds final states, and hidden_kd reads other"):
        planned("even", teacher_cache="disk")
    plan = planned([[0, 1], [2, 5]])
    trains = {s.label: s for s in plan.stages.values() if s.kind == "train"}
    assert trains["small/word_kd/big"].aids and not trains["small/hidden_kd/big"].aids
    assert trains["small/hidden_kd/big"].config["method"]["layers"] == [(0, 1), (2, 5)]
    assert planned("last", teacher_cache="disk")


def test_the_last_layer_alone_has_the_keys_of_before(tmp_path):
    """Literally what a plan hashed before there was a choice."""
    before = {
        "type": "hidden_kd", "temperature": 1.0, "tau_squared": True, "noise": 0.0,
        "hard_label_weight": 0.0, "normalisation": None, "hidden_weight": 1.0, "distance": "mse",
        "normalise": True,
    }  # fmt: skip
    plan = plan_of(
        write_folder(tmp_path), methods=["sft", {"type": "hidden_kd", "layers": "last"}],
        ablations={},
    )  # fmt: skip
    trains = {s.label: s for s in plan.stages.values() if s.kind == "train"}
    assert trains["small/hidden_kd/big"].config["method"] == before
    assert trains["small/hidden_kd/big"].aids
    study = plan.stages[plan.report].config["study"]
    assert study["methods"][1] == before | {"start": "base", "epochs": None}
    assert methods.named({**before, "layers": "even"}).recipe().layers == "even"


def test_final_states_are_read_as_they_were(monkeypatch):
    """No hook is set, and nothing but the scored places is looked at."""
    student, batch = tiny.qwen(0).eval(), batch_of(tiny.rows(4))
    packing.enable(student)
    rows = batch.ids_T, batch.lengths, batch.places_N
    alone = packing.scored_hidden(student, *rows)
    monkeypatch.setattr(packing, "layers_of", lambda model: pytest.fail("layers are looked for"))
    (final,) = packing.scored_states(student, *rows, [])
    assert torch.equal(alone, final)
