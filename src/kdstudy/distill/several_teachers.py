"""Several teachers of one run: mixtures of their distributions, or one teacher for each row.

Shapes: N scored tokens, C of them, M teachers, V common vocabulary entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kdstudy.artifacts import Corpus
from kdstudy.data.prompts import Encoded, called
from kdstudy.distill import batches, compiled, fused
from kdstudy.distill.batches import Batch, LossTokens, Weighing
from kdstudy.distill.fused import Caps, Disturb, Side, TeacherSide
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.distill.model import Teacher

Mixture = Literal["arithmetic", "geometric"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed:
    """The distributions of several teachers, mixed token by token.

    With teachers p_1 ... p_M, all at the loss's temperature, and weights w that sum to 1 the
    arithmetic mixture is sum of w_m p_m, the geometric one sum of w_m log p_m, normalised: the
    softmax of the weighted sum of their logits.

    Attributes:
        sides: The teachers' own, without noise.
        weights_NM: Weight of each teacher at each token, in float64.
        mixture: How they are mixed.
        disturb: Noise on the mixture's logits, or None.
    """

    sides: tuple[Side, ...]
    weights_NM: Tensor
    mixture: Mixture
    disturb: Disturb | None = None

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.sides[0].device

    @property
    def width(self) -> int:
        """Vocabulary entries."""
        return self.sides[0].width

    def __len__(self) -> int:
        return len(self.weights_NM)

    def logits(self, at: slice, temperature: float) -> tuple[Tensor, Caps]:
        """Return logits of the tokens `at`, [C, V]; another temperature has others."""
        raws, caps = zip(*(side.logits(at, temperature) for side in self.sides), strict=True)
        weights_CM = self.weights_NM[at]
        settings = {"caps": caps, "mixture": self.mixture, "temperature": temperature}
        mixed_CV = compiled.attempt(_mix, *raws, weights_CM, **settings)
        if mixed_CV is None:
            parts = [
                _mix(*(raw_CV[inner] for raw_CV in raws), weights_CM[inner], **settings)
                for inner in fused.blocks(raws[0])
            ]
            mixed_CV = torch.cat(parts)
        return _noisy(mixed_CV, self.disturb, at)

    def of(self, tokens_K: Tensor) -> Mixed:
        """Return the mixture at some of the tokens."""
        return dataclasses.replace(
            self,
            sides=tuple(side.of(tokens_K) for side in self.sides),
            weights_NM=self.weights_NM[tokens_K],
            disturb=self.disturb and self.disturb.of(tokens_K),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routed:
    """The distributions of several teachers, each for tokens of its own; nothing is mixed.

    Attributes:
        sides: The teachers' own, each of its own tokens alone, without noise.
        turns_N: Whose each token is.
        places_N: Its number among that teacher's tokens.
        disturb: Noise on the logits, or None.
    """

    sides: tuple[Side, ...]
    turns_N: Tensor
    places_N: Tensor
    disturb: Disturb | None = None

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.turns_N.device

    @property
    def width(self) -> int:
        """Vocabulary entries."""
        return self.sides[0].width

    def __len__(self) -> int:
        return len(self.turns_N)

    def logits(self, at: slice, temperature: float) -> tuple[Tensor, Caps]:
        """Return the logits of the tokens `at`, [C, V]: each its own teacher's."""
        turns_C, places_C = self.turns_N[at], self.places_N[at]
        found_CV = torch.empty(0, device=self.device)
        for number, side in enumerate(self.sides):
            here = (turns_C == number).nonzero()[:, 0]
            if not len(here):
                continue
            raw_KV, caps = side.of(places_C[here]).logits(slice(len(here)), temperature)
            own_KV, _ = fused.finished(raw_KV, *caps)
            if not len(found_CV):
                found_CV = own_KV.new_empty(len(turns_C), self.width)
            found_CV[here] = own_KV
        return _noisy(found_CV, self.disturb, at)

    def of(self, tokens_K: Tensor) -> Routed:
        """Return the same of some of the tokens."""
        return dataclasses.replace(
            self,
            turns_N=self.turns_N[tokens_K],
            places_N=self.places_N[tokens_K],
            disturb=self.disturb and self.disturb.of(tokens_K),
        )


class Together:
    """Several teachers, asked as one (`model.Teacher`).

    Args:
        teachers: They; each knows the vocabulary that it shares with the student.
        loss_tokens: Which positions are scored.
    """

    def __init__(self, teachers: Sequence[Teacher], loss_tokens: LossTokens):
        self.teachers = tuple(teachers)
        self.weighing = Weighing(loss_tokens=loss_tokens)
        self.width = min(teacher.width for teacher in teachers)

    def side(self, batch: Batch, disturb: Disturb | None = None) -> Side:
        """Return what a batch's distributions are read off."""
        raise NotImplementedError

    def _asked(self, number: int, batch: Batch) -> TeacherSide:
        teacher = self.teachers[number]
        return TeacherSide(hidden=teacher.hidden(batch), head=teacher.head.narrowed(self.width))

    def _alone(self, rows: Sequence[Encoded], device: torch.device) -> Batch:
        return batches.collate(rows, self.weighing, device)

    def _scored(self, batch: Batch) -> Tensor:
        """Return how many tokens of each row are scored."""
        counts = [len(self.weighing.scored(row)) for row in batch.texts]
        return torch.tensor(counts, dtype=torch.long, device=batch.places_N.device)


class Mixing(Together):
    """A mixture of teachers.

    Args:
        teachers: As in `Together`.
        loss_tokens: As in `Together`.
        mixture: How they are mixed.
        weights: A weight for each, or None: those of a row are the softmax over teachers of minus
            the mean cross-entropy that each has on the row's scored tokens, at temperature 1 (the
            soft form of FuseLLM's MinCE, Wan et al. 2024). Each row is looked at by itself, so that
            neither cuts nor devices nor resuming move them.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        loss_tokens: LossTokens,
        *,
        mixture: Mixture,
        weights: Sequence[float] | None,
    ):
        super().__init__(teachers, loss_tokens)
        self.mixture, self._weights = mixture, weights
        self._known: dict[Encoded, Tensor] = {}

    def side(self, batch: Batch, disturb: Disturb | None = None) -> Mixed:
        """Return what a batch's distributions are read off."""
        return Mixed(
            sides=tuple(self._asked(number, batch) for number in range(len(self.teachers))),
            weights_NM=self._weights_of(batch),
            mixture=self.mixture,
            disturb=disturb,
        )

    def _weights_of(self, batch: Batch) -> Tensor:
        device, counts = batch.places_N.device, self._scored(batch)
        if self._weights is not None:
            fixed_M = torch.tensor(self._weights, dtype=torch.float64, device=device)
            return fixed_M.expand(len(batch.places_N), -1)
        rows = [self._fit(row, batch) for row in batch.texts]
        return torch.stack(rows).to(device).repeat_interleave(counts, 0)

    def _fit(self, row: Encoded, batch: Batch) -> Tensor:
        """Return a row's weights, [M], in float64."""
        if row in self._known:
            return self._known[row]
        alone = self._alone([row], batch.places_N.device)
        targets = max(1, int((alone.targets_N >= 0).sum()))
        logs = [
            fused.log_of_target(self._asked(number, alone), alone.targets_N, 1.0).double().sum()
            / targets
            for number in range(len(self.teachers))
        ]
        found_M = torch.stack(logs).softmax(0).cpu()
        if not batch.sampled:  # what the student wrote does not come again
            self._known[row] = found_M
        return found_M


class Routing(Together):
    """One teacher for each row, by the row's tag.

    Args:
        teachers: As in `Together`.
        loss_tokens: As in `Together`.
        route: Number of the teacher by tag.
    """

    def __init__(
        self, teachers: Sequence[Teacher], loss_tokens: LossTokens, *, route: Mapping[str, int]
    ):
        super().__init__(teachers, loss_tokens)
        self.route = route

    def side(self, batch: Batch, disturb: Disturb | None = None) -> Routed:
        """Return what a batch's distributions are read off."""
        device, counts = batch.places_N.device, self._scored(batch)
        turns = [self.route[row.tag] for row in batch.texts]
        turns_N = torch.tensor(turns, device=device).repeat_interleave(counts)
        places_N = torch.zeros_like(turns_N)
        sides = []
        for number in range(len(self.teachers)):
            rows = [row for row, turn in zip(batch.texts, turns, strict=True) if turn == number]
            here_N = turns_N == number
            places_N[here_N] = torch.arange(int(here_N.sum()), device=device)
            # A teacher without rows here is not asked: its head alone tells the width.
            head = self.teachers[number].head.narrowed(self.width)
            nothing = head.weight.new_zeros(0, head.weight.shape[1])
            empty = TeacherSide(hidden=nothing, head=head)
            sides.append(self._asked(number, self._alone(rows, device)) if rows else empty)
        return Routed(sides=tuple(sides), turns_N=turns_N, places_N=places_N, disturb=disturb)


def require_routes(corpus: Corpus, route: Mapping[str, int]) -> None:
    """Refuse a corpus with a row whose tag has no teacher.

    A plan refuses it for a file; a data set of the Hub is read no sooner than this.

    Raises:
        InputError: Names the row and its tag.
    """
    for example in corpus.all_rows():
        if example.tag not in route:
            raise InputError(
                f"{called(example, corpus.places)}: no teacher for its tag '{example.tag}'",
                why=f"the route names {', '.join(route)}",
                remedy="name a teacher for it under route, or leave such rows out",
            )


def side_of(teacher: Teacher | Together, batch: Batch, disturb: Disturb | None = None) -> Side:
    """Return what a batch's distributions are read off: one teacher's, or several teachers'."""
    if isinstance(teacher, Together):
        return teacher.side(batch, disturb)
    return TeacherSide(hidden=teacher.hidden(batch), head=teacher.head, disturb=disturb)


def _mix(
    first_CV: Tensor,
    *rest: Tensor,
    caps: Sequence[Caps],
    mixture: Mixture,
    temperature: float,
) -> Tensor:
    """Return the mixture's logits, [C, V]; the last argument by place are weights, [C, M]."""
    *others, weights_CM = rest
    total_CV = None
    for number, raw_CV in enumerate((first_CV, *others)):
        logits_CV, _ = fused.finished(raw_CV, *caps[number])
        weights_C1 = weights_CM[:, number, None]
        if mixture == "geometric":
            part_CV = logits_CV * weights_C1.to(logits_CV.dtype)
            total_CV = part_CV if total_CV is None else total_CV + part_CV
        else:
            logs_C1 = weights_C1.log().to(logits_CV.dtype)
            part_CV = torch.log_softmax(logits_CV / temperature, -1) + logs_C1
            total_CV = part_CV if total_CV is None else torch.logaddexp(total_CV, part_CV)
    # What is read off them is their softmax at this very temperature.
    return total_CV if mixture == "geometric" else total_CV * temperature


def _noisy(logits_CV: Tensor, disturb: Disturb | None, at: slice) -> tuple[Tensor, Caps]:
    return (logits_CV if disturb is None else disturb(logits_CV, at)), fused.NO_CAPS
