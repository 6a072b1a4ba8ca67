"""The stages `train` (a teacher's fine-tuning, every student) and `teacher_cache`."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback

from kdstudy import methods
from kdstudy.artifacts import CORPUS, REPLAY, ROLLOUTS, START, Corpus, Trained
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded, PromptFormat
from kdstudy.distill import aligned, placement, sample_monitor, teacher_text, trackers
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.kinds import TeacherCacheConfig, TrainConfig
from kdstudy.distill.model import Teacher
from kdstudy.distill.rows import Golds, Rows, encode_rows, golds_of, require_enough
from kdstudy.distill.schedule import Schedule, curve, study_config
from kdstudy.distill.several_teachers import Together, require_routes
from kdstudy.distill.teacher_text import TeacherText
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.methods.objective import Recipe
from kdstudy.models import heads, load, packing, parts
from kdstudy.models.sample import seed_of
from kdstudy.stage import Work


def train(work: Work) -> str:
    """Train one student: `Trained` holds an adapter (LoRA) or a model (full).

    Config: `TrainConfig`. Inputs: `CORPUS`, `REPLAY` (where some is replayed), `TEACHER` (its
    finished train stage; without it the teacher is used as it is), `TEACHER_TEXT` or `CHOSEN_TEXT`
    (for seqkd), `START` (a train stage of the same student, whose weights are gone on from),
    `ROLLOUTS` (what that wrote, for offline_opd). Aids:
    `TEACHER_CACHE`. Several teachers have each a role of its own (`EACH_TEACHER` and its kin).
    Local: `models` {role: `resolve.Resolved.local`}, `train`, the fields of `schema.Train` that
    change no bytes; and, where there are trackers, `tracking` {study, label, folder}.

    Returns:
        A line that says how it went.

    Raises:
        InputError: Too many rows do not fit, models do not match, or a folder is no model.
        StageError: The loss is no longer a finite number, or the texts look collapsed and the
            study says to stop then.
    """
    config = TrainConfig.of(work.config)
    method = methods.named(config.method)
    recipe = method.recipe()
    settings = schema.Train.model_validate({**config.train, **work.local["train"]})
    prompts = config.format(settings.loss_turns)
    local = work.model("student")
    tokenizer = load.open_tokenizer(local)
    route = config.together.get("route")
    if route is not None:
        require_routes(work.read(CORPUS), route)
    asked = (work, tokenizer, prompts, settings.max_length)
    golds = golds_of(recipe.judging, config.extraction)
    corpus = _text(*asked, None, config.context, golds)
    text, written = corpus, None
    if recipe.written_before:
        written = teacher_text.read(work, route)
        text = _text(*asked, written)
    again = {}
    if (replayed := work.find(REPLAY)) is not None:
        again = _encoded(replayed, *asked[1:], None)
    counts = {part: found.counts for part, found in text.items()}
    counts |= {f"replay {part}": found.counts for part, found in again.items()}
    require_enough(counts, settings.max_length, settings.max_truncated_share)
    # Validation measures the cross-entropy of the corpus's own rows too.
    others = {} if text is corpus else {"validation": corpus["validation"]}
    read = [*_to_teacher(text), *_to_teacher(others)]
    student, teacher, note = _models(work, settings, recipe, tokenizer, read)
    checkpoints = work.scratch / "checkpoints"
    rows, seed = text["train"].rows, config.seed
    # What the student wrote itself is no measure of what its answers should be.
    expected = written if recipe.source == "teacher" else None
    watch = _monitor(work, settings, tokenizer, prompts, expected)
    args = study_config(settings, method, rows, checkpoints, seed, packed=packing.enable(student))
    # Trackers look at the environment when the trainer is made.
    with _tracked(work, args):
        trainer = DistillTrainer(
            student,
            teacher,
            args,
            train_dataset=rows,
            eval_dataset=text["validation"].rows,
            corpus_dataset=None if text is corpus else corpus["validation"].rows,
            replay_dataset=again["train"].rows if again else None,
            replay_eval_dataset=again["validation"].rows if again else None,
            replay_base=_base(work, settings),
            processing_class=tokenizer,
            callbacks=[Schedule(settings.evaluations, work.progress), watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.run()
    more = {"teacher_text": written.counts} if written and written.counts else {}
    if (share := trainer.compared_share) is not None:
        more["compared_share"] = share
    if again:
        more["replay"] = _replayed(again, settings)
    compared = "" if share is None else f", {share:.1%} of the tokens that it wrote compared"
    facts = _written(trainer, work, text, watch, settings, more)
    before = "its start" if recipe.source == "start" else "sft"
    after = f", after {facts['start']['best_step']} steps of {before}" if "start" in facts else ""
    return (
        f"{facts['steps']} steps, best validation loss {facts['best_loss']:.4f} "
        f"at step {facts['best_step']}{note}{compared}{after}{written.said if written else ''}"
        f"{sample_monitor.summary(facts['probe'])}"
    )


def _replayed(again: Mapping[str, Rows], settings: schema.Train) -> dict[str, Any]:
    """Return what is told of general text that was read beside the corpus."""
    told: dict[str, Any] = {part: len(found.rows) for part, found in again.items()}
    told |= {"weight": settings.replay_weight, "per_step": settings.replayed}
    return told | ({"towards": "base"} if settings.replay_towards == "base" else {})


def teacher_cache(work: Work) -> str:
    """Cache a teacher on the corpus, or find that it does not fit: a `TeacherCache` says which.

    Config: `TeacherCacheConfig`. Inputs: `CORPUS`, `TEACHER` as for `train`, and `ROLLOUTS` where
    that is the text that is read. Local: `models` as for `train`, and `rows_per_pass`.

    Returns:
        A line with the sizes.

    Raises:
        InputError: A folder is no model.
        StageError: Mode `disk`, and it does not fit.
    """
    config = TeacherCacheConfig.of(work.config)
    tokenizer = load.open_tokenizer(work.model("teacher"))
    asked = (work, tokenizer, config.format(config.loss_turns), config.max_length)
    text = _text(*asked, None, config.context)
    rows = _to_teacher(text)
    if work.find(ROLLOUTS) is not None:
        rollouts = _text(*asked, teacher_text.read(work))
        rows = [*_to_teacher(rollouts), *_to_teacher({"validation": text["validation"]})]
    return placement.cache_teacher(work, rows)


def _text(
    work: Work,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptFormat,
    max_length: int,
    written: TeacherText | None,
    context: str = "",
    golds: Golds | None = None,
) -> dict[str, Rows]:
    asked = (tokenizer, prompts, max_length, written, context, golds)
    return _encoded(work.read(CORPUS), *asked)


def _encoded(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptFormat,
    max_length: int,
    written: TeacherText | None,
    context: str = "",
    golds: Golds | None = None,
) -> dict[str, Rows]:
    found = {}
    for part in ("train", "validation"):
        rows = corpus.part(part).read()
        found[part] = encode_rows(
            written.learnt(rows) if written else rows,
            tokenizer,
            prompts,
            max_length,
            written and written.texts,
            corpus.places,
            context,
            golds if part == "train" else None,
        )
    return found


def _to_teacher(text: Mapping[str, Rows]) -> list[Encoded]:
    """Return rows as their teacher reads them."""
    return [row.to_teacher for part in text.values() for row in part.rows]


def _tracked(work: Work, args: DistillConfig) -> contextlib.AbstractContextManager[None]:
    """Give the run its own run of every tracker."""
    if not args.report_to:
        return contextlib.nullcontext()
    tracking = work.local["tracking"]
    args.run_name, args.project = tracking["label"], tracking["study"]
    return trackers.own_run(
        args.report_to,
        Path(tracking["folder"]),
        tracking["study"],
        work.scratch / "tracker_run",
    )


def _monitor(
    work: Work,
    settings: schema.Train,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptFormat,
    written: TeacherText | None,
) -> sample_monitor.SampleMonitor:
    rows = work.read(CORPUS).validation.read()
    rows = sample_monitor.choose(
        written.learnt(rows) if written else rows,
        tokenizer,
        prompts,
        settings.max_length,
        written and written.texts,
        settings.probe_rows,
    )
    return sample_monitor.SampleMonitor(rows, tokenizer, stop=settings.on_alarm == "stop")


def _models(
    work: Work,
    settings: schema.Train,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Encoded],
) -> tuple[parts.Model, Teacher | Together | None, str]:
    """Return student and teacher, and what there is to say about the teacher.

    The teacher is `asked` about these rows.
    """
    start, note = work.find(START), ""
    whole = start if settings.lora is None else None
    student = load.open_model(work.model("student"), _precision(settings), whole)
    teacher = None
    if recipe.needs_teacher:
        run = placement.Run(
            work=work,
            settings=settings,
            method=recipe,
            rows=asked,
            tokenizer=tokenizer,
            student=parts.head(student),
        )
        teacher, note = run.teachers() if recipe.spans is None else _aligned(run)
    if settings.lora is not None and start is not None:
        student = load.put_adapter(student, start.adapter, trainable=True)
    elif settings.lora is not None:
        seed = TrainConfig.of(work.config).seed
        student = load.add_adapter(student, settings.lora, seed_of("lora", seed))
    return student, teacher, note


def _base(work: Work, settings: schema.Train) -> parts.Model | None:
    """Return a student as it was before its start trained it, where it is held to that.

    Without a start, or with an adapter, the trainer finds it itself.
    """
    towards = settings.replay_weight > 0 and settings.replay_towards == "base"
    if not towards or settings.lora is not None or work.find(START) is None:
        return None
    return load.open_model(work.model("student"), _precision(settings))


def _aligned(run: placement.Run) -> tuple[Teacher, str]:
    """Return a teacher of another tokenizer, and how well the two meet."""
    work, corpus = run.work, run.work.read(CORPUS)
    config = TrainConfig.of(work.config)
    both = aligned.Tokenizers(
        student=run.tokenizer,
        teacher=load.open_tokenizer(work.model("teacher")),
        template=config.format(run.settings.loss_turns),
        max_length=run.settings.max_length,
    )
    heads.own_width(both.student, run.student, "the student")
    names = f"{config.student.name} and {config.teacher.name}"
    examples = (example for part in (corpus.train, corpus.validation) for example in part.read())
    pairs = both.pairs(examples, corpus.places, names)
    theirs = [pair.teacher for pair in pairs.values() if pair.teacher is not None]
    of_its_own = dataclasses.replace(run, rows=theirs, tokenizer=both.teacher, student=None)
    teacher, note = of_its_own.teacher()
    return both.aligned(teacher, pairs, run.method), note + aligned.said_of(pairs)


def _precision(settings: schema.Train) -> str:
    # Full fine-tuning keeps float32 weights: bfloat16 ones would swallow small updates.
    return "float32" if settings.lora is None else settings.precision


def _written(
    trainer: DistillTrainer,
    work: Work,
    text: Mapping[str, Rows],
    watch: sample_monitor.SampleMonitor,
    settings: schema.Train,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the student and the facts of its training, and return these."""
    local, made = work.model("student"), Trained(work.out)
    out = made.model if settings.lora is None else made.adapter
    if trainer.is_world_process_zero():
        shutil.rmtree(out, ignore_errors=True)  # a save that was interrupted
    # On a base with a user's adapter an adapter fits nothing that has a name.
    base = "" if local["adapter"] else local["hub_id"] or local["folder"]
    trainer.save_student(out, base)
    if trainer.is_world_process_zero() and not trainer.is_fsdp_enabled:
        opened = functools.partial(load.open_model, local, _precision(settings), made)
        load.require_same(trainer.student, out, opened)
    facts = _facts(trainer, text, watch) | _start(work) | more
    if trainer.is_world_process_zero():
        made.facts.write(facts)
    return facts


def _start(work: Work) -> dict[str, Any]:
    """Return what was trained before this run, for its facts; {} from a base model."""
    if (start := work.find(START)) is None:
        return {}
    facts = start.facts.read()
    return {"start": {name: facts[name] for name in ("steps", "best_step", "tokens")}}


def _facts(
    trainer: DistillTrainer, text: Mapping[str, Rows], watch: sample_monitor.SampleMonitor
) -> dict[str, Any]:
    """The facts of a training; no times, so that two runs write the same bytes."""
    return {
        "parameters": parts.count(trainer.student),
        "trainable": sum(p.numel() for p in trainer.student.parameters() if p.requires_grad),
        "rows": len(text["train"].rows),
        "validation_rows": len(text["validation"].rows),
        "truncated": sum(part.truncated for part in text.values()),
        "unended": sum(part.unended for part in text.values()),
        "dropped": sum(part.dropped for part in text.values()),
        "steps": trainer.state.global_step,
        "tokens": trainer.tokens,
        "padding_share": trainer.padding_share,
        "best_step": trainer.state.best_global_step,
        "best_loss": trainer.state.best_metric,
        "curve": curve(trainer.state.log_history),
        "probe": sample_monitor.points(trainer.state.log_history),
        "probe_expected": watch.expected and sample_monitor.numbers(watch.expected),
    }
