"""Several teachers in one run: mixtures and routes in dense float64, by hand, by identities."""

import dataclasses
import math
import shutil

import pytest
import tiny_models as tiny
import torch
from small_trainers import SETTINGS, make, micro, weights

from kdstudy import methods
from kdstudy.distill import batches, cache, compiled, fused, several_teachers, token_difficulty
from kdstudy.distill.fused import TeacherSide, head_loss
from kdstudy.distill.model import DistillModel
from kdstudy.distill.noise import Noise
from kdstudy.distill.several_teachers import Mixed, Mixing, Routed, Routing
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.atkd import ATKD
from kdstudy.methods.objective import Objective
from kdstudy.methods.revkd import reverse_kl
from kdstudy.methods.selective_kd import SelectiveKD
from kdstudy.methods.word_kd import forward_kl
from kdstudy.models.parts import Head

CPU = torch.device("cpu")
N, V = 9, 40


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def side(seed, width=7, *, rows=N, entries=V, **more):
    """A teacher of its own width, scale and soft cap."""
    head = Head(
        weight=2 * draw(entries, width, seed=seed + 100), bias=draw(entries, seed=seed + 200)
    )
    return TeacherSide(hidden=draw(rows, width, seed=seed), head=dataclasses.replace(head, **more))


def dense(one: TeacherSide) -> torch.Tensor:
    """Whole logits."""
    logits = (one.hidden @ one.head.weight.T + one.head.bias) * one.head.scale
    cap = one.head.softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


TWO = (side(1, 7), side(2, 11, scale=0.5, softcap=5.0))


def mixed(sides=TWO, mixture="arithmetic", shares=(0.3, 0.7), **more) -> Mixed:
    weights_NM = torch.tensor(shares, dtype=torch.float64).expand(len(sides[0]), -1)
    return Mixed(sides=sides, weights_NM=weights_NM, mixture=mixture, **more)


def probabilities(of: fused.Side, temperature: float) -> torch.Tensor:
    raw, caps = of.logits(slice(0, len(of)), temperature)
    return (fused.finished(raw, *caps)[0] / temperature).softmax(-1)


def charged(hidden, what, teacher, targets=None):
    head = Head(weight=draw(V, 5, seed=50))
    targets = torch.zeros(len(hidden), dtype=torch.long) if targets is None else targets
    return head_loss(hidden, head, targets, torch.ones(len(hidden)), what, teacher)[0]


@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
def test_loss_and_gradient_are_those_of_dense_autograd(mixture, tau, divergence):
    one, other = (dense(s) / tau for s in TWO)
    if mixture == "arithmetic":
        t = (0.3 * one.softmax(-1) + 0.7 * other.softmax(-1)).log()
    else:
        t = (0.3 * one + 0.7 * other).log_softmax(-1)
    hidden = draw(N, 5, seed=3).requires_grad_()
    s = (hidden @ draw(V, 5, seed=50).T / tau).log_softmax(-1)
    p, q = (t, s) if divergence is forward_kl else (s, t)
    want = tau**2 * (p.exp() * (p - q)).sum()
    (slope,) = torch.autograd.grad(want, hidden)
    again = hidden.detach().clone().requires_grad_()
    got = charged(again, Objective(divergence=divergence, temperature=tau), mixed(mixture=mixture))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    (found,) = torch.autograd.grad(got, again)
    torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)


def test_three_tokens_by_hand():
    """Of (8, 1, 1) / 10 and (2, 2, 1) / 5 with weights 1/4 and 3/4."""
    eye = Head(weight=torch.eye(3, dtype=torch.float64))
    sides = tuple(
        TeacherSide(hidden=torch.tensor([row], dtype=torch.float64).log(), head=eye)
        for row in ([0.8, 0.1, 0.1], [0.4, 0.4, 0.2])
    )
    mean = probabilities(mixed(sides, shares=(0.25, 0.75)), 1.0)
    assert mean[0].tolist() == pytest.approx([0.5, 0.325, 0.175], abs=1e-12)
    parts = [0.8**0.25 * 0.4**0.75, 0.1**0.25 * 0.4**0.75, 0.1**0.25 * 0.2**0.75]
    product = probabilities(mixed(sides, "geometric", (0.25, 0.75)), 1.0)
    assert product[0].tolist() == pytest.approx([p / sum(parts) for p in parts], abs=1e-12)
    # At temperature 2 each is its own square root, normalised, before they are averaged.
    roots = [[math.sqrt(p) for p in row] for row in ([0.8, 0.1, 0.1], [0.4, 0.4, 0.2])]
    soft = [[r / sum(row) for r in row] for row in roots]
    want = [0.25 * a + 0.75 * b for a, b in zip(*soft, strict=True)]
    assert probabilities(mixed(sides, shares=(0.25, 0.75)), 2.0)[0].tolist() == pytest.approx(want)


@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
def test_a_teacher_mixed_with_itself_or_alone_is_itself(mixture):
    one, other = TWO
    for tau in (1.0, 3.0):
        want = (dense(one) / tau).softmax(-1)
        for sides, shares in (((one, one), (0.4, 0.6)), ((one, other), (1.0, 0.0))):
            got = probabilities(mixed(sides, mixture, shares), tau)
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)
        first = probabilities(mixed((other, one), mixture, (0.0, 1.0)), tau)
        torch.testing.assert_close(first, want, rtol=1e-10, atol=1e-14)


def test_sums_of_divergences_are_divergences_to_mixtures():
    """The gradient of sum w KL(T|S) is that of KL(M|S); sum w KL(S|T) is KL(S|G) and a constant."""
    hidden = draw(N, 5, seed=3)
    for divergence, mixture in ((forward_kl, "arithmetic"), (reverse_kl, "geometric")):
        what, found = Objective(divergence=divergence), []
        for terms in ([(0.3, TWO[0]), (0.7, TWO[1])], [(1.0, mixed(mixture=mixture))]):
            x = hidden.clone().requires_grad_()
            loss = sum(share * charged(x, what, of) for share, of in terms)
            found.append((loss.item(), torch.autograd.grad(loss, x)[0]))
        (total, slope), (one, other) = found
        torch.testing.assert_close(slope, other, rtol=1e-9, atol=1e-12)
        if mixture == "geometric":
            mean = 0.3 * dense(TWO[0]).log_softmax(-1) + 0.7 * dense(TWO[1]).log_softmax(-1)
            assert total - one == pytest.approx(-mean.logsumexp(-1).sum().item(), rel=1e-10)


@pytest.mark.parametrize("mixture", ["arithmetic", "geometric"])
def test_chunks_and_blocks_change_nothing(mixture, monkeypatch):
    what, hidden = Objective(divergence=forward_kl, temperature=2.0), draw(N, 5, seed=3)
    args = hidden, Head(weight=draw(V, 5, seed=50)), torch.zeros(N, dtype=torch.long), torch.ones(N)
    want, _ = head_loss(*args, what, mixed(mixture=mixture))
    monkeypatch.setattr(fused, "_BLOCK", 2 * V)
    got, _ = head_loss(*args, what, mixed(mixture=mixture), chunk=4)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_noise_on_a_mixture_is_noise_on_its_logits():
    """Of a teacher with itself it is what that teacher's own noise would be."""
    noise = Noise(1.5, torch.arange(N))
    alone = dataclasses.replace(TWO[0], disturb=noise)
    for mixture in ("arithmetic", "geometric"):
        both = mixed((TWO[0], TWO[0]), mixture, disturb=noise)
        got, want = (probabilities(of, 2.0) for of in (both, alone))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
        some = torch.tensor([5, 2])
        torch.testing.assert_close(
            probabilities(both.of(some), 2.0), want[some], rtol=1e-9, atol=1e-12
        )


def test_each_routed_token_has_its_own_teachers_logits():
    turns = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1])
    sides = tuple(s.of((turns == m).nonzero()[:, 0]) for m, s in enumerate(TWO))
    places = torch.empty_like(turns)
    for m in (0, 1):
        places[turns == m] = torch.arange(int((turns == m).sum()))
    routed = Routed(sides=sides, turns_N=turns, places_N=places)
    want = torch.where(turns[:, None] == 0, dense(TWO[0]), dense(TWO[1]))
    for at in (slice(0, 9), slice(1, 3), slice(3, 7)):
        got, caps = routed.logits(at, 2.0)
        assert caps == fused.NO_CAPS
        torch.testing.assert_close(got, want[at], rtol=1e-12, atol=1e-12)
    some = torch.tensor([8, 0, 1])
    torch.testing.assert_close(routed.of(some).logits(slice(0, 3), 1.0)[0], want[some])


def test_compiled_and_eager_agree(monkeypatch):
    want, _ = mixed().logits(slice(0, N), 2.0)
    monkeypatch.setattr(compiled, "DEVICES", {"cpu"})
    got, _ = mixed().logits(slice(0, N), 2.0)
    if compiled._broken:
        pytest.skip("no C++ compiler here: the mixture runs uncompiled")
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


# Whole models.

TAGS = ("algebra", "geometry")


def pair(width=tiny.VOCABULARY):
    """A student and two teachers of unlike widths, one with more entries than the student."""
    student = tiny.qwen(0).double().eval()
    wide = tiny.widen(tiny.qwen(1, width=24), 5).double().eval()
    return student, [LiveTeacher(wide, width), LiveTeacher(tiny.llama(2).double().eval(), width)]


def tagged(number=6, seed=3):
    rows = tiny.rows(number, seed=seed)
    return [dataclasses.replace(row, tag=TAGS[i % 2]) for i, row in enumerate(rows)]


def kept(live, rows):
    states = cache.in_memory(live, rows, "response", rows_per_pass=2)
    return cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response")


def answers(models, row):
    """Whole logits of each at a row's scored positions, over the common entries."""
    places = torch.tensor(list(row.scored)) - 1
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        return [m(input_ids=ids).logits[0, places, : tiny.VOCABULARY] for m in models]


def shares_of(logits, row):
    """FuseLLM's weights, softly: softmax of minus each teacher's mean cross-entropy."""
    targets = torch.tensor([row.ids[i] for i in row.scored])
    mean = [torch.nn.functional.cross_entropy(t, targets) for t in logits]
    return (-torch.stack(mean)).softmax(0)


KINDS = {
    "arithmetic": lambda of: Mixing(of, "response", mixture="arithmetic", weights=(0.3, 0.7)),
    "geometric": lambda of: Mixing(of, "response", mixture="geometric", weights=(0.3, 0.7)),
    "per row": lambda of: Mixing(of, "response", mixture="arithmetic", weights=None),
    "route": lambda of: Routing(of, "response", route={"algebra": 0, "geometry": 1}),
}


def textbook(kind, student, teachers, rows, tau):
    total = 0.0
    for row in rows:
        (s,), ts = answers([student], row), answers([t.model for t in teachers], row)
        shares = shares_of(ts, row) if kind == "per row" else torch.tensor([3, 7]).double() / 10
        if kind == "route":
            p = (ts[TAGS.index(row.tag)] / tau).softmax(-1)
        elif kind == "geometric":
            p = ((shares[0] * ts[0] + shares[1] * ts[1]) / tau).softmax(-1)
        else:
            p = sum(w * (t / tau).softmax(-1) for w, t in zip(shares, ts, strict=True))
        total += tau**2 * (p * (p.log() - (s / tau).log_softmax(-1))).sum().item()
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_models_live_and_cached_however_cut_give_the_textbooks_loss(kind):
    student, teachers = pair()
    rows, method = tagged(), methods.WordKD(temperature=2).recipe()
    want = textbook(kind, student, teachers, rows, 2.0)
    for asked in (teachers, [kept(t, rows) for t in teachers]):
        several = KINDS[kind](asked)
        model = DistillModel(student, method, several)
        assert several.width == tiny.VOCABULARY
        for cut in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
            made = [batches.collate(part, batches.Weighing(), CPU) for part in cut]
            got = sum(model(batch)[0].item() for batch in made)
            assert got == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_teachers_that_are_the_student_teach_nothing(kind):
    student = tiny.qwen(0).double().eval()
    teacher = LiveTeacher(tiny.qwen(0).double().eval(), tiny.VOCABULARY)
    several = KINDS[kind]([teacher, teacher])
    model = DistillModel(student, methods.GKD().recipe(), several)
    loss, _ = model(batches.collate(tagged(), batches.Weighing(), CPU), 1)[0], None
    loss.backward()
    assert abs(loss.item()) < 1e-10
    assert max(p.grad.abs().max().item() for p in student.parameters()) < 1e-8


@pytest.mark.parametrize("method", [SelectiveKD(entropy_of="teacher"), ATKD()])
def test_methods_that_look_at_the_teacher_see_the_mixture(method):
    """With one teacher twice they do what they do with that teacher."""
    student, (teacher, _) = pair()
    found = []
    for given in (teacher, KINDS["arithmetic"]([teacher, teacher])):
        recipe, weighing = method.recipe(), batches.Weighing()
        batch = batches.collate(tagged(), weighing, CPU)
        doubts = token_difficulty.of_method(recipe, given, weighing)
        if doubts is not None:
            (batch,) = doubts.told_apart([batch], lambda m: m)
        found.append(DistillModel(student, recipe, given)(batch, 1)[0].item())
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_row_is_weighed_once_and_students_text_never_kept():
    _, teachers = pair()
    several, asked = KINDS["per row"](teachers), []
    original = several._alone
    several._alone = lambda rows, device: asked.append(len(rows)) or original(rows, device)
    batch = batches.collate(tagged(3), batches.Weighing(), CPU)
    for _ in range(2):
        several.side(batch)
    assert asked == [1, 1, 1]
    sampled = dataclasses.replace(
        batches.collate(tagged(3, seed=8), batches.Weighing(), CPU), sampled=True
    )
    for _ in range(2):
        several.side(sampled)
    assert asked == [1] * 9 and len(several._known) == 3


def test_a_teacher_without_rows_in_a_batch_is_not_asked():
    _, teachers = pair()
    rows = [dataclasses.replace(row, tag="geometry") for row in tiny.rows(3)]
    teachers[0].hidden = None
    routed = KINDS["route"](teachers).side(batches.collate(rows, batches.Weighing(), CPU))
    assert [len(s) for s in routed.sides] == [0, len(routed)]


def test_states_of_several_teachers_are_not_matched():
    student, teachers = pair()
    with pytest.raises(ValueError, match="no common width"):
        hidden = methods.named({"type": "hidden_kd"}).recipe()
        DistillModel(student, hidden, KINDS["arithmetic"](teachers))


# Whole runs.

SHORT = SETTINGS.model_copy(update={"evaluations": 4})


def run(folder, kind, settings=SHORT, method=None):
    teachers = [LiveTeacher(tiny.qwen(s, width=w), tiny.VOCABULARY) for s, w in ((1, 24), (2, 16))]
    return make(
        folder, method or methods.GKD(), settings, teacher=KINDS[kind](teachers), data=tagged(40)
    )


@pytest.mark.parametrize("kind", ["per row", "route"])
def test_how_a_step_is_cut_changes_rounding_alone(tmp_path, monkeypatch, kind):
    ends = []
    monkeypatch.setattr(tiny, "rows", lambda *a, of=tiny.rows, **k: [
        dataclasses.replace(row, tag=TAGS[i % 2]) for i, row in enumerate(of(*a, **k))
    ])  # fmt: skip
    for size in (1, 4):
        trainer = run(tmp_path / str(size), kind, micro(size, SHORT))
        trainer.run()
        ends.append(weights(trainer))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["per row", "route"])
def test_a_resumed_run_has_the_same_bits(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tiny, "rows", lambda *a, of=tiny.rows, **k: [
        dataclasses.replace(row, tag=TAGS[i % 2]) for i, row in enumerate(of(*a, **k))
    ])  # fmt: skip
    whole = run(tmp_path / "whole", kind)
    whole.run()
    run(tmp_path / "cut", kind).run()
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = run(tmp_path / "cut", kind)
    again.run()
    assert again._initial_global_step > 0
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_a_row_without_a_teacher_is_named(tmp_path):
    from kdstudy.artifacts import Corpus
    from kdstudy.errors import InputError
    from kdstudy.records import Example

    made = Corpus(tmp_path)
    rows = [Example(id=t, instruction="1?", response="2", tag=t) for t in (*TAGS, "logic")]
    made.train.write(rows[:2])
    made.validation.write(rows[2:])
    made.places_file.write({"logic": "rows.jsonl, line 7"})
    with pytest.raises(
        InputError, match=r"rows.jsonl, line 7 \('1\?'\): no teacher for its tag 'lo"
    ):
        several_teachers.require_routes(made, {"algebra": 0, "geometry": 1})
