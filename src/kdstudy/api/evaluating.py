"""A model's answers to benchmarks, scored: of a model by name, or of one in memory."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdstudy.api import studies
from kdstudy.api.building import Show, build, unseen
from kdstudy.api.documents import as_text
from kdstudy.artifacts import EACH_ITEMS, Items, Scores
from kdstudy.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdstudy.config.refs import BenchmarkRef
    from kdstudy.config.schema import Study
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan
    from kdstudy.records import Example, Score

    Named = str | Mapping[str, Any] | BenchmarkRef


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """How good a model is.

    Attributes:
        model: What it is called.
        metrics: By benchmark: `accuracy` (of free texts `rouge_l`) over items, as a fraction, with
            its 95% interval `low` to `high`; `n` items of the `of` that the benchmark has, `draws`
            answers to each; `parse_rate` and `truncated_rate` over texts (`acc_norm` and
            `acc_bytes` of choices by likelihood); the count of `outcomes`; the accuracy of guessing
            (`chance`) and of the commonest answer (`majority`); and how it was measured (`rule`,
            `signature`). The benchmarks of `kdstudy eval --json`.
        items: A row per answer: benchmark, example_id, sample, completion, extracted, rule,
            outcome, quality, tokens, system, question, gold: those of a study's `items`; of
            choices by likelihood `option_logprobs` and the like, as `records.Score` has them.
        notes: What is to be known beside the numbers, in sentences.
    """

    model: str
    metrics: Mapping[str, Mapping[str, Any]]
    items: "pd.DataFrame" = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """What `kdstudy eval --json` prints."""
        return {"model": self.model, "benchmarks": dict(self.metrics)}

    def save(self, folder: str | Path) -> None:
        """Write `eval.json` and `scores.parquet`, as `kdstudy eval --out` does.

        Raises:
            InputError: The folder cannot be written.
        """
        from kdstudy.analysis.scores import scores_of

        out = Path(folder).expanduser()
        whole = {name: row["of"] for name, row in self.metrics.items()}
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "eval.json").write_text(as_text(self.document) + "\n")
            Scores(out).rows.write(scores_of(self.items), facts={"items": whole})
        except OSError as e:
            raise InputError(f"{out}: cannot be written ({e.strerror})") from e


def evaluate(
    model: "str | Path | PreTrainedModel | PeftModel",
    benchmarks: "Named | Sequence[Named]",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    adapter: str | Path | None = None,
    limit: int | None = None,
    template: str = "auto",
    template_arguments: Mapping[str, Any] | None = None,
    max_new_tokens: int = 256,
    rule: Literal["corrected", "reference"] = "corrected",
    rouge_tokenizer: Literal["rouge-score", "unicode"] = "rouge-score",
    data_dir: str | Path | None = None,
    store: str | Path | None = None,
) -> EvaluationResult:
    """Generate a model's answers to benchmarks and score them, as `kdstudy eval` does.

    Answers of a model that is given by name are kept in the store, and not made again. A loaded
    model answers as it is, in its own type and on its device, in eval mode; nothing of it is kept
    or changed.

    Args:
        model: A Hub id, a folder, a GGUF file or a zoo name; or a loaded causal LM.
        benchmarks: One or several: a name of `kdstudy ls benchmarks`, or of a file of your own
            `{"name": "mine", "path": "test.jsonl", "kind": "number"}`, as in a study;
            `{"name": "arc_e", "scoring": "likelihood"}` chooses by likelihood.
        tokenizer: That of a loaded model.
        adapter: Folder of a PEFT adapter to put on a model given by name.
        limit: Items per benchmark, a seeded choice; all if left out.
        template: `auto` (the tokenizer's own, else Alpaca's), `alpaca`, `chat`, `reference`, or a
            text with `{instruction}`.
        template_arguments: For chat templates, such as `{"enable_thinking": False}`.
        max_new_tokens: Token budget of an answer.
        rule: How answers are found in texts (docs/scoring.md).
        rouge_tokenizer: What ROUGE-L of free texts takes for words.
        data_dir: Folder of benchmark files; `KDSTUDY_DATA` if left out.
        store: Where answers are kept; `KDSTUDY_STORE`, or `kdstudy-store`, if left out.

    Raises:
        InputError: There is no such model or benchmark, or they cannot be used.
        StageError: Something failed while the model answered.
    """
    named = isinstance(model, str | Path)
    if named == (tokenizer is not None) or not (named or adapter is None):
        raise InputError(
            "evaluate: tokenizer belongs to a loaded model, adapter to one given by name",
            remedy="give a name, folder or file; or a loaded model and its tokenizer",
        )
    several = isinstance(benchmarks, Sequence) and not isinstance(benchmarks, str)
    study = single_study(
        # A loaded model is no model of a study: only the other fields are read then.
        model if named else "zoo-xs",
        list(benchmarks) if several else [benchmarks],
        adapter=adapter,
        limit=limit,
        template=template,
        template_arguments=template_arguments or {},
        max_new_tokens=max_new_tokens,
        rule=rule,
        rouge_tokenizer=rouge_tokenizer,
    )
    data = studies.given(data_dir, "KDSTUDY_DATA", None)
    if not named:
        return _answered(model, tokenizer, study, data)
    plan, opened = studies.planned(
        study, studies.given(store, "KDSTUDY_STORE", studies.STORE), data
    )
    return scored(plan, opened)


def single_study(
    model: str | Path,
    benchmarks: "Sequence[Named]",
    *,
    adapter: str | Path | None,
    limit: int | None,
    template: str,
    template_arguments: Mapping[str, Any],
    max_new_tokens: int,
    rule: str,
    rouge_tokenizer: str,
) -> "Study":
    """Return the study of one model that is not trained. The arguments are those of `evaluate`."""
    return studies.single(
        students=[{"model": str(model), "adapter": None if adapter is None else str(adapter)}],
        corpus={"name": "synthetic"},
        methods=["sft"],
        benchmarks=benchmarks,
        limit=limit,
        template=template,
        template_arguments=dict(template_arguments),
        extraction=rule,
        rouge_tokenizer=rouge_tokenizer,
        generation={"max_new_tokens": max_new_tokens},
        text_generation={"max_new_tokens": max_new_tokens, "temperature": 1.0, "samples": 5},
    )


def scored(
    plan: "Plan",
    store: "Store",
    *,
    show: Show = unseen,
    tell: Callable[[str], None] = lambda line: None,
) -> EvaluationResult:
    """Build the scores of a plan's first system, and return them.

    Args:
        plan: Of a `single_study`.
        store: As the plan's.
        show: What is seen of it.
        tell: Told of each damaged file.
    """
    label = plan.systems[0].label
    key = plan.scored[label]
    build(plan, key, store, show=show, tell=tell)
    keys = EACH_ITEMS.find(plan.stages[key].inputs)
    items = {name: Items(_finished(store, k)) for name, k in keys.items()}
    return _result(
        label,
        Scores(_finished(store, key)).rows.read(),
        {name: found.facts.read() for name, found in items.items()},
        {name: found.examples.read() for name, found in items.items()},
        studies.edited(plan),
    )


def _finished(store: "Store", key: str) -> Path:
    folder = store.get(key)
    assert folder is not None, "it was built a moment ago"
    return folder


def _answered(
    model: Any, tokenizer: Any, study: "Study", data_dir: Path | None
) -> EvaluationResult:
    """Return how good a loaded model is: what the stages do, without a store."""
    from kdstudy.data.prompts import PromptFormat
    from kdstudy.evaluation import benchmarks, graders
    from kdstudy.evaluation.asking import asking
    from kdstudy.evaluation.generate import generate
    from kdstudy.evaluation.likelihoods import of_benchmark
    from kdstudy.evaluation.score import score
    from kdstudy.evaluation.stages import benchmark_facts, limited
    from kdstudy.models import parts
    from kdstudy.models.load import require_eos
    from kdstudy.models.writing import writing

    require_eos(tokenizer, "tokenizer")
    made = PromptFormat(template=study.template, arguments=study.template_arguments)
    scores, facts, examples = [], {}, {}
    with warnings.catch_warnings(record=True) as heard, writing(model) as writer:
        warnings.simplefilter("always", benchmarks.EditedBenchmark)
        for reference in study.benchmarks:
            source = benchmarks.meant(reference)
            whole = source.load(data_dir)
            chosen = tuple(limited(whole.examples, study.limit))
            some = dataclasses.replace(whole, examples=chosen)
            grader = graders.of_benchmark(reference.scoring, whole)
            task = source if isinstance(source, benchmarks.HarnessTask) else None
            how = asking(reference, data_dir=data_dir, task=task)
            if grader.needs == "options":
                rows = of_benchmark(writer, tokenizer, some, grader)
            else:
                settings = study.text_generation if whole.kind == "text" else study.generation
                how.require_apart(whole.name, chosen)
                asked = [(whole.name, how.put(example)) for example in chosen]
                prompt, ends = how.format(made), how.endings
                batches = generate(writer, tokenizer, asked, prompt, settings, endings=ends)
                rows = [row for batch in batches for row in batch]
            read = (study.extraction, study.rouge_tokenizer, grader, how.endings.thinking)
            scores += score(rows, some, *read)
            facts[whole.name] = benchmark_facts(some, len(whole.examples))
            examples[whole.name] = list(chosen)
    config = parts.plain(model).config
    name = Path(config._name_or_path).name or config.model_type
    edited = [str(w.message) for w in heard if w.category is benchmarks.EditedBenchmark]
    return _result(name, scores, facts, examples, edited)


def _result(
    model: str,
    scores: "Sequence[Score]",
    facts: Mapping[str, Mapping[str, Any]],
    examples: "Mapping[str, Sequence[Example]]",
    notes: Sequence[str],
) -> EvaluationResult:
    from kdstudy.analysis.stages import item_rows

    return EvaluationResult(
        model=model,
        metrics=_metrics(model, scores, facts),
        items=item_rows({model: scores}, examples, {}).drop(columns="overlap"),
        notes=tuple(notes),
    )


def _metrics(
    model: str, scores: "Sequence[Score]", facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what scores come to per benchmark, with intervals over items."""
    from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP
    from kdstudy.analysis.measures import own_rows
    from kdstudy.evaluation.score import summary
    from kdstudy.measures.cell import cells_of

    rows = list(own_rows(cells_of(model, scores), {}, DEFAULT_BOOTSTRAP))
    found = {}
    for name, known in facts.items():
        own = [s for s in scores if s.benchmark == name]
        metric = "rouge_l" if known["kind"] == "text" else "accuracy"
        (headline,) = (r for r in rows if r["benchmark"] == name and r["metric"] == metric)
        found[name] = summary(own) | {
            "n": headline["n"],
            "of": known["of"],
            "draws": len(own) // headline["n"],
            "low": headline["low"],
            "high": headline["high"],
            "chance": known["chance"],
            "majority": known["majority"],
            "rule": own[0].rule,
            "signature": headline["signature"],
        }
    return found
