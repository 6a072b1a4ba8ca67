"""The kinds of stage of this room, and what each is told."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.artifacts import (
    Chosen,
    DraftLikelihoods,
    Generations,
    Items,
    Likelihoods,
    Pairs,
    Prompts,
    Scores,
    Tokens,
)
from kdstudy.data.prompts import LossTurns, Prompted
from kdstudy.models.kinds import Named
from kdstudy.stage import Config, Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Of `benchmark`.

    Attributes:
        name: What the benchmark is called.
        fingerprint: Hash of its file, or of its generator.
        limit: How many items to use; None for all.
        kind: Of a user's own file: what its answers are; None where the benchmark is known.
        labels: Of a user's own file: the answers that may be chosen.
    """

    name: str
    fingerprint: str
    limit: int | None
    kind: str | None = None
    labels: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig(Prompted):
    """Of `generate` and `teacher_text`.

    Attributes:
        model: What writes.
        items: Name of the benchmark, or `corpus`.
        generation: Fields of `schema.Generation`, but those that change no result.
        precision: What it computes in.
        asking: What is asked beside the study's prompt, and where answers end: `Asking.config`.
    """

    model: Named
    items: str
    generation: Mapping[str, Any]
    precision: str
    asking: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DraftLikelihoodConfig(Prompted):
    """Of `draft_likelihood`: what wrote the drafts, and what it computes in."""

    model: Named
    precision: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenTextConfig(Config):
    """Of `chosen_text`: fields of `methods.SeqKD`, and the rule that reads answers."""

    keep: str
    choose: str
    otherwise: str
    corpus_share: float
    least_kept: float
    labels: Sequence[str]
    rule: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodConfig(Config):
    """Of `likelihood`; `scoring` is `graders.as_config`, the rest as for `generate`."""

    model: Named
    items: str
    scoring: Mapping[str, Any]
    precision: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptsConfig(Prompted):
    """Of `prompts`.

    Attributes:
        models: Whose tokenizers and chat templates make the prompts.
        asking: By benchmark, what is asked beside the study's prompt, where it is: `Asking.config`.
        scoring: By benchmark whose options are scored, its grader: `graders.as_config`.
    """

    models: tuple[Named, ...]
    asking: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    scoring: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """Of `compare`: what ROUGE-L takes for words."""

    rouge_tokenizer: str = "rouge-score"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreConfig(CompareConfig):
    """Of `score`: how answers are extracted, and by benchmark the grader that is not usual.

    Attributes:
        thinking: By benchmark, the mark that ends a thought.
    """

    rule: str
    scoring: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    thinking: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFidelityConfig(Prompted):
    """Of `token_fidelity`.

    Attributes:
        model: What is compared with `reference_model`.
        max_length: Most tokens of a row; `loss_turns` and `precision` are as in `schema.Train`.
        rows: How many validation rows to read; None for all.
    """

    model: Named
    reference_model: Named
    max_length: int
    loss_turns: LossTurns
    precision: str
    rows: int | None


KINDS = {
    "benchmark": Kind(config=BenchmarkConfig, version=3, writes=Items),
    "teacher_text": Kind(config=GenerateConfig, version=5, writes=Generations, needs_model=True),
    "draft_likelihood": Kind(
        entry="kdstudy.evaluation.drafts:draft_likelihood",
        config=DraftLikelihoodConfig,
        writes=DraftLikelihoods,
        needs_model=True,
    ),
    "chosen_text": Kind(
        entry="kdstudy.evaluation.drafts:chosen_text", config=ChosenTextConfig, writes=Chosen
    ),
    "generate": Kind(config=GenerateConfig, version=5, writes=Generations, needs_model=True),
    "likelihood": Kind(config=LikelihoodConfig, writes=Likelihoods, needs_model=True),
    "token_fidelity": Kind(config=TokenFidelityConfig, version=5, writes=Tokens, needs_model=True),
    "prompts": Kind(entry="kdstudy.evaluation.shown:prompts", config=PromptsConfig, writes=Prompts),
    "score": Kind(config=ScoreConfig, version=5, writes=Scores),
    "compare": Kind(config=CompareConfig, version=4, writes=Pairs),
}
