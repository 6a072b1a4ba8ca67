"""A Trainer that evaluates a student on rows: the method's own loss, and the cross-entropy."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from transformers import PreTrainedTokenizerBase, Trainer

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, validation
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.replay import Replay
from kdstudy.distill.rows import Golds, Rows, read_dataset
from kdstudy.distill.token_difficulty import Doubts
from kdstudy.errors import InputError


class Evaluating(Trainer):
    """The part of `DistillTrainer` that measures."""

    weighing: batches.Weighing
    _validation: Mapping[str, Sequence[Encoded]]
    _corpus: Sequence[Encoded]
    _replay: Replay | None
    _doubts: Doubts | None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the method's own loss and the cross-entropy of the corpus's tokens.

        Args:
            eval_dataset: Rows, or several sets of rows by name, whose names then stand in the names
                of what is measured; None for those the trainer was made with.
            ignore_keys: Not used.
            metric_key_prefix: Put before the names of both.

        Raises:
            StageError: One of them is not a finite number.
        """
        if isinstance(eval_dataset, str):  # Trainer's way to name a part of its own
            if eval_dataset not in self._validation:
                known = ", ".join(self._validation) or "none"
                raise InputError(f"evaluate: no part is called '{eval_dataset}' (known: {known})")
            eval_dataset = {eval_dataset: self._validation[eval_dataset]}
        given = self._validation if eval_dataset is None else validation.parts(eval_dataset)
        if not any(map(len, given.values())):
            raise InputError("evaluate: there are no rows", remedy="give the trainer eval_dataset")
        metrics: dict[str, float] = {}
        for name, rows in given.items():
            prefix = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
            # The corpus's tokens stand beside rows that a teacher wrote, not beside named parts.
            corpus = self._corpus if eval_dataset is None and not name else ()
            # General text stands beside the corpus, once an evaluation.
            again = self._replay if eval_dataset is None and not metrics else None
            metrics |= self._measured(rows, prefix, corpus, again, own=eval_dataset is None)
        return metrics

    def _measured(
        self, given: Any, prefix: str, corpus: Any, again: Replay | None, *, own: bool
    ) -> dict[str, float]:
        """Measure one set of rows, tell everybody, and return what was found."""
        rows = (
            given
            if own
            else read_rows("eval_dataset", given, self.processing_class, self.args).rows
        )
        model = self._wrap_model(self.model, training=False)
        model.eval()
        size = self.args.per_device_eval_batch_size
        where = (self.weighing, self.accelerator, size, self._doubts)
        loss, entropy = validation.measured(model, rows, *where)
        if corpus:
            _, entropy = validation.measured(model, corpus, *where)
        metrics = {f"{prefix}_loss": loss, f"{prefix}_cross_entropy": entropy}
        validation.require_finite(metrics, self.state.global_step)
        if again is not None and again.measured:
            text = again.measured, batches.Weighing(), self.accelerator, size
            _, entropy = validation.measured(model, *text, labels_only=True)
            metrics[f"{prefix}_replay_cross_entropy"] = entropy
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not here: a `DistillModel` gives losses, and no labels go in.

        Raises:
            InputError: Always; it says what to call.
        """
        raise InputError(
            "predict: a distilled student is not asked for predictions",
            why="rows are texts; what Trainer collects are the logits of every token of every row",
            remedy='evaluate(dataset, metric_key_prefix="test") measures its losses, and '
            "trainer.student.generate writes its texts",
        )


def read_rows(
    name: str,
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    args: DistillConfig,
    golds: Golds | None = None,
) -> Rows:
    """Return a dataset's rows as a configuration says; arguments and errors of `read_dataset`."""
    limits = args.max_length, args.max_truncated_share
    return read_dataset(name, dataset, tokenizer, *limits, args.chats(), golds)
