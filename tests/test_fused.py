"""The fused head against whole logits, torch's own autograd, and its own invariances."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from kdstudy.distill import compiled, fused
from kdstudy.distill.fused import TeacherSide, head_loss
from kdstudy.methods.gkd import jsd
from kdstudy.methods.objective import CROSS_ENTROPY, Objective
from kdstudy.models.parts import Head

N, H, K, V = 37, 12, 20, 50
JSD = Objective(divergence=jsd, parameter=0.3, temperature=1.5, hard_label_weight=0.2)


@dataclasses.dataclass
class Case:
    """Hidden states and heads of a student (H wide) and a teacher (K wide)."""

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    teacher: TeacherSide
    targets: torch.Tensor
    weights: torch.Tensor
    scale: float
    softcap: float | None

    @property
    def head(self) -> Head:
        return Head(weight=self.weight, bias=self.bias, scale=self.scale, softcap=self.softcap)

    def loss(self, objective: Objective = JSD, **more) -> tuple[torch.Tensor, torch.Tensor]:
        teacher = self.teacher if objective.divergence else None
        return head_loss(
            self.hidden, self.head, self.targets, self.weights, objective, teacher, **more
        )


def case(dtype=torch.float64, *, bias=True, scale=1.0, softcap=None, rows=N) -> Case:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    made = Case(
        hidden=draw(rows, H).requires_grad_(),
        weight=draw(V, H).requires_grad_(),
        bias=draw(V).requires_grad_() if bias else None,
        teacher=TeacherSide(
            hidden=draw(rows, K), head=Head(weight=draw(V, K), scale=0.5, softcap=4.0)
        ),
        targets=torch.randint(V, (rows,), generator=generator),
        weights=torch.rand(rows, generator=generator),
        scale=scale,
        softcap=softcap,
    )
    if rows > 3:
        made.targets[3] = -1  # the text has ended
        made.weights[5] = 0.0
    return made


def textbook(c: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole logits, probabilities, autograd."""
    s = F.linear(c.hidden, c.weight, c.bias) * c.scale
    if c.softcap:
        s = c.softcap * torch.tanh(s / c.softcap)
    t = 4.0 * torch.tanh(0.5 * F.linear(c.teacher.hidden, c.teacher.head.weight) / 4.0)
    ps, pt = (F.softmax(x / 1.5, -1) for x in (s, t))
    m = 0.3 * pt + 0.7 * ps
    jsd = 0.3 * (pt * (pt / m).log()).sum(-1) + 0.7 * (ps * (ps / m).log()).sum(-1)
    ce = F.cross_entropy(s, c.targets, reduction="none", ignore_index=-1)
    loss = 0.8 * 1.5**2 * jsd + 0.2 * ce
    return (loss * c.weights).sum(), (ce * c.weights).sum()


def gradients(loss: torch.Tensor, c: Case) -> list[torch.Tensor]:
    wanted = [x for x in (c.hidden, c.weight, c.bias) if x is not None and x.requires_grad]
    return list(torch.autograd.grad(loss, wanted))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 5.0)])
def test_loss_and_every_gradient_equal_whole_logits_and_autograd(bias, scale, softcap):
    c = case(bias=bias, scale=scale, softcap=softcap)
    loss, entropy = c.loss(labels=True, chunk=5)
    want, want_entropy = textbook(c)
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, want_entropy, rtol=1e-12, atol=1e-12)
    assert not entropy.requires_grad
    for got, exact in zip(gradients(loss, c), gradients(want, c), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 36, 37, 1000])
def test_chunks_and_blocks_change_nothing(chunk, monkeypatch):
    c = case(torch.float32)
    whole, _ = c.loss()
    monkeypatch.setattr(fused, "_BLOCK", 3 * V)
    parts, _ = c.loss(chunk=chunk)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    for a, b in zip(gradients(parts, c), gradients(whole, c), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


def test_no_tensor_of_tokens_times_vocabulary_exists():
    c = case(rows=200)
    biggest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal biggest
            out = func(*args, **(kwargs or {}))
            fresh = func is not torch.ops.aten.t.default  # a view of the weights
            if fresh and isinstance(out, torch.Tensor) and out.shape[-1:] == (V,):
                biggest = max(biggest, out.numel() // V)
            return out

    with Watch():
        loss, _ = c.loss(chunk=10)
        loss.backward()
    assert 0 < biggest <= 10


def test_a_frozen_head_gets_no_gradient_and_costs_none():
    c = case()
    c.weight, c.bias = c.weight.detach(), c.bias.detach()
    loss, _ = c.loss()
    loss.backward()
    assert c.hidden.grad is not None and c.weight.grad is None
    free = case()
    (want,) = torch.autograd.grad(textbook(free)[0], [free.hidden])
    torch.testing.assert_close(c.hidden.grad, want, rtol=1e-10, atol=1e-12)


def test_a_head_tied_to_the_embedding_gets_both_gradients():
    ids = torch.randint(V, (N,), generator=torch.Generator().manual_seed(1))
    c = case(bias=False)
    tied = c.weight

    def loss(through) -> torch.Tensor:
        c.hidden = torch.tanh(F.embedding(ids, tied))
        return through(c)

    got = torch.autograd.grad(loss(lambda c: c.loss(labels=True)[0]), [tied])
    want = torch.autograd.grad(loss(lambda c: textbook(c)[0]), [tied])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_entries_beyond_the_common_width_have_no_influence():
    c = case()
    loud = torch.full((7, H), 50.0, dtype=torch.float64)
    wide = Head(weight=torch.cat([c.weight, loud]), bias=torch.cat([c.bias, loud[:, 0]]))
    got, _ = head_loss(c.hidden, wide.narrowed(V), c.targets, c.weights, JSD, c.teacher)
    want, _ = c.loss()
    assert got.item() == want.item()
    assert all(map(torch.equal, gradients(got, c), gradients(want, c)))


def test_tokens_without_weight_have_no_influence():
    c, other = case(), case()
    with torch.no_grad():
        other.hidden[5] = 30.0
    assert c.loss()[0].item() == other.loss()[0].item()
    loss, _ = other.loss()
    loss.backward()
    assert not other.hidden.grad[5].any()


def test_nothing_is_scored_and_nothing_breaks():
    c = case(rows=0)
    loss, entropy = c.loss(labels=True)
    loss.backward()
    assert (loss.item(), entropy.item()) == (0.0, 0.0) and c.hidden.grad.shape == (0, H)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_narrow_types_differ_by_the_rounding_of_logits_alone(dtype, digits):
    c = case(dtype, bias=False)
    loss, _ = c.loss(labels=True)
    assert loss.dtype == torch.float32
    rounded = F.linear(c.hidden, c.weight).double()  # the model's own logits
    exact = case(bias=False)
    exact.hidden = rounded.detach().requires_grad_()
    exact.weight = torch.eye(V, dtype=torch.float64)
    other = F.linear(c.teacher.hidden, c.teacher.head.weight).double()
    exact.teacher = TeacherSide(
        hidden=other, head=Head(weight=torch.eye(V).double(), scale=0.5, softcap=4.0)
    )
    want, _ = textbook(exact)
    assert loss.item() == pytest.approx(want.item(), rel=1e-6)
    (to_logits,) = torch.autograd.grad(want, [exact.hidden])
    (got,) = torch.autograd.grad(loss, [c.hidden])
    through = to_logits @ c.weight.detach().double()
    gap = (got.double() - through).abs().max() / through.abs().max()
    assert gap < 2.0 ** (2 - digits)


def test_a_float32_head_under_a_narrow_hidden_state_is_read_as_narrow():
    c = case(torch.float32, bias=False)
    hidden = c.hidden.detach().bfloat16().requires_grad_()
    args = (c.targets, c.weights, CROSS_ENTROPY)
    mixed, _ = head_loss(hidden, c.head, *args)
    narrow, _ = head_loss(hidden, Head(weight=c.weight.bfloat16()), *args)
    assert mixed.item() == narrow.item()
    mixed.backward()
    assert c.weight.grad.dtype == torch.float32


def test_compiled_and_eager_agree(monkeypatch):
    """On a GPU the loss is compiled; the same function compiles for a CPU."""
    c = case(torch.float32, softcap=3.0)
    want, _ = c.loss(labels=True)
    monkeypatch.setattr(compiled, "DEVICES", {"cpu"})
    got, _ = c.loss(labels=True)
    if compiled._broken:
        pytest.skip("no C++ compiler here: the loss runs uncompiled")
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    for a, b in zip(gradients(got, c), gradients(want, c), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


def test_a_divergence_without_a_teacher_is_an_error():
    c = case()
    with pytest.raises(ValueError, match="needs a teacher"):
        head_loss(c.hidden, c.head, c.targets, c.weights, JSD)
