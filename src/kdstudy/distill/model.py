"""The module that is trained: student body -> scored positions -> fused head and loss.

Shapes: N scored tokens, H hidden width, V vocabulary entries.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn

from kdstudy.distill import policy_gradient, sharded
from kdstudy.distill.batches import Batch, Drawn
from kdstudy.distill.fused import Side, TeacherSide, head_loss
from kdstudy.distill.noise import Noise
from kdstudy.distill.replay import TOWARDS_BASE, Base, with_replay
from kdstudy.distill.several_teachers import Together, side_of
from kdstudy.distill.span_loss import span_loss
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.token_selection import chosen
from kdstudy.errors import InputError
from kdstudy.methods.objective import CROSS_ENTROPY, Recipe
from kdstudy.models import dropout, packing, parts
from kdstudy.models.cut import layers_of
from kdstudy.models.layers import paired


class Teacher(Protocol):
    """What a student learns from: `teacher.LiveTeacher`, or `cache.CachedTeacher`.

    Attributes:
        width: Vocabulary entries it shares with the student.
        head: Its head over those entries.
    """

    width: int
    head: parts.Head

    def hidden(self, batch: Batch) -> Tensor:
        """Return its final hidden states at the batch's scored positions, [N, H]."""


class DistillModel(nn.Module):
    """A student with its loss inside `forward`, where DDP and FSDP hook in.

    Args:
        student: Plain or PEFT causal LM.
        method: What is charged per token.
        teacher: Supplies hidden states and head, or is several that do, when the method needs
            them. Entries of the student's vocabulary beyond the teacher's width are sliced off.
        base: What replayed rows are held to; None for their text.

    Attributes:
        extra: The method's own module beside the divergence (`Recipe.extra`), if it has one; one
            for each of the pairs, where there are some.
        pairs: Layers of student and teacher whose states that compares; none for the final states.
        taught: Of the last pass: the loss without what the replayed rows add.
        replayed: What they add.
        layout: How the student's weights lie on the devices, and how to have them whole.

    Raises:
        InputError: The student changes logits after its head in an unknown way.
    """

    # transformers.Trainer then passes the step's token count to forward.
    accepts_loss_kwargs = True

    def __init__(
        self,
        student: parts.Model,
        method: Recipe,
        teacher: Teacher | Together | None = None,
        base: Base | None = None,
    ):
        super().__init__()
        if method.needs_teacher and teacher is None:
            raise ValueError("the method needs a teacher's distribution")
        parts.require_known_head(student)
        packing.enable(student)
        dropout.quicken(student)
        self.student = student
        self.layout: sharded.Whole = sharded.Whole(student)
        self.method = method
        self.teacher = teacher if method.needs_teacher else None
        self.base = base
        self.taught, self.replayed = torch.zeros(()), torch.zeros(())
        self.extra: nn.Module | None = None
        self.pairs: Sequence[tuple[int, int]] = ()
        if method.extra is not None:
            if isinstance(teacher, Together):
                raise ValueError("states of several teachers have no common width")
            widths = [side.weight.shape[1] for side in (parts.head(student), teacher.head)]
            self.pairs = () if method.layers is None else _pairs(method.layers, student, teacher)
            each = [method.extra(*widths) for _ in self.pairs]
            self.extra = nn.ModuleList(each) if each else method.extra(*widths)

    def forward(
        self, batch: Batch, num_items_in_batch: int | None = None, *, labels_only: bool = False
    ) -> tuple[Tensor, ...]:
        """Return (loss,) for training, or the sums (loss, cross-entropy) for validation.

        The cross-entropy is of the student's whole vocabulary, the loss of what it shares with its
        teacher.

        Args:
            batch: The micro-batch.
            num_items_in_batch: Tokens (or sequences, or groups) of the whole optimizer step, over
                all micro-batches and devices; the loss is this micro-batch's share of the step's.
                None returns the weighted sums over the scored tokens, of which nobody has taken
                a mean.
            labels_only: For validation: both are the cross-entropy, and no teacher is asked.
        """
        validation = num_items_in_batch is None
        before = self._before(batch.replay)
        hidden_NH, *ours = self._states(self.student, *with_replay(batch))
        whole = head = parts.head(self.student)
        if labels_only:
            text = batch.targets_N, batch.weights_N
            entropy, _ = head_loss(hidden_NH, whole, *text, CROSS_ENTROPY)
            return entropy, entropy
        hidden_NH, again_NH = hidden_NH.tensor_split([len(batch.places_N)])
        ours = [states_NH[: len(batch.places_N)] for states_NH in ours]
        teacher, theirs = self._teacher_side(batch)
        if self.teacher is not None:
            head = head.narrowed(self.teacher.width)
        loss, entropy = self._charged(batch, hidden_NH, head, teacher, validation)
        if self.extra is not None:
            both = zip(ours, theirs, strict=True) if self.pairs else [(hidden_NH, teacher.hidden)]
            loss = loss + self._beside(list(both), batch.weights_N)
        if not validation:
            loss = loss / num_items_in_batch
            self.taught = loss.detach()
            if batch.replay is not None:
                added = self._again(batch.replay, again_NH, before) * batch.replay_scale
                self.replayed = added.detach()
                loss = loss + added
            else:
                self.replayed = torch.zeros_like(self.taught)
            return (loss,)
        of_some = self.method.selection is not None or batch.charges_N is not None
        if of_some or len(head.weight) < len(whole.weight):
            # The same whatever the method and the teacher: at every token, over all that the
            # student may write.
            text = batch.targets_N, batch.weights_N
            entropy, _ = head_loss(hidden_NH, whole, *text, CROSS_ENTROPY)
        return loss, entropy

    @torch.no_grad()
    def drawn(self, batch: Batch) -> Drawn:
        """Return what a step's objective says of text that the student drew, before the step.

        It is asked as it wrote the text: without dropout.
        """
        training = self.student.training
        self.student.eval()
        hidden_NH, *_ = self._states(self.student, batch.ids_T, batch.lengths, batch.places_N)
        self.student.train(training)
        teacher, _ = self._teacher_side(batch)
        head = parts.head(self.student).narrowed(self.teacher.width)
        return policy_gradient.drawn(batch.objective, batch, hidden_NH, head, teacher)

    def _states(self, model: parts.Model, *rows: Any) -> list[Tensor]:
        """Return a model's final hidden states of rows, and those of the layers compared.

        Args:
            model: The student, or what it was.
            rows: Ids, lengths and places.
        """
        narrow = _autocast(rows[0].device.type)
        # PEFT casts an adapter's input to the adapter's float32, and autocast back again.
        with disable_input_dtype_casting(model, active=narrow is not None):
            hidden_NH, *ours = packing.scored_states(
                model, *rows, [layer for layer, _ in self.pairs]
            )
        return [hidden_NH if narrow is None else hidden_NH.to(narrow), *ours]

    @torch.no_grad()
    def _before(self, again: Batch | None) -> TeacherSide | None:
        """Return what the student's base says of replayed rows, where they are held to it."""
        if again is None or self.base is None:
            return None
        with self.base.opened() as model:
            hidden_NH, *_ = self._states(model, again.ids_T, again.lengths, again.places_N)
        # In the type that the student's own logits have, or equal weights would differ by rounding.
        head = self.base.head
        narrow = min(hidden_NH.dtype, head.weight.dtype, key=lambda d: torch.finfo(d).bits)
        bias = None if head.bias is None else head.bias.to(narrow)
        head = dataclasses.replace(head, weight=head.weight.to(narrow), bias=bias)
        return TeacherSide(hidden=hidden_NH, head=head)

    def _again(self, again: Batch, hidden_NH: Tensor, before: TeacherSide | None) -> Tensor:
        """Return the sum of what the replayed rows' tokens are charged."""
        objective = CROSS_ENTROPY if before is None else TOWARDS_BASE
        text = again.targets_N, again.weights_N
        return head_loss(hidden_NH, parts.head(self.student), *text, objective, before)[0]

    def _charged(
        self,
        batch: Batch,
        hidden_NH: Tensor,
        head: parts.Head,
        teacher: Side | None,
        labels: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the method's loss, and the cross-entropy at the tokens that it charges."""
        if self.method.spans is not None:
            return self._compared(batch, hidden_NH, head, teacher, labels)
        objective = batch.objective or self.method.objective
        targets, weights = batch.targets_N, batch.weights_N
        if batch.charges_N is not None:
            weights = batch.charges_N
        if self.method.selection is not None:
            kept, weights = chosen(self.method.selection, batch, hidden_NH, head, teacher)
            hidden_NH, targets, teacher = hidden_NH[kept], targets[kept], teacher.of(kept)
        told = batch.hard_N
        if objective.returns is not None:
            drawn = batch.drawn or policy_gradient.drawn(objective, batch, hidden_NH, head, teacher)
            targets, told = drawn.targets_N, drawn.told_N2
        return head_loss(
            hidden_NH,
            head,
            targets,
            weights,
            objective.unlabelled if batch.sampled else objective,
            teacher,
            told_N=told,
            labels=labels,
        )

    def _compared(
        self,
        batch: Batch,
        hidden_NH: Tensor,
        head: parts.Head,
        teacher: TeacherSide,
        labels: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `_charged`, with a teacher of other tokens (`aligned.AlignedTeacher`)."""
        student, theirs, weights_G = self.teacher.sides(batch)
        objective = self.method.objective
        if batch.sampled:
            objective = objective.unlabelled
        loss = span_loss(
            hidden_NH, head, student, teacher.hidden, teacher.head, theirs, weights_G,
            objective, self.teacher.vocabularies,
        )  # fmt: skip
        share = objective.hard_label_weight
        if not share and not labels:
            return loss, loss.new_zeros(())
        text = batch.targets_N, batch.weights_N
        entropy, _ = head_loss(hidden_NH, head, *text, CROSS_ENTROPY)
        return loss + share * entropy, entropy.detach()

    def _beside(self, states: Sequence[tuple[Tensor, Tensor]], weights_N: Tensor) -> Tensor:
        """Return what the method's own module adds to the loss, a mean over pairs of states."""
        modules = self.extra if self.pairs else [self.extra]
        found = [m(*pair, weights_N) for m, pair in zip(modules, states, strict=True)]
        return torch.stack(found).mean()

    @property
    def _no_split_modules(self) -> list[str]:
        """The classes of the student's layers, which FSDP shards one by one."""
        return list(parts.plain(self.student)._no_split_modules or ())

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute the student's activations in the backward pass; `Trainer` calls this."""
        self._checkpoint("activation_checkpointing_enable", settings)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """As `activation_checkpointing_enable`, under the name that older transformers call."""
        self._checkpoint("gradient_checkpointing_enable", settings)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as e:
            raise AttributeError(f"{e}; the model that is trained is its .student") from None

    def _checkpoint(self, name: str, settings: dict[str, Any]) -> None:
        base = parts.plain(self.student)
        # A layer is recomputed only if what enters it needs a gradient; below adapters none does.
        base.enable_input_require_grads()
        getattr(base, name)(**settings)

    def _teacher_side(self, batch: Batch) -> tuple[Side | None, list[Tensor]]:
        """Return the teacher's part, and the states of its layers that the method compares."""
        if self.teacher is None:
            return None, []
        noise = None
        if self.method.noise and batch.noise_seeds_N is not None:
            noise = Noise(self.method.noise, batch.noise_seeds_N)
        # In the teacher's own type, as its cached states are.
        with torch.autocast(batch.ids_T.device.type, enabled=False):
            if not self.pairs:
                return side_of(self.teacher, batch, noise), []
            hidden_NH, *inner = self.teacher.states(batch, [layer for _, layer in self.pairs])
        return TeacherSide(hidden=hidden_NH, head=self.teacher.head, disturb=noise), inner


def _pairs(
    which: Literal["even"] | Sequence[tuple[int, int]], student: parts.Model, teacher: Teacher
) -> list[tuple[int, int]]:
    """Return which layers are compared; raises InputError where they are not to be had."""
    if not isinstance(teacher, LiveTeacher):
        raise InputError(
            "layers: states of a teacher's layers are asked for, and a cache, like a teacher with "
            "a context, gives the last alone",
            remedy="give the teacher as a model or a name; in a study, train.teacher_cache: auto",
        )
    both = (len(layers_of(parts.plain(model))) for model in (student, teacher.model))
    return paired(which, *both)


def _autocast(device: str) -> torch.dtype | None:
    """Return the type of the mixed precision that is on, which Trainer's `bf16` puts around us."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
