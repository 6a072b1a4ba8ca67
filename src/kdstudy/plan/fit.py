"""Whether a study's texts and its tokenizers fit its models, as far as their files tell.

How long the rows and prompts are in tokens, `kdstudy doctor` counts; a stage refuses the first text
that is too long.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kdstudy.config.refs import CorpusRef
from kdstudy.config.schema import Study, Train
from kdstudy.data import corpora
from kdstudy.errors import InputError
from kdstudy.methods import Method
from kdstudy.models import layers, vocabulary
from kdstudy.models.resolve import Resolved


def require_fit(study: Study, model: Resolved, kinds: Iterable[str], student: bool) -> None:
    """Refuse what could not be computed whatever the texts are.

    Args:
        study: The study.
        model: One of its models; what its files do not tell is not looked at.
        kinds: Kinds of the study's benchmarks.
        student: It is trained by the study's methods.

    Raises:
        InputError: Its tokenizer has tokens that it has no embeddings for; or its table of
            positions is filled by an answer's budget alone, or by what a student samples.
    """
    if model.entries is not None:
        vocabulary.require_entries(model.name, model.tokens, model.entries)
    most = model.room.most
    if most is None or not model.room.fixed:
        return
    for field, budget in _budgets(study, kinds):
        if budget >= most:
            raise InputError(
                f"{field}: {budget:,} leaves no room for a prompt in the {most:,} positions of "
                f"{model.name}",
                why="prompt and answer together must fit; it has no others",
                remedy="lower it, or choose a model for longer texts",
            )
    sampling = [m.type for m in study.methods if getattr(m, "lmbda", 0) > 0]
    if student and sampling and study.train.max_length > most:
        raise InputError(
            f"train.max_length: {study.train.max_length:,} is more than the {most:,} positions of "
            f"{model.name}",
            why=f"in {', '.join(sampling)} it writes texts of up to max_length tokens",
            remedy=f"lower it to {most:,} or less, or choose a model for longer texts",
        )


def require_shared_vocabulary(study: Study, student: Any, teacher: Any) -> None:
    """Refuse a pair with different tokenizers where a method compares their distributions.

    Args:
        study: The study.
        student: Has a `name` and a `vocabulary`, token -> id, empty where that is not known.
        teacher: As the student.

    Raises:
        InputError: Names the methods, and a token that differs.
    """
    compared = [m.type for m in study.methods if m.teacher_gives == "distribution"]
    if compared:
        names = f"{student.name} and {teacher.name}"
        ours, theirs = student.vocabulary, teacher.vocabulary
        vocabulary.require_same(ours, theirs, names, f"distributions in {', '.join(compared)}")


def require_one_vocabulary(study: Study, teachers: Sequence[Any]) -> None:
    """Refuse teachers that teach together and speak of unlike tokens.

    Args:
        study: The study.
        teachers: Each as in `require_shared_vocabulary`.

    Raises:
        InputError: A method compares distributions, and two vocabularies differ.
    """
    compared = [m.type for m in study.methods if m.teacher_gives == "distribution"]
    first = teachers[0]
    for other in teachers[1:] if compared else ():
        if not vocabulary.may_be_same(first.vocabulary, other.vocabulary):
            raise InputError(
                f"teachers: {first.name} and {other.name} teach together and have different "
                "tokenizers",
                why=f"{', '.join(compared)} learns one distribution over one vocabulary",
                remedy="choose teachers of one family, or list them one by one",
            )


def require_alignable(
    run: str, method: Method, train: Train, *, several: bool = False, context: bool = False
) -> None:
    """Refuse a run whose teacher's tokens could not be aligned with its student's.

    Args:
        run: Its label.
        method: Its method.
        train: How it is trained.
        several: It learns from several teachers together.
        context: Its teacher is told more than the prompt.

    Raises:
        InputError: Prompts are scored too, or it is one of these.
    """
    if method.teacher_gives != "spans":
        return
    if train.loss_tokens != "response":
        raise InputError(
            f"{run}: {method.type} with train.loss_tokens: {train.loss_tokens}",
            why="student and teacher read unlike prompts, each in its own template; only answers "
            "are one text",
            remedy="set train.loss_tokens to response",
        )
    if several:
        raise InputError(
            f"{run}: {method.type} with several teachers together",
            why="their distributions are over unlike vocabularies, and have no mixture",
            remedy="list the teachers one by one",
        )
    if context:
        raise InputError(
            f"{run}: {method.type} with a teacher's context",
            why="a teacher of another tokenizer reads each row in its own template, and no more",
            remedy="leave context out, or choose a method for one tokenizer",
        )


def require_own_text(
    run: str, method: Method, *, several: bool, context: bool, chained: bool
) -> None:
    """Refuse what a method cannot be that learns from text that its start wrote.

    Args:
        run: Its label.
        method: Its method.
        several: It learns from several teachers together.
        context: Its teacher is told more than the prompt.
        chained: Its teacher is a generation before.

    Raises:
        InputError: It is one of these.
    """
    found = {"several teachers together": several, "a teacher's context": context}
    found["generations"] = chained
    for what in (what for what, there in found.items() if there):
        if method.recipe().source == "start":
            raise InputError(
                f"{run}: {method.type} with {what}",
                why="its start is taught by the one teacher that then scores its text",
                remedy="list teachers one by one, without a context, and leave generations at 1; "
                "onpolicy_revkl learns on the student's own text from any of them",
            )


def require_layers(method: Method, student: Resolved, teachers: Iterable[Resolved]) -> None:
    """Refuse pairs of layers that the models do not have, as far as their files tell.

    Raises:
        InputError: Names the pair.
    """
    which = method.recipe().layers
    for teacher in teachers:
        if which is not None and student.layers is not None and teacher.layers is not None:
            layers.paired(which, student.layers, teacher.layers)


def notes(study: Study, model: Resolved, kinds: Iterable[str]) -> Iterator[str]:
    """Yield, in sentences, what fits only as long as no text is too long."""
    most = model.room.most
    if most is None:
        return
    what = "refused" if model.room.fixed else "read, beyond what the model was made for"
    over = [("train.max_length", study.train.max_length)] if study.train.max_length > most else []
    over += [(f, n) for f, n in _budgets(study, kinds) if n >= most]
    for field, number in over:
        yield (
            f"{field}: {number:,} is more than {model.name} has room for ({most:,} positions): "
            f"longer texts are {what}; `kdstudy doctor` counts them"
        )


def _budgets(study: Study, kinds: Iterable[str]) -> list[tuple[str, int]]:
    """Return the fields that say how long answers may be, and their values, where they are used."""
    used, found = set(kinds), []
    if used - {"text"} or any(m.recipe().written_before for m in study.methods):
        found.append(("generation.max_new_tokens", study.generation.max_new_tokens))
    if "text" in used:
        found.append(("text_generation.max_new_tokens", study.text_generation.max_new_tokens))
    return found


def require_usable(source: corpora.Source, found: corpora.Contents, study: Study) -> None:
    """Refuse a corpus that the study's stages would refuse.

    Raises:
        InputError: It has too few rows, or no prompts or answers for methods that need them.
    """
    ref = study.corpus
    _require_answers(source, found, study)
    corpora.held_out(source, min(found.rows, ref.rows or found.rows), ref.validation_rows)
    writers = [m.type for m in study.methods if m.needs_prompts]
    if found.unprompted and writers:
        raise InputError(
            f"corpus {source.name}: {found.unprompted} of {found.rows} rows are text without a "
            f"prompt, and {', '.join(writers)} needs prompts",
            why="the student or the teacher writes the text to learn from, in answer to a prompt",
            remedy="give rows with a prompt, or methods that learn the corpus's own text: sft, "
            "word_kd, revkd, gkd with lmbda: 0",
        )


def require_other(
    source: corpora.Source,
    replay: corpora.Source,
    found: corpora.Contents | None,
    ref: CorpusRef,
) -> None:
    """Refuse general text that is no text beside the corpus.

    Args:
        source: The corpus.
        replay: What is replayed beside it.
        found: What that holds, where it is known.
        ref: How the study names it.

    Raises:
        InputError: It is the corpus itself, or has too few rows.
    """
    drawn = source.path is None and source.dataset is None  # by one generator, under two names
    if replay.fingerprint == source.fingerprint and not (drawn and replay.name != source.name):
        raise InputError(
            f"replay: {replay.name} is the corpus itself",
            why="its rows are learnt already; a student forgets what is not among them",
            remedy="name general text, such as the student's own instruction data",
        )
    if found is not None:
        rows = min(found.rows, ref.rows or found.rows)
        corpora.held_out(replay, rows, ref.validation_rows)


def _require_answers(source: corpora.Source, found: corpora.Contents, study: Study) -> None:
    """Refuse a corpus by whose answers nobody could tell whether a text is right."""
    varied = [
        part.changed(method, study.train, value)[0]
        for part in study.ablations.vary
        for method in study.methods
        if method.type in part.methods
        for value in part.values
    ]
    judging = [(m.name, m.judging) for m in (*study.methods, *varied) if m.judging is not None]
    if not judging:
        return
    name, first = judging[0]
    if found.unanswered:
        raise InputError(
            f"corpus {source.name}: {found.unanswered} of {found.rows} rows have no answer, and "
            f"{name} {first.does}",
            why="a row's answer is a column beside its text, and says what a right text ends in",
            remedy="give rows with an `answer`, or name its column (columns: {answer: ...}); or "
            f"write {first.otherwise}",
        )
    unlisted = [(name, judge) for name, judge in judging if not judge.labels]
    if found.worded and unlisted:
        name, first = unlisted[0]
        raise InputError(
            f"corpus {source.name}: {found.worded} of {found.rows} answers are neither a number "
            "nor a capital letter",
            why=f"{name} {first.does}, and needs to know what an answer may be",
            remedy="list them, as in labels: [true, false]; write numbers without separators and "
            "units",
        )


def require_routes(source: corpora.Source, found: corpora.Contents, study: Study) -> None:
    """Refuse a corpus whose tags and the teachers' routes do not name each other.

    Raises:
        InputError: Names the first row whose tag has no teacher, or a tag that no row has.
    """
    for several in study.several:
        if several.route is None:
            continue
        for tag, place in found.tags.items():
            if tag not in several.route:
                raise InputError(
                    f"corpus {source.name}, {place}: no teacher for its tag '{tag}'",
                    why=f"the route of {', '.join(t.model for t in several.together)} names "
                    f"{', '.join(several.route)}",
                    remedy="name a teacher for it under route, or leave such rows out",
                )
        unused = [tag for tag in several.route if tag not in found.tags]
        if unused:
            raise InputError(
                f"teachers: the route names the tag '{unused[0]}', which no row of the corpus has",
                why=f"its tags are {', '.join(found.tags) or 'none'}",
                remedy="correct the tag, or take it out",
            )
