"""Files of completions, however they were made, as rows of one form.

A file holds one JSON object per line, or a JSON list of such objects, or is a Parquet file of
kdstudy's own `Generation` rows. Fields of an object:

- what was asked: `id` (or `example_id`, `custom_id`: the benchmark's `Example.id`), or `question`
  (or `prompt`, or `instruction` with `input`: the question's text);
- what was answered: `completion`, or one of `text`, `output` and `response` when no other field
  could be meant;
- optionally `sample` (number of the draw), `stop` or `finish_reason` ("length": the token budget
  ended the text), `tokens`, and `benchmark`.

Where choices by likelihood are graded a row has `logprobs` in place of the completion, a number for
each option in the item's order; or the file is a Parquet file of `OptionLikelihoods`.

Also taken are chat rows (`messages`: the last user's and the last assistant's) and answers of
OpenAI-compatible servers (`choices`, alone or inside a batch's `response.body`).
"""

import codecs
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks
from kdstudy.records import Generation, OptionLikelihoods, read_records

_IDS = ("example_id", "custom_id", "id")
_ALIASES = ("text", "output", "response")
# With one of these beside it, an alias may hold something else than the completion.
_RIVALS = (
    *_ALIASES,
    *("completions", "generation", "generated", "generated_text", "model_output", "output_pred"),
    *("prediction", "predicted", "pred", "answer_text", "model_answer", "resps", "outputs"),
)
_CUT = {"length", "max_tokens", "max_output_tokens"}
_ENDED = {"stop", "eos", "end_turn", "stop_sequence", "content_filter", "tool_calls"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion as its file states it; `where` names file and line."""

    where: str
    ids: tuple[str, ...]
    question: str
    completion: str
    sample: int
    stop: Literal["eos", "length", ""]
    tokens: int
    logprobs: tuple[float, ...] = ()
    thought: int = -1


def answers(path: Path, benchmark: str, *, options: bool = False) -> Iterator[Answer]:
    """Yield a file's rows in order.

    Args:
        path: The file.
        benchmark: Registered name of the benchmark that rows must be of, where they state one.
        options: Rows are log-probabilities of options, and no texts.

    Raises:
        InputError: The file cannot be read, or a row is malformed or of another benchmark; its line
            is named.
    """
    if options:
        yield from _likelihoods(path, benchmark)
        return
    if path.suffix.lower() == ".parquet":
        for i, g in enumerate(read_records(path, Generation), start=1):
            where = f"{path}, row {i}"
            _check_benchmark(g.benchmark, benchmark, where)
            raw = dataclasses.asdict(g)
            sample, tokens = (_count(raw, field, where) for field in ("sample", "tokens"))
            ids, stop = (g.example_id,), _stop(raw, where)
            yield Answer(where, ids, "", g.completion, sample, stop, tokens, thought=g.thought)
        return
    for where, given in objects(path):
        for raw in _plain(given, where):
            _check_benchmark(raw.get("benchmark"), benchmark, where)
            yield _row(raw, where)


def _likelihoods(path: Path, benchmark: str) -> Iterator[Answer]:
    if path.suffix.lower() == ".parquet":
        for i, row in enumerate(read_records(path, OptionLikelihoods), start=1):
            _check_benchmark(row.benchmark, benchmark, f"{path}, row {i}")
            ids = (row.example_id,)
            yield Answer(f"{path}, row {i}", ids, "", "", row.sample, "eos", 0, row.logprobs)
        return
    for where, raw in objects(path):
        _check_benchmark(raw.get("benchmark"), benchmark, where)
        found = raw.get("logprobs")
        usable = isinstance(found, list) and all(map(_is_logprob, found))
        if not usable or not found:
            raise InputError(
                f'{where}: has no "logprobs", a number of 0 or less for each option',
                why="choices by likelihood are graded by them",
                remedy="give them, or leave --scoring likelihood out for completions",
            )
        yield _row({**raw, "completion": "", "stop": "stop"}, where, tuple(map(float, found)))


def _is_logprob(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value <= 0


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, object) of JSON Lines or of a JSON list.

    Raises:
        InputError: The file cannot be read, or a line is no JSON object.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        text = data.decode()
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise InputError(
            f"{path}, line {line}: is not UTF-8 text ({e.reason})", remedy="save it as UTF-8"
        ) from e
    if text.lstrip()[:1] == "[":
        rows = [(f"{path}, row {i}", row) for i, row in enumerate(_json(text, str(path), 0), 1)]
    else:
        # Not splitlines(): that also cuts at U+2028 and others, which JSON strings may hold.
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = ((f"{path}, line {i}", _json(line, str(path), i)) for i, line in lines)
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: is not a JSON object")
        yield where, row


def _json(text: str, path: str, line: int) -> Any:
    """Return parsed JSON; `line` is the text's place in the file, 0 for a whole file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise InputError(
            f"{path}, line {line or e.lineno}: is not JSON ({e.msg})",
            remedy="give one JSON object per line, or a JSON list of objects",
        ) from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}, line {line or 1}: is JSON that cannot be read ({e})") from e


def _plain(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the row, or what a chat row or a server's answer amounts to."""
    try:
        if "messages" in row and "completion" not in row:
            return [_from_chat(row)]
        body = _server_answer(row)
        if body is None:
            return [row]
        kept = {k: v for k, v in row.items() if k not in ("response", "choices", "usage")}
        return [{**kept, **_choice(choice, body)} for choice in body["choices"]]
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"{where}: is no chat row and no server's answer ({type(e).__name__}: {e})",
            remedy='give {"id" or "question", "completion"}; leave a row out that failed, and its '
            "item counts as missing",
        ) from e


def _from_chat(row: dict[str, Any]) -> dict[str, Any]:
    said = {m["role"]: _content(m["content"]) for m in row["messages"]}
    names = {"user": "question", "assistant": "completion"}
    return {**{names[role]: text for role, text in said.items() if role in names}, **row}


def _server_answer(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the part of a row that holds `choices`; None when it is a row of ours."""
    if "choices" in row:
        return row
    answer = row.get("response")
    if isinstance(answer, dict):
        return answer.get("body", answer)
    # A batch's row that failed has null where the answer would be.
    return {} if answer is None and "error" in row and "completion" not in row else None


def _choice(choice: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return one of a server's answers as fields; several to one question are samples."""
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    found = {"completion": _content(message["content"]), "stop": choice.get("finish_reason")}
    if len(body["choices"]) > 1:
        return {**found, "sample": choice["index"]}
    return {**found, "tokens": (body.get("usage") or {}).get("completion_tokens", 0)}


def _content(content: Any) -> str:
    """Return a message's text; a refusal or a tool call has none."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    return content or ""


def _row(raw: dict[str, Any], where: str, logprobs: tuple[float, ...] = ()) -> Answer:
    ids = tuple(str(raw[f]) for f in _IDS if isinstance(raw.get(f), str | int))
    question = _question(raw)
    if not ids and not question:
        raise InputError(
            f"{where}: says neither which item it answers nor its question; it has the fields "
            f"{', '.join(raw) or '(none)'}",
            remedy='give "id" or "question"',
        )
    return Answer(
        where,
        ids,
        question,
        _completion(raw, where),
        _count(raw, "sample", where),
        _stop(raw, where),
        _count(raw, "tokens", where),
        logprobs,
    )


def _question(raw: dict[str, Any]) -> str:
    for field in ("question", "instruction", "prompt"):
        asked = raw.get(field)
        if isinstance(asked, str) and asked.strip():
            extra = raw.get("input") if field == "instruction" else None
            return f"{asked.strip()}\n\n{extra.strip()}" if isinstance(extra, str) else asked
    return ""


def _completion(raw: dict[str, Any], where: str) -> str:
    fields = ["completion"] if "completion" in raw else [f for f in _RIVALS if f in raw]
    if len(fields) != 1 or fields[0] not in ("completion", *_ALIASES):
        problem = f"any of {', '.join(fields)} may be the" if fields else "has no"
        raise InputError(
            f"{where}: {problem} completion", remedy='name the field with the text "completion"'
        )
    text = raw[fields[0]]
    if not isinstance(text, str):
        raise InputError(f'{where}: "{fields[0]}" is not a text')
    # Texts cut in the middle of a character hold half of a surrogate pair, which no file can.
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(raw: dict[str, Any], field: str, where: str) -> int:
    number = raw.get(field)
    if number is None:
        return 0
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
        raise InputError(f'{where}: "{field}" is {number!r}, not a whole number from 0')
    return number


def _stop(raw: dict[str, Any], where: str) -> Literal["eos", "length", ""]:
    given = raw.get("finish_reason") if raw.get("stop") is None else raw["stop"]
    if given is None:
        return ""
    word = given.casefold() if isinstance(given, str) else ""
    if word not in _CUT | _ENDED:
        raise InputError(
            f'{where}: "stop" is {str(given)[:40]!r}, which does not say how the text ended',
            remedy='write "length" where the token budget ended it and "stop" elsewhere',
        )
    return "length" if word in _CUT else "eos"


def _check_benchmark(stated: Any, benchmark: str, where: str) -> None:
    if stated is None:
        return
    try:
        name = benchmarks.canonical(str(stated))
    except InputError:
        name = str(stated)
    if name != benchmark:
        raise InputError(
            f"{where}: is of the benchmark {name}, not of {benchmark}",
            remedy="score one benchmark at a time, each with its own file",
        )
