"""The loss of spans held against dense float64 autograd, numbers worked by hand, and TRL's own."""

import dataclasses
import math
import types

import pytest
import torch

from kdstudy.distill.fused import TeacherSide, head_loss
from kdstudy.distill.mass_order import by_rank
from kdstudy.distill.span_loss import Side, Vocabularies, span_loss
from kdstudy.methods.gkd import jsd
from kdstudy.methods.gold import GOLD, mass_kl, mass_reverse_kl
from kdstudy.methods.objective import Objective
from kdstudy.methods.uld import ULD
from kdstudy.methods.word_kd import forward_kl
from kdstudy.models.parts import Head

D = torch.float64
V, W, H, K = 7, 9, 5, 4
# Spans of one token and of several, on either side; token 4 of the student and 6 of the teacher
# belong to none.
OURS, THEIRS = [(0, 1), (1, 4), (5, 6), (6, 8)], [(0, 2), (2, 3), (3, 4), (4, 6)]
SHARED = [(0, 3), (2, 0), (5, 5), (6, 8)]


def vocabularies(pairs, v=V, w=W, weight=None):
    mine, other = [a for a, _ in pairs], [b for _, b in pairs]
    lists = mine, other, sorted(set(range(v)) - {*mine}), sorted(set(range(w)) - {*other})
    names = "ours_S", "theirs_S", "only_ours", "only_theirs"
    ids = {n: torch.tensor(i, dtype=torch.long) for n, i in zip(names, lists, strict=True)}
    return Vocabularies(**ids, weight=len(pairs) / w if weight is None else weight)


def side(ranges, targets, merge):
    at = [a if merge == "observed" else b - 1 for a, b in ranges]
    rest = [(i, n) for n, (a, b) in enumerate(ranges) for i in range(a, b) if i != at[n]]
    tokens = torch.tensor([i for i, _ in rest], dtype=torch.long)
    numbers = torch.tensor([n for _, n in rest], dtype=torch.long)
    return Side(at_G=torch.tensor(at), rest_R=tokens, targets_R=targets[tokens], spans_R=numbers)


@dataclasses.dataclass
class Case:
    hidden: torch.Tensor
    head: Head
    targets: torch.Tensor
    theirs: torch.Tensor
    teacher: Head
    other: torch.Tensor
    weights: torch.Tensor


def case(seed=0, *, scale=1.0, cap=None, dtype=D, v=V, w=W, n=8, m=7):
    torch.manual_seed(seed)
    leaf = lambda *shape: torch.randn(*shape, dtype=dtype).requires_grad_()  # noqa: E731
    return Case(
        hidden=leaf(n, H),
        head=Head(weight=leaf(v, H), bias=leaf(v), scale=scale, softcap=cap),
        targets=torch.randint(v, (n,)),
        theirs=torch.randn(m, K, dtype=dtype),
        teacher=Head(weight=torch.randn(w, K, dtype=dtype), bias=None, scale=2.0, softcap=None),
        other=torch.randint(w, (m,)),
        weights=torch.rand(len(OURS), dtype=D) + 0.5,
    )


def probabilities(hidden, head, temperature):
    logits = (hidden @ head.weight.T + (0 if head.bias is None else head.bias)) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / temperature).softmax(-1)


def merged(p, targets, ranges, merge):
    rows = []
    for a, b in ranges:
        chosen, others = (a, range(a + 1, b)) if merge == "observed" else (b - 1, range(a, b - 1))
        factor = math.prod((p[i, targets[i]] for i in others), start=torch.ones((), dtype=p.dtype))
        rows.append(p[chosen] * factor)
    return torch.stack(rows)


def dense(c, shared, merge, beta, temperature):
    """The loss as it is written, all of it at once, for autograd."""
    student = merged(probabilities(c.hidden, c.head, temperature), c.targets, OURS, merge)
    teacher = merged(probabilities(c.theirs, c.teacher, temperature), c.other, THEIRS, merge)
    total = 0.0
    for s, t, weight in zip(student, teacher, c.weights, strict=True):
        a, b = s[shared.ours_S], t[shared.theirs_S]
        if beta == 0:
            matched = (b * (b / a).log() - b + a).sum()
        elif beta == 1:
            matched = (a * (a / b).log() - a + b).sum()
        else:
            m = beta * b + (1 - beta) * a
            matched = (beta * b * (b / m).log() + (1 - beta) * a * (a / m).log()).sum()
        left = sorted(s[shared.only_ours], key=lambda x: -x.item())
        right = sorted(t[shared.only_theirs], key=lambda x: -x.item())
        most = max(len(left), len(right))
        left, right = ([*x, *[torch.zeros((), dtype=D)] * (most - len(x))] for x in (left, right))
        ranked = sum((x - y).abs() for x, y in zip(left, right, strict=True))
        total = total + weight * (shared.weight * matched + (1 - shared.weight) * ranked)
    return total * temperature**2


def found(c, shared, merge, objective, **more):
    return span_loss(
        c.hidden, c.head, side(OURS, c.targets, merge),
        c.theirs, c.teacher, side(THEIRS, c.other, merge),
        c.weights, objective, shared, **more,
    )  # fmt: skip


def gradients(loss, c):
    leaves = c.hidden, c.head.weight, c.head.bias
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("merge", ["observed", "bayesian"])
@pytest.mark.parametrize("beta", [0, 0.3, 1])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_value_and_gradient_are_those_of_the_dense_loss(merge, beta, cap):
    c = case(scale=0.7, cap=cap)
    objective = dataclasses.replace(GOLD(beta=beta).recipe().objective, temperature=1.7)
    shared = vocabularies(SHARED)
    got, want = found(c, shared, merge, objective), dense(c, shared, merge, beta, 1.7)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    for ours, theirs in zip(gradients(got, c), gradients(want, c), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("merge", ["observed", "bayesian"])
def test_uld_is_the_sorted_difference_of_everything(merge):
    c, shared = case(3), vocabularies([], weight=0.0)
    objective = dataclasses.replace(ULD(hard_label_weight=0.0).recipe().objective)
    got, want = found(c, shared, merge, objective), dense(c, shared, merge, 0.5, 1.0)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    for ours, theirs in zip(gradients(got, c), gradients(want, c), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_numbers_worked_by_hand():
    """Student 1/2, 1/4, 1/4 of a, b, c; teacher 1/2 of ab, 1/4 of a, 1/8 of b and of d."""
    student = torch.tensor([[0.5, 0.25, 0.25]], dtype=D)
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=D)
    value, slope = by_rank(student, teacher)
    # 1/2 - 1/2, 1/4 - 1/4, 1/4 - 1/8, 0 - 1/8
    assert value.tolist() == [0.25]
    assert sorted(slope[0].tolist()) == [0, 0, 1] and slope[0, 0] == 0
    # a and b are shared: a is 1/2 against 1/4, b 1/4 against 1/8.
    value, slope = mass_kl(student[:, :2].log(), teacher[:, 1:3].log(), 0)
    a, b = 0.25 * math.log(0.5) + 0.25, 0.125 * math.log(0.5) + 0.125
    assert value[0].tolist() == pytest.approx([a, b], rel=1e-12)
    assert slope[0].tolist() == pytest.approx([0.25, 0.125], rel=1e-12)
    back, _ = mass_reverse_kl(teacher[:, 1:3].log(), student[:, :2].log(), 1)
    assert back[0].tolist() == pytest.approx([a, b], rel=1e-12)


def test_a_span_of_two_tokens_by_hand():
    """The student writes ab as a then b, with 0.5 and 0.4: `observed` is 0.4 times its first."""
    logs = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4]], dtype=D).log()
    whole = torch.tensor([[0.25, 0.35, 0.4]], dtype=D).log()
    eye = Head(weight=torch.eye(3, dtype=D))
    pair = [(0, 0), (1, 1), (2, 2)]
    ours = side([(0, 2)], torch.tensor([0, 1]), "observed")
    theirs = side([(0, 1)], torch.tensor([2]), "observed")
    one, objective = torch.ones(1, dtype=D), ULD(hard_label_weight=0.0).recipe().objective
    uld = span_loss(logs, eye, ours, whole, eye, theirs, one, objective, vocabularies([], 3, 3, 0))
    # 0.2, 0.12, 0.08 against 0.4, 0.35, 0.25
    assert uld.item() == pytest.approx(0.2 + 0.23 + 0.17, rel=1e-12)
    objective = GOLD(beta=0).recipe().objective
    gold = span_loss(logs, eye, ours, whole, eye, theirs, one, objective, vocabularies(pair, 3, 3))
    want = sum(t * math.log(t / s) - t + s for s, t in ((0.2, 0.25), (0.12, 0.35), (0.08, 0.4)))
    assert gold.item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("beta", "terms"), [(0, forward_kl), (0.3, jsd)])
def test_with_one_vocabulary_gold_is_the_divergence_token_by_token(beta, terms):
    c = case(5, w=V, m=8)
    c.weights = torch.rand(8, dtype=D)
    tokens = [(i, i + 1) for i in range(8)]
    everything = vocabularies([(i, i) for i in range(V)], w=V)
    objective = dataclasses.replace(GOLD(beta=beta).recipe().objective, temperature=1.3)
    got = span_loss(
        c.hidden, c.head, side(tokens, c.targets, "observed"),
        c.theirs, c.teacher, side(tokens, c.other, "observed"), c.weights, objective, everything,
    )  # fmt: skip
    plain = Objective(divergence=terms, parameter=beta, temperature=1.3)
    other = TeacherSide(hidden=c.theirs, head=c.teacher)
    want, _ = head_loss(c.hidden, c.head, c.targets, c.weights, plain, other)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    for ours, theirs in zip(gradients(got, c), gradients(want, c), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [GOLD(beta=0), GOLD(), GOLD(beta=1), ULD(hard_label_weight=0)])
def test_a_teacher_that_is_the_student_teaches_nothing(method):
    c = case(7)
    same = vocabularies([(i, i) for i in range(V)], w=V)
    if method.type == "uld":
        same = vocabularies([], w=V, weight=0.0)
    mine = side(OURS, c.targets, "observed")
    frozen = Head(weight=c.head.weight.detach(), bias=c.head.bias.detach())
    loss = span_loss(
        c.hidden, c.head, mine, c.hidden.detach(), frozen, mine, c.weights,
        method.recipe().objective, same,
    )  # fmt: skip
    assert abs(loss.item()) < 1e-14
    for gradient in gradients(loss, c):
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_no_pair_of_masses_costs_less_than_nothing(beta):
    """Plain KLs of unlike sums do: what TRL's beta 0 and 1 are."""
    torch.manual_seed(1)
    s, t = (torch.randn(200, 6, dtype=D).log_softmax(-1)[:, :3] for _ in range(2))
    value, _ = GOLD(beta=beta).terms(s, t, beta)
    assert value.min() >= -1e-15
    assert forward_kl(s, t)[0].sum(-1).min() < -0.1


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_nothing_but_rounding(chunk, monkeypatch):
    from kdstudy.distill import fused

    c, shared, objective = case(2), vocabularies(SHARED), GOLD().recipe().objective
    want = found(c, shared, "observed", objective)
    wanted = gradients(want, c)
    monkeypatch.setattr(fused, "_BLOCK", 2 * W)
    got = found(c, shared, "observed", objective, chunk=chunk)
    assert got.item() == pytest.approx(want.item(), rel=1e-13)
    for ours, theirs in zip(gradients(got, c), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_no_spans_are_no_loss_and_a_gradient_of_zero():
    c = case(2)
    none = torch.zeros(0, dtype=torch.long)
    empty = Side(at_G=none, rest_R=none, targets_R=none, spans_R=none)
    loss = span_loss(
        c.hidden, c.head, empty, c.theirs[:0], c.teacher, empty, torch.zeros(0, dtype=D),
        GOLD().recipe().objective, vocabularies(SHARED),
    )  # fmt: skip
    assert loss.item() == 0
    assert all(g.abs().max() == 0 for g in gradients(loss, c))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_differ_by_the_rounding_of_logits_alone(dtype):
    c, shared, objective = case(4, dtype=dtype), vocabularies(SHARED), GOLD().recipe().objective
    got = found(c, shared, "observed", objective)
    assert got.dtype == torch.float32
    exact = case(4)
    for wide, narrow in (
        (exact.hidden, c.hidden), (exact.head.weight, c.head.weight), (exact.head.bias, c.head.bias)
    ):  # fmt: skip
        wide.data = narrow.detach().double()
    exact.theirs, exact.weights = c.theirs.double(), c.weights
    exact.targets, exact.other = c.targets, c.other
    exact.teacher = dataclasses.replace(c.teacher, weight=c.teacher.weight.double())
    want = found(exact, shared, "observed", objective)
    assert got.item() == pytest.approx(want.item(), rel=1e-5 if dtype == torch.float32 else 0.03)


def trl(c, ours, theirs, shared, hybrid, merge="bayesian"):
    """TRL's own loss of a row; its answers begin at position 1 of either side."""
    gold = pytest.importorskip("trl.experimental.gold.gold_trainer")
    config = types.SimpleNamespace(
        uld_crossentropy_weight=0.0, uld_distillation_weight=1.0, uld_student_temperature=1.0,
        uld_teacher_temperature=1.0, uld_skip_student_eos=False, uld_skip_teacher_eos=False,
        use_extended_uld=True, uld_token_merge_strategy=merge, beta=0.5,
        uld_use_hybrid_loss=hybrid,
        uld_hybrid_matched_weight=shared.weight, uld_hybrid_unmatched_weight=1 - shared.weight,
    )  # fmt: skip
    names = [f"only ours {i}" for i in range(V)], [f"only theirs {i}" for i in range(W)]
    for n, (a, b) in enumerate(zip(shared.ours_S.tolist(), shared.theirs_S.tolist(), strict=True)):
        names[0][a] = names[1][b] = f"both {n}"
    tokenizers = [
        types.SimpleNamespace(get_vocab=lambda n=n: {t: i for i, t in enumerate(n)}) for n in names
    ]
    logits, labels, ids, offsets = [], [], [], []
    for hidden, head, targets, ranges, inner in (
        (c.hidden, c.head, c.targets, ours, 7), (c.theirs, c.teacher, c.other, theirs, 11)
    ):  # fmt: skip
        # Its position k is predicted by what position k - 1 gives.
        given = probabilities(hidden, head, 1.0).log()
        logits.append(torch.cat([given, given[-1:]])[None])
        ids.append(torch.cat([torch.zeros(1, dtype=torch.long), targets])[None])
        labels.append(torch.cat([torch.tensor([-100]), targets])[None])
        # A span ends at one byte on both sides; borders within it lie at unlike ones.
        ends = [
            100 * (n + 1) if i == b - 1 else 100 * n + (i - a + 1) * inner
            for n, (a, b) in enumerate(ranges)
            for i in range(a, b)
        ]
        offsets.append(torch.tensor([[(0, end) for end in (0, *ends)]]))
    return gold.ULDLoss(config, *tokenizers)(*logits, *labels, *ids, *offsets).item()


@pytest.mark.parametrize("method", [GOLD(), ULD(hard_label_weight=0.0)])
def test_trl_has_the_same_value_where_it_predicts_a_token_from_what_comes_before(method):
    """`bayesian`; its `observed` is the value of other positions. It takes a mean over spans."""
    pytest.importorskip("trl.experimental.gold.gold_trainer")
    c = case(9, n=7, m=6)
    ours, theirs = [(0, 1), (1, 4), (4, 5), (5, 7)], THEIRS
    hybrid = method.type == "gold"
    shared = vocabularies(SHARED, weight=0.6) if hybrid else vocabularies([], weight=0.0)
    c.weights, objective = torch.ones(4, dtype=D), method.recipe().objective
    got = {
        merge: span_loss(
            c.hidden, c.head, side(ours, c.targets, merge),
            c.theirs, c.teacher, side(theirs, c.other, merge), c.weights, objective, shared,
        ).item() / 4
        for merge in ("bayesian", "observed")
    }  # fmt: skip
    assert trl(c, ours, theirs, shared, hybrid) == pytest.approx(got["bayesian"], rel=1e-6)
    late = trl(c, ours, theirs, shared, hybrid, "observed")
    assert abs(late - got["observed"]) > 0.01 * late
