"""Checks of models: files, vocabularies, endings, templates, adapters, and who knows more."""

from collections.abc import Iterator

from kdstudy.data.prompts import require_template
from kdstudy.doctor.facts import Accuracy, ModelFacts, StudyFacts, TextFacts
from kdstudy.doctor.findings import Finding, Level, finding_of, many, refused
from kdstudy.models.checkpoint import require_room
from kdstudy.models.vocabulary import may_be_same, require_entries
from kdstudy.plan.fit import require_shared_vocabulary

# A teacher that is still to be fine-tuned may need this much more nats than its student.
_HOPELESS = 1.25


def _pairs(facts: StudyFacts) -> list[tuple[ModelFacts, ModelFacts]]:
    return [
        (student, teacher)
        for teacher in facts.teachers()
        for student in facts.students()
        if student.name != teacher.name
    ]


def tokenizer(facts: StudyFacts) -> Iterator[Finding]:
    """Every tokenizer gives the ids of its own tokenizer.json."""
    here = [m for m in facts.models if m.here]
    for model in here:
        if model.replaced:
            yield Finding(
                level="note",
                check="tokenizer",
                what=f"{model.name}: {model.replaced}, which transformers reads its tokenizer as, "
                "gives other ids than its tokenizer.json says; the file is followed",
                why="the class has splitting rules of its own; what was made with it elsewhere "
                "(a training, a serving engine) may have other ids",
                remedy="nothing, if the model was trained with the file's rules; else save the "
                "tokenizer again as the class reads it",
            )
    fine = [m.name for m in here if not m.replaced]
    if fine:
        what = f"read as their files say: {', '.join(fine)}"
        yield Finding(level="ok", check="tokenizer", what=what)


def vocabulary(facts: StudyFacts) -> Iterator[Finding]:
    """Student and teacher speak of the same tokens, over a common width."""
    fine = []
    for student, teacher in _pairs(facts):
        if error := refused(require_shared_vocabulary, facts.study, student, teacher):
            yield finding_of(error, "vocabulary")
        elif not may_be_same(student.vocabulary, teacher.vocabulary):
            yield Finding(
                level="note",
                check="vocabulary",
                what=f"{student.name} and {teacher.name} have different tokenizers",
                why="token-level figures are not defined for them; seqkd needs only text, gold and "
                "uld compare what both tokenizers cut alike",
                remedy="nothing, as long as no other method compares distributions",
            )
        else:
            fine.append((student, teacher))
    for model in [m for m in facts.models if m.here]:
        tokens = max(model.vocabulary.values(), default=-1) + 1
        if error := refused(require_entries, model.name, tokens, model.width):
            yield finding_of(error, "vocabulary")
            fine = [pair for pair in fine if model not in pair]
    yield from _widths(fine)


def _widths(pairs: list[tuple[ModelFacts, ModelFacts]]) -> Iterator[Finding]:
    for student, teacher in pairs:
        if student.width != teacher.width:
            wide = max((student, teacher), key=lambda m: m.width)
            width = min(student.width, teacher.width)
            yield Finding(
                level="note",
                check="vocabulary",
                what=f"{student.name} and {teacher.name}: one vocabulary, output layers of "
                f"{student.width:,} and {teacher.width:,} entries; the first {width:,} are used",
                why=f"{wide.name} has {wide.width - width:,} entries that no token stands for; "
                "they are sliced off, so that they have no probability",
                remedy="nothing",
            )
    same = [f"{s.name} and {t.name}" for s, t in pairs if s.width == t.width]
    if same:
        width = next(s.width for s, t in pairs if s.width == t.width)
        what = f"{', '.join(same)}: one vocabulary, {width:,} entries wide"
        yield Finding(level="ok", check="vocabulary", what=what)


def alignment(facts: StudyFacts) -> Iterator[Finding]:
    """Answers are the same text in the tokens of a student and of a teacher with others."""
    for pair in facts.alignments:
        share, names = pair.share, f"{pair.student} and {pair.teacher}"
        numbers = {"student": pair.student, "teacher": pair.teacher, "share": share,
                   "spans": pair.spans, "tokens": pair.tokens}  # fmt: skip
        if pair.refusal is not None:
            yield finding_of(pair.refusal, "alignment", texts=pair.shown, facts=numbers)
            continue
        said = (
            f"{names}: {share:.1%} of the answers' text is compared ({many(pair.rows, 'row')}), in "
            f"spans of {pair.tokens / max(1, pair.spans):.2f} of the student's tokens"
        )
        fields = {"check": "alignment", "what": said, "texts": pair.shown, "facts": numbers}
        if share > 0.99:
            yield Finding(level="ok", **fields)
            continue
        why = "the rest is other text in the one tokenizer than in the other, or cut at max_length"
        remedy = "look at the rows; raise train.max_length where they are cut"
        yield Finding(level="note", why=why, remedy=remedy, **fields)


def endings(facts: StudyFacts) -> Iterator[Finding]:
    """Every model can end a text, and student and teacher end it alike."""
    fine = []
    for model in [m for m in facts.models if m.here]:
        if model.ends and model.eos_id not in model.ends:
            yield Finding(
                level="warning",
                check="endings",
                what=f"{model.name}: its tokenizer ends a text with {model.eos!r} "
                f"({model.eos_id}), its configuration with {', '.join(map(str, model.ends))}",
                why="training teaches the tokenizer's token; before that the model ends with "
                "another, and its answers may run to the limit",
                remedy="set eos_token in tokenizer_config.json to the token the model was "
                "trained with",
            )
        else:
            fine.append(f"{model.name} {model.eos}")
    for student, teacher in _pairs(facts):
        if student.vocabulary == teacher.vocabulary and student.eos_id != teacher.eos_id:
            yield Finding(
                level="warning",
                check="endings",
                what=f"{student.name} ends with {student.eos!r}, {teacher.name} with "
                f"{teacher.eos!r}",
                why="where the student learns to end, the teacher expects another token",
                remedy="give both tokenizers the same eos_token",
            )
    if fine:
        yield Finding(level="ok", check="endings", what=f"each can end a text: {', '.join(fine)}")


def template(facts: StudyFacts) -> Iterator[Finding]:
    """Every model has the template asked for, and reads a text as its teacher does."""
    fine = True
    here = [m for m in facts.models if m.here]
    for model in here:
        if error := refused(require_template, facts.study.template, model.chat):
            fine = False
            yield finding_of(error, "template", of=model.name)
    for student, teacher in _pairs(facts):
        if (
            student.tokenizer_hash != teacher.tokenizer_hash
            and student.vocabulary == teacher.vocabulary
        ):
            fine = False
            bos = "" if student.bos == teacher.bos else " (only one puts a token before the text)"
            yield Finding(
                level="warning",
                check="template",
                what=f"{student.name} and {teacher.name} have one vocabulary, and read or "
                f"frame a text differently{bos}",
                why="the teacher is asked about the student's tokens, in a form it may not know; "
                "its cache does not hold them and is computed again",
                remedy="give both folders one tokenizer.json and one chat template",
            )
    if fine and here:
        starts = sorted({m.bos for m in here if m.bos})
        used = facts.study.template
        if used == "auto":
            used = ", ".join(f"{m.name} {'chat' if m.chat else 'alpaca'}" for m in here)
            used += " (auto: the tokenizer's own where it has one)"
        what = f"{used}; before the prompt: {', '.join(starts) or 'nothing'}"
        yield Finding(level="ok", check="template", what=what)


def positions(facts: StudyFacts) -> Iterator[Finding]:
    """Every row and every prompt with its answer is within what a model can read."""
    fine = []
    for model in [m for m in facts.models if m.here]:
        text, most = facts.reader(model.name), model.room.most
        if text is None or most is None:
            continue
        lengths = dict(_lengths(facts, model, text))
        beyond = {what: sum(n > most for n in found) for what, found in lengths.items()}
        beyond = {what: longer for what, longer in beyond.items() if longer}
        if not beyond:
            fine.append(f"{model.name} {most:,}")
            continue
        said = "; ".join(f"{longer} {what}" for what, longer in beyond.items())
        limit = facts.study.train.max_length
        numbers = {"model": model.name, "positions": most, "beyond": beyond}
        longest = max(max(found) for found in lengths.values() if found)
        if error := refused(require_room, model.room, longest, model.architecture):
            what = f"{model.name}: {error.what}: {said}"
            yield finding_of(error, "positions", what=what, facts=numbers)
            continue
        yield Finding(
            level="warning",
            check="positions",
            what=f"{model.name} has room for {most:,} positions, and {said}",
            why="it was made for texts of that length; beyond it its answers may mean nothing, "
            "and nothing else would say so",
            remedy=(f"set train.max_length to {most} or less; " if limit > most else "")
            + "lower max_new_tokens, leave such items out, or choose a model for longer texts",
            facts=numbers,
        )
    if fine:
        what = f"texts and answers fit the models' positions: {', '.join(fine)}"
        yield Finding(level="ok", check="positions", what=what)


def _lengths(
    facts: StudyFacts, model: ModelFacts, text: TextFacts
) -> Iterator[tuple[str, list[int]]]:
    """Yield the lengths in tokens of texts that a model reads, by what is said of longer ones."""
    study = facts.study
    limit, answers = study.train.max_length, study.generation.max_new_tokens
    given = {m.teacher_gives for m in study.methods}
    student, taught = "student" in model.roles, bool(given & {"distribution", "spans"})
    if student or taught or model.finetuned:
        yield (
            f"of {many(len(text.lengths), 'row')} of the corpus are longer (max_length {limit})",
            [min(n, limit) for n in text.lengths],
        )
    if any(m.on_policy_share for m in study.methods):
        yield (
            f"of {many(len(text.asked), 'row')} are sampled up to max_length {limit}",
            [limit] * len(text.asked),
        )
    writers = {m.recipe().source for m in study.methods if m.recipe().written_before}
    if ("teacher" in model.roles and "teacher" in writers) or (student and "start" in writers):
        yield (
            f"of {many(len(text.asked), 'prompt')} of the corpus are longer with {answers} new "
            "tokens",
            [n + answers for n in text.asked],
        )
    for benchmark in facts.benchmarks:
        asked = text.prompts.get(benchmark.name, ())
        kind = study.text_generation if benchmark.kind == "text" else study.generation
        yield (
            f"of {many(len(asked), 'prompt')} of {benchmark.name} are longer with "
            f"{kind.max_new_tokens} new tokens",
            [n + kind.max_new_tokens for n in asked],
        )


def adapters(facts: StudyFacts) -> Iterator[Finding]:
    """LoRA layers exist in every model that is trained; a user's adapter was made for its base."""
    from kdstudy.models.adapters import require_targets

    lora, fine = facts.study.train.lora, []
    for model in [m for m in facts.models if m.here]:
        trains = "student" in model.roles or model.finetuned
        unknown = None
        if lora and trains:
            unknown = refused(require_targets, model.linear, lora, model.architecture)
        if unknown:
            yield finding_of(unknown, "adapters", of=model.name)
        misfit = _misfit(model)
        if misfit:
            yield misfit
        if not (unknown or misfit) and (trains or model.adapter):
            fine.append(model.name)
    if fine:
        how = f"LoRA of rank {lora.r}" if lora else "full fine-tuning"
        yield Finding(level="ok", check="adapters", what=f"{how} fits {', '.join(fine)}")


def _misfit(model: ModelFacts) -> Finding | None:
    adapter = model.adapter
    if adapter is None:
        return None
    if adapter.refusal:
        return finding_of(adapter.refusal, "adapters")
    short = adapter.base.rstrip("/").split("/")[-1]
    # The model is called after its folder and its adapter's.
    if short and short != model.name.split("+")[0].split("/")[-1]:
        return Finding(
            level="warning",
            check="adapters",
            what=f"{model.name}: {adapter.folder} names {adapter.base} as its base",
            why="its shapes fit, its weights may mean nothing on this model",
            remedy="check that both are the same model",
        )
    return None


def teacher(facts: StudyFacts) -> Iterator[Finding]:
    """The teacher knows more than its students: by accuracy where it is known, else by loss."""
    scored = {a.model: a for a in facts.accuracies if a.kind == "teacher"}
    for student, teacher in _pairs(facts):
        learnt = [a for a in facts.accuracies if a.kind == "sft" and a.model == student.name]
        if teacher.name in scored and learnt:
            yield _by_accuracy(max(learnt, key=lambda a: a.value), scored[teacher.name])
        elif teacher.name in facts.losses and student.name in facts.losses:
            yield _by_loss(facts, student, teacher)


def consistency(facts: StudyFacts) -> Iterator[Finding]:
    """Who teaches on a start's text wrote what the start learnt (Lightning OPD's condition)."""
    for method in facts.study.methods:
        if method.recipe().source != "start":
            continue
        if getattr(method, "start", None) == "seqkd":
            what = f"{method.name}: a run's teacher wrote what its start learnt (seqkd)"
            yield Finding(level="ok", check="consistency", what=what)
            continue
        yield Finding(
            level="warning",
            check="consistency",
            what=f"{method.name}: starts from sft on the corpus, and nothing says that the teacher "
            "wrote the corpus",
            why="where another taught the start, training on its text is drawn to another optimum "
            "than on-policy distillation (teacher consistency, Wu et al. 2026)",
            remedy="start: seqkd; or nothing, if the corpus is this teacher's text",
        )


def _by_accuracy(student: Accuracy, teacher: Accuracy) -> Finding:
    what = (
        f"{teacher.label} answers {100 * teacher.value:.1f}% right, {student.label} "
        f"{100 * student.value:.1f}% ({many(teacher.items, 'item')}, from the store)"
    )
    facts = {"teacher": teacher.value, "student": student.value, "measure": "accuracy"}
    return _who("ok" if teacher.value > student.value else "warning", what, facts)


def _by_loss(facts: StudyFacts, student: ModelFacts, teacher: ModelFacts) -> Finding:
    ours, theirs = facts.losses[student.name], facts.losses[teacher.name]
    mine, other = ours.per_character, theirs.per_character
    rows = len(theirs.nats)
    what = (
        f"on {many(rows, 'validation row')} {teacher.name} needs {other:.3f} nats a character, "
        f"{student.name} {mine:.3f}, both as they come"
    )
    level: Level = "ok" if other < mine else "warning"
    # What is learnt from the corpus can turn a small lead round, and hardly a large one.
    if level == "warning" and teacher.finetuned and other < _HOPELESS * mine:
        level = "note"
    return _who(level, what, {"teacher": other, "student": mine, "measure": "nats"})


def _who(level: Level, what: str, facts: dict) -> Finding:
    why, remedy = {
        "ok": ("", ""),
        "note": (
            "the student predicts the corpus better; fine-tuning the teacher may change that",
            "run doctor again when the teacher is trained: it then compares accuracies",
        ),
        "warning": (
            "a teacher that knows no more than its student has little to teach",
            "choose a stronger teacher, or look at its training",
        ),
    }[level]
    return Finding(level=level, check="teacher", what=what, why=why, remedy=remedy, facts=facts)
