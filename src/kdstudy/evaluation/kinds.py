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
    Memorised,
    OwnText,
    Pairs,
    Prompts,
    Reasoning,
    Scores,
    Tokens,
    VariantItems,
    VariantScores,
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
class VariantConfig(BenchmarkConfig):
    """Of `variant`: the benchmark, and how its items are changed.

    Attributes:
        variant: One of `config.refs.Variant`.
        lists: Hash of the list that it draws from (`variants.fingerprint`).
        seed: Of the draws.
    """

    variant: str
    lists: str = ""
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig(Prompted):
    """Of `generate`, `teacher_text` and `attempts`.

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
    rows: str = "all"


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTextConfig(Prompted):
    """Of `own_text`.

    Attributes:
        model: What is compared with `reference_model` on what each of them answered.
        items: Name of the benchmark.
        rows: How many of its items.
        precision: What both compute in.
        asking: As for `generate`.
    """

    model: Named
    reference_model: Named
    items: str
    rows: int
    precision: str
    asking: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasoningConfig(GenerateConfig):
    """Of `reasoning`; the rest as for `generate`.

    Attributes:
        rows: How many items.
        rule: How answers are extracted.
        scoring: The benchmark's grader where it is not the usual one.
    """

    rows: int
    rule: str
    scoring: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorisedConfig(Prompted):
    """Of `memorised`.

    Attributes:
        model: Whose memory is looked at.
        reference_model: The same model, which is used as it is.
        max_length: Most tokens of a row; `loss_turns` and `precision` are as in `schema.Train`.
        rows: Most training rows, and most held-out rows.
        start: First tokens of a response that are given.
        tokens: How many behind them must be the likeliest.
    """

    model: Named
    reference_model: Named
    max_length: int
    loss_turns: LossTurns
    precision: str
    rows: int
    start: int
    tokens: int


KINDS = {
    "benchmark": Kind(config=BenchmarkConfig, version=3, writes=Items),
    "teacher_text": Kind(config=GenerateConfig, version=5, writes=Generations, needs_model=True),
    "attempts": Kind(config=GenerateConfig, writes=Generations, needs_model=True),
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
    "own_text": Kind(
        entry="kdstudy.evaluation.own_text:own_text",
        config=OwnTextConfig,
        writes=OwnText,
        needs_model=True,
    ),
    "reasoning": Kind(
        entry="kdstudy.evaluation.reasoning:reasoning",
        config=ReasoningConfig,
        writes=Reasoning,
        needs_model=True,
    ),
    "memorised": Kind(
        entry="kdstudy.evaluation.memorised:memorised",
        config=MemorisedConfig,
        writes=Memorised,
        needs_model=True,
    ),
    "prompts": Kind(entry="kdstudy.evaluation.shown:prompts", config=PromptsConfig, writes=Prompts),
    "score": Kind(config=ScoreConfig, version=5, writes=Scores),
    "variant": Kind(
        entry="kdstudy.evaluation.variants.stages:variant",
        config=VariantConfig,
        writes=VariantItems,
    ),
    "score_variants": Kind(
        entry="kdstudy.evaluation.stages:score", config=ScoreConfig, writes=VariantScores
    ),
    "compare": Kind(config=CompareConfig, version=4, writes=Pairs),
}
