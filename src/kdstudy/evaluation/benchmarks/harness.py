"""Tasks of lm-evaluation-harness as benchmarks: its words, documents, filters and metrics.

The package is imported when a task is loaded (`pip install 'kdstudy[harness]'`). Requests are built
by the harness itself, zero- or few-shot, with the seeds of its `simple_evaluate`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import random
import re
import statistics
import string
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdstudy.errors import InputError, StageError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind, Stated
from kdstudy.records import Example

_ABOVE = re.compile(r"^\s*(?:Question|Q):\s*")
_BELOW = re.compile(r"\s*\n\s*(?:Answer|A):\s*$")
_GRADING = ("output_type", "metric_list", "filter_list", "process_results", "generation_kwargs")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Of `lm_eval.simple_evaluate`: documents of some tasks are shuffled when they are loaded.
_SEED, _NUMPY_SEED, _SHOTS_SEED = 0, 1234, 1234


class HarnessTask:
    """A task of lm-evaluation-harness, by name or by its file.

    Args:
        name: What reports call it.
        task: The task's name, or the path of its YAML file.
        shots: Exemplars before every item; None for as many as the task says.
    """

    kind: Kind = "choice"

    def __init__(self, name: str, task: str, shots: int | None = None):
        self.name, self.task, self.shots = name, task, shots

    @functools.cached_property
    def opened(self) -> Any:
        """The harness's own object, its requests built.

        Raises:
            InputError: The harness is not installed, knows no such task, or cannot load it; or the
                task is of a kind that makes no item right or wrong.
        """
        try:
            from lm_eval.tasks import TaskManager, get_task_dict
        except ImportError as e:
            raise InputError(
                f"{self.name}: lm-evaluation-harness cannot be imported ({e})",
                why=f"{self.task} is one of its tasks",
                remedy="pip install 'kdstudy[harness]'",
            ) from e
        with _quiet(), _seeded():
            try:
                if self._is_file:
                    folder, name = Path(self.task).parent, self._named()
                    manager = TaskManager(include_path=str(folder), include_defaults=False)
                else:
                    manager, name = TaskManager(), self.task
                self._require_task(name, manager)
                (task,) = get_task_dict([name], manager).values()
                self._require_usable(task)
                if self.shots is not None:
                    task.set_config("num_fewshot", self.shots)
                task.set_fewshot_seed(_SHOTS_SEED)
                task.build_all_requests()
            except InputError:
                raise
            # Files, data sets, templates and functions of anybody: whatever they raise.
            except Exception as e:
                raise InputError(
                    f"{self.name}: lm-evaluation-harness cannot load {self.task} "
                    f"({type(e).__name__}: {(str(e).splitlines() or [''])[0][:200]})",
                    remedy="see that `lm_eval` runs the task; data files in a task's file start at "
                    "the current folder",
                ) from e
        return task

    @property
    def chooses(self) -> bool:
        """Whether options are scored; else texts are written."""
        return self.opened.OUTPUT_TYPE == "multiple_choice"

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        until = (self.opened.config.generation_kwargs or {}).get("until") or []
        return tuple([until] if isinstance(until, str) else until)

    def fingerprint(self, data_dir: Path | None = None) -> str:
        """Return a hash of all that the task asks and of how it grades, wherever its files are.

        Of its Python functions it is all `*.py` beside them, since they call others; of what the
        harness does itself, the harness's version.
        """
        config = self.opened.dump_config()
        told = json.dumps({key: config.get(key) for key in _GRADING}, sort_keys=True, default=str)
        digest = hashlib.sha256(_ADDRESS.sub("", told).encode())
        digest.update(metadata.version("lm_eval").encode())
        for source in _sources(self.opened):
            digest.update(f"{source.name}{len(source.read_bytes())}".encode() + source.read_bytes())
        for example in self.load(None).examples:
            digest.update(f"{example.id}{example.answer}{example.request}".encode())
        return digest.hexdigest()

    def load(self, data_dir: Path | None = None) -> Benchmark:
        """Return the benchmark; of texts with what grades them.

        Raises:
            InputError: As `opened` does, or an item has no one right option.
        """
        return self._loaded

    def with_grader(self, items: Benchmark, fingerprint: str) -> Benchmark:
        """Return items of this task, pinned before, with what grades their texts.

        Args:
            items: All of the task's or some.
            fingerprint: The task's, when it was planned.

        Raises:
            StageError: The task asks or grades otherwise by now.
        """
        known = {(e.id, e.request, e.answer) for e in self._loaded.examples}
        strange = any((e.id, e.request, e.answer) not in known for e in items.examples)
        if strange or self.fingerprint() != fingerprint:
            raise StageError(
                f"{self.name}: the task {self.task} has changed since the study was planned",
                why="its documents, its code or the version of lm-evaluation-harness did",
                remedy="run the study again: it will be planned with the task as it is now",
            )
        return dataclasses.replace(items, graded=self._loaded.graded)

    @functools.cached_property
    def _loaded(self) -> Benchmark:
        examples, docs, chances = [], {}, []
        seen: Counter[str] = Counter()
        for doc, requests in _by_document(self.opened.instances):
            key = document_hash(doc)[:16]
            seen[key] += 1
            key = key if seen[key] == 1 else f"{key}-{seen[key]}"
            make = self._choice if self.chooses else self._written
            example, options = make(key, doc, requests)
            examples.append(example)
            docs[key] = doc
            chances.append(1 / options if options else 0.0)
        return Benchmark(
            name=self.name,
            version="1",
            kind=self.kind,
            chance=statistics.fmean(chances),
            examples=tuple(examples),
            stated={e.id: Stated("", e.instruction) for e in examples},
            graded=None if self.chooses else functools.partial(_graded, self.opened, docs),
        )

    def _choice(self, key: str, doc: Any, requests: Sequence[Any]) -> tuple[Example, int]:
        task = self.opened
        choices = task.doc_to_choice(doc)
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        if isinstance(gold, str) and gold in choices:
            gold = choices.index(gold)
        if not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise InputError(
                f"{self.name}: document {requests[0].doc_id} has no one right option: {gold!r:.60}",
                why="an item has one right option",
                remedy="leave the task out",
            )
        # Behind the options come those without their context, where a task asks for them.
        asked = [request.args[:2] for request in requests[: len(choices)]]
        options = [[*asks, text] for asks, text in zip(asked, choices, strict=True)]
        text = " / ".join(choices) if task.multiple_input else task.doc_to_text(doc)
        request = json.dumps({"options": options}, ensure_ascii=False)
        return _example(key, text, label_of(gold), request), len(choices)

    def _written(self, key: str, doc: Any, requests: Sequence[Any]) -> tuple[Example, int]:
        target = self.opened.doc_to_target(doc)
        request = json.dumps({"prompt": requests[0].args[0]}, ensure_ascii=False)
        return _example(key, self.opened.doc_to_text(doc), str(target), request), 0

    @property
    def _is_file(self) -> bool:
        return Path(self.task).suffix in (".yaml", ".yml")

    def _named(self) -> str:
        """Return the name that a task's file gives it."""
        try:
            text = Path(self.task).read_text(encoding="utf-8")
        except OSError as e:
            raise InputError(f"{self.name}: {self.task}: cannot be read ({e.strerror})") from e
        try:
            found = yaml.load(text, Loader=_Anything)
        except yaml.YAMLError as e:
            raise InputError(f"{self.name}: {self.task}: is not YAML ({e})") from e
        name = found.get("task") if isinstance(found, dict) else None
        if not isinstance(name, str):
            raise InputError(
                f"{self.name}: {self.task}: names no task",
                remedy="write `task: NAME` in it; of a group list the tasks one by one",
            )
        return name

    def _require_task(self, name: str, manager: Any) -> None:
        if name in manager.all_subtasks:
            return
        if name in manager.all_tasks:
            raise InputError(
                f"{self.name}: {name} is a group of tasks",
                remedy="list the tasks that you want one by one",
            )
        raise InputError(
            f"{self.name}: lm-evaluation-harness has no task {name}",
            remedy="`lm_eval ls tasks` lists them; or give the path of a task's file",
        )

    def _require_usable(self, task: Any) -> None:
        kind, config = task.OUTPUT_TYPE, task.config
        why = ""
        if kind not in ("multiple_choice", "generate_until"):
            why = f"it is of the type {kind}, whose items have no answer that is right or wrong"
        elif config.doc_to_image or config.doc_to_audio:
            why = "it shows images or plays sounds"
        elif kind == "multiple_choice" and callable(config.process_results):
            why = "it counts choices by a function of its own"
        elif (config.repeats or 1) > 1:
            why = f"it asks every item {config.repeats} times"
        elif getattr(task, "UNSAFE_CODE", False) and os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
            why = "it runs the code that a model writes (unsafe_code); HF_ALLOW_CODE_EVAL is not 1"
        if why:
            raise InputError(
                f"{self.name}: {self.task} is no benchmark of a study",
                why=why,
                remedy="run it with lm_eval and read its log: kdstudy score --lm-eval FILE",
            )


def document_hash(doc: Any) -> str:
    """Return what the harness's logs call `doc_hash`."""
    told = json.dumps(doc, indent=2, default=_plain, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()


def label_of(place: int) -> str:
    """Return what answers call an option: A to Z, then 27 and so on."""
    return string.ascii_uppercase[place] if place < 26 else str(place + 1)


def _graded(
    task: Any, docs: dict[str, Any], item: str, text: str, name: str | None
) -> tuple[str, dict[str, Any], str]:
    """Grade a text as the harness does, alone.

    Args:
        task: The task.
        docs: Its documents, by item.
        item: Which.
        text: What a model wrote.
        name: The filter, None for the task's first.

    Returns:
        What the filter finds, the metrics, and the filter's name.
    """
    from lm_eval.api.instance import Instance

    one = Instance("generate_until", docs[item], (), 0, metadata=(None, None, None))
    one.resps = [text]
    filters = {ensemble.name: ensemble for ensemble in task._filters}
    name = name or next(iter(filters))
    if name not in filters:
        raise InputError(
            f"scoring: harness: the task has no filter {name!r}",
            remedy=f"it has {', '.join(filters)}",
        )
    filters[name].apply([one])
    found = one.filtered_resps[name]
    return str(found), dict(task.process_results(docs[item], [found])), name


def _sources(task: Any) -> list[Path]:
    """Return the Python files in the folders of the functions that grade a task's texts."""
    functions = [type(task).process_results]
    left = [getattr(task.config, key, None) for key in _GRADING]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        elif callable(value):
            functions.append(getattr(value, "func", value))  # of a partial what it calls
    codes = [f.__code__ for f in functions if hasattr(f, "__code__")]
    folders = {Path(code.co_filename).parent for code in codes}
    found = [path for folder in folders for path in folder.glob("*.py")]
    return sorted(found, key=lambda path: (path.name, path.read_bytes()))


def _example(key: str, text: str, answer: str, request: str) -> Example:
    shown = _BELOW.sub("", _ABOVE.sub("", str(text))).strip()
    return Example(id=key, instruction=shown or str(text), answer=answer, request=request)


def _by_document(instances: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield (document, its requests in order)."""
    found: dict[int, list[Any]] = {}
    for instance in instances:
        found.setdefault(instance.doc_id, []).append(instance)
    for requests in found.values():
        yield requests[0].doc, sorted(requests, key=lambda request: request.idx)


def _plain(value: Any) -> Any:
    """Return what JSON has no form for as the harness's logs do."""
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    return list(value) if isinstance(value, set) else str(value)


class _Anything(yaml.SafeLoader):
    """Reads a task's file for its name alone: `!function` and the like are not called."""


_Anything.add_multi_constructor("!", lambda loader, suffix, node: None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the harness's log and its progress bars."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Load as `lm_eval.simple_evaluate` does, and leave random numbers as they were."""
    states: tuple[Callable[[], None], ...] = (
        functools.partial(random.setstate, random.getstate()),
        functools.partial(np.random.set_state, np.random.get_state()),
    )
    random.seed(_SEED)
    np.random.seed(_NUMPY_SEED)
    try:
        yield
    finally:
        for restore in states:
            restore()
