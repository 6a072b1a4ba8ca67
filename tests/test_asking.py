"""Exemplars before items, stop strings, thoughts, and the published filters of GSM8K."""

import dataclasses
import json

import pytest
import tiny_models as tiny
from refusals import call
from study_folder import plan_of, write_folder

from kdstudy import evaluate
from kdstudy.config.refs import BenchmarkRef
from kdstudy.config.schema import Generation as Settings
from kdstudy.config.schema import Study
from kdstudy.data.prompts import PromptFormat, asked, encode_prompt, render
from kdstudy.doctor import text as doctor_text
from kdstudy.errors import InputError
from kdstudy.evaluation.asking import Asking, Endings, Shot, asking, said
from kdstudy.evaluation.benchmarks import from_rows
from kdstudy.evaluation.generate import generate
from kdstudy.evaluation.graders import chosen
from kdstudy.evaluation.graders.filters import filtered
from kdstudy.evaluation.score import score, summary
from kdstudy.measures import MEASURES
from kdstudy.measures.cell import cells_of
from kdstudy.records import Example, Generation, read_records, write_records

SHOTS = (Shot("One and 1?", "It is\n#### 2"), Shot("2 - 2?", "#### 0"))
ITEM = Example(id="i", instruction="What is 2 + 3?", context="Ann has 2.")


@pytest.mark.parametrize(
    ("endings", "text", "wanted"),
    [
        (Endings(stop=("Q:", "\n\n")), "a\n\nQ: b", 1),
        (Endings(stop=("Q:", "\n\n")), "aQ:\n\nb", 1),
        (Endings(stop=("Q:",)), "a q: b", None),
        (Endings(), "aQ:", None),
        (Endings(stop=("Q:",), thinking="</t>"), "Q: x</t> y Q: z", 11),
        (Endings(stop=("Q:",), thinking="</t>"), "Q: never closed", None),
    ],
)
def test_where_a_text_is_cut(endings, text, wanted):
    assert endings.cut(text) == wanted


def test_what_is_said_behind_a_thought():
    assert said("all", "") == "all"
    assert said("a</t> b</t>\n c", "</t>") == "c"
    assert said("a</t>", "</t>") == ""
    assert said("5", "</t>") is None


def test_the_words_of_exemplars_by_hand():
    text = Asking(shots=SHOTS, shots_as="text", question="Question: {question}\nAnswer:").put(ITEM)
    assert text.question == (
        "Question: One and 1?\nAnswer: It is\n#### 2\n\nQuestion: 2 - 2?\nAnswer: #### 0\n\n"
        "Question: What is 2 + 3?\n\nAnn has 2.\nAnswer:"
    )
    turns = Asking(shots=SHOTS[:1]).put(ITEM)
    given, _ = asked(turns)
    assert given["instruction"] == [
        {"role": "user", "content": "One and 1?"},
        {"role": "assistant", "content": "It is\n#### 2"},
        {"role": "user", "content": "What is 2 + 3?\n\nAnn has 2."},
    ]
    shown = render("alpaca", given["instruction"], tokenizer=tiny.tokenizer("#IO"))
    assert shown.count("### Instruction:\n") == 2
    assert "### Response:\nIt is\n#### 2</s>\n\n### Instruction:\nWhat is 2 + 3?" in shown
    assert Asking().put(ITEM) is ITEM


def test_a_bare_text_has_no_prompt_around_it():
    how = Asking(shots=SHOTS, shots_as="bare", question="Q: {question}\nA:")
    tokenizer = tiny.tokenizer("#IOW")
    question, _ = asked(how.put(ITEM))
    ids = encode_prompt(tokenizer, how.format(PromptFormat(template="alpaca")), **question)
    assert tokenizer.decode(ids) == how.put(ITEM).question
    assert how.format(PromptFormat(template="alpaca")).template != "alpaca"
    assert Asking(shots=SHOTS).format(PromptFormat(template="alpaca")).template == "alpaca"


@pytest.mark.parametrize("how", [
    Asking(),
    Asking(shots=SHOTS, shots_as="bare", question="{question}?"),
    Asking(endings=Endings(stop=("a", "b"), thinking="</think>")),
])  # fmt: skip
def test_a_stages_key_holds_all_of_it(how):
    assert Asking.of(json.loads(json.dumps(how.config()))) == how
    assert bool(how.config()) == (how != Asking())


def test_an_exemplar_that_is_a_test_item_is_refused():
    items = from_rows("mine", [{"question": "What is 3 + 4?", "answer": 7}], "number").examples
    Asking(shots=(Shot("What is 4 + 3?", "7"),)).require_apart("mine", items)
    with pytest.raises(InputError, match=r"mine: exemplar 2 is its test item .*: 'what is 3 \+ 4'"):
        Asking(shots=(SHOTS[0], Shot("what is 3 + 4", "7"))).require_apart("mine", items)


# What is generated.

ITEMS = [("toy", Example(id=f"{i}", instruction="what is " + "x" * (i * 7 % 11))) for i in range(9)]
WHOLE = Endings()
DRAWN = Settings(max_new_tokens=40, temperature=1.0, samples=3, seed=5, batch_size=4)


def run(endings=WHOLE, settings=DRAWN, tokenizer=None, items=ITEMS):
    tokenizer = tokenizer or tiny.tokenizer()
    batches = generate(
        tiny.qwen(0, scale=0.7), tokenizer, items, tiny.TEMPLATE, settings, endings=endings
    )
    return {(r.example_id, r.sample): r for batch in batches for r in batch}


@pytest.fixture(scope="module")
def written():
    """Every text's tokens where nothing ends it early, the end of text left out."""
    from kdstudy.evaluation import generate as module

    ids, real = [], module.sample

    def noted(*arguments, **more):
        ids.extend(made := real(*arguments, **more))
        return made

    module.sample = noted
    try:
        rows = run()
    finally:
        module.sample = real
    return {
        key: (text.ids[:-1] if text.stop == "eos" else text.ids, len(text.ids), text.stop)
        for key, text in zip(rows, ids, strict=True)
    }


def shown(ids, mark=None):
    """Return the characters of tokens, one each but for special ones, which have none."""
    names = [*tiny.SPECIAL, *tiny.CHARACTERS]
    return "".join(names[i] for i in ids if i >= len(tiny.SPECIAL) or names[i] == mark)


def by_hand(ids, tokens, stop, stops, mark=None):
    """Return (text, end, tokens, thought) of one text, prefix by prefix."""
    for n in range(1, len(ids) + 1):
        text = shown(ids[:n], mark)
        start = text.find(mark) + len(mark) if mark and mark in text else 0
        hits = [text.index(s, start) for s in stops if text.find(s, start) >= 0]
        if hits and (not mark or mark in text):
            ids, tokens, stop, text = ids[:n], n, "eos", text[: min(hits)]
            break
    else:
        text = shown(ids, mark)
    if not mark:
        return text, stop, tokens, -1
    marks = text.count(mark)
    first = next((n for n in range(len(ids) + 1) if shown(ids[:n], mark).count(mark) == marks), 0)
    return text, stop, tokens, first if marks else tokens


@pytest.mark.parametrize("mark", [None, "b", "?1", "<pad>"])
def test_texts_end_and_are_counted_as_if_cut_by_hand(written, mark):
    """`<pad>` is a special token, which other texts are shown without."""
    stops = ("e", "qa", "\n", "11")
    rows = run(Endings(stop=stops, thinking=mark or ""))
    found = {k: (r.completion, r.stop, r.tokens, r.thought) for k, r in rows.items()}
    assert found == {key: by_hand(*text, stops, mark) for key, text in written.items()}
    early = sum(r.tokens < written[k][1] for k, r in rows.items())
    assert early or mark == "?1"  # which no text has


def test_a_special_token_that_is_a_stop_string_ends_a_text(written):
    """Texts are shown without `<pad>`, and so is what stands before it."""
    rows = run(Endings(stop=("<pad>", "qa")))
    found = {k: (r.completion, r.stop, r.tokens, r.thought) for k, r in rows.items()}
    assert found == {
        key: (text.removesuffix("<pad>"), *more)
        for key, made in written.items()
        for text, *more in [by_special(*made)]
    }
    assert any(r.tokens < written[k][1] for k, r in rows.items())


def by_special(ids, tokens, stop):
    """Return (text, end, tokens, thought) of a text that `<pad>` or "qa" ends."""
    for n in range(1, len(ids) + 1):
        text = shown(ids[:n], "<pad>")
        if text.endswith(("<pad>", "qa")):
            return text.removesuffix("qa"), "eos", n, -1
    return shown(ids), stop, tokens, -1


def test_stop_strings_end_generation_and_not_only_the_text(monkeypatch):
    from kdstudy.evaluation import generate as module

    lengths, real = [], module.sample

    def counted(*arguments, **more):
        texts = real(*arguments, **more)
        lengths.extend(len(t.ids) for t in texts)
        return texts

    monkeypatch.setattr(module, "sample", counted)
    rows = run(Endings(stop=("e", "qa")))
    assert lengths == [r.tokens for r in rows.values()]


def test_texts_that_nothing_ended_are_cut_all_the_same(monkeypatch):
    """As where vLLM writes, or where a stop string is met too late."""
    from kdstudy.evaluation import generate as module

    endings = Endings(stop=("e", "qa"), thinking="1")
    ended = run(endings)
    monkeypatch.setattr(module, "_stopping", lambda tokenizer, endings: None)
    assert run(endings) == ended


def test_batches_change_nothing_of_it():
    endings = Endings(stop=("e", "qa"), thinking="1")
    one = run(endings, DRAWN.model_copy(update={"batch_size": 1}))
    assert one == run(endings) == run(endings, DRAWN.model_copy(update={"batch_size": 64}))


def test_generations_without_thoughts_are_stored_as_before(tmp_path):
    rows = [*run().values()]
    write_records(tmp_path / "a.parquet", rows, Generation)
    assert read_records(tmp_path / "a.parquet", Generation) == rows
    import pyarrow.parquet as pq

    assert "thought" not in pq.read_schema(tmp_path / "a.parquet").names


# What is graded.

GSM = from_rows(
    "mine",
    [
        {"question": "Eggs?", "answer": "She sells 9 of them.\n#### 18"},
        {"question": "Clips?", "answer": "1,080"},
        {"question": "Half?", "answer": "2.5"},
        {"question": "Whole?", "answer": "72.0"},
    ],
    "number",
)
# Texts of one item each with what lm-evaluation-harness 0.4.13 makes of it by its task gsm8k:
# (item, text, right by strict-match, right by flexible-extract).
CASES = [
    (0, "9 * 2 = 18.\n#### 18", 1, 1),
    (0, "9 * 2 = 18.\n#### $18", 0, 1),
    (0, "It is 18.", 0, 1),
    (0, "It is 18. Question 2", 0, 0),
    (0, "#### 18\n\n#### 19", 1, 0),
    (0, "#### 18.", 1, 1),
    (0, "####18", 0, 1),
    (0, "#### 18.0", 0, 0),
    (0, "18 ...", 0, 0),
    (0, "", 0, 0),
    (0, "-18", 0, 0),
    (1, "#### 1,080", 1, 1),
    (1, "#### 1080", 1, 1),
    (1, "$1,080.", 0, 1),
    (1, "1 080", 0, 0),
    (2, "#### 2.5", 1, 1),
    (3, "#### 72", 1, 1),
]


def made(item, text, **more):
    fields = {"stop": "eos", "tokens": 7} | more
    where = {"benchmark": "mine", "example_id": GSM.examples[item].id, "sample": 0}
    return Generation(**where, completion=text, **fields)


def graded(item, text, scoring="number", rule="corrected", thinking="", **more):
    one = dataclasses.replace(GSM, examples=(GSM.examples[item],))
    grader = chosen(scoring, "mine", "number", ())
    (found,) = score([made(item, text, **more)], one, rule, grader=grader, thinking=thinking)
    return found


@pytest.mark.parametrize(("item", "text", "strict", "flexible"), CASES)
def test_both_filters_say_what_the_harness_says(item, text, strict, flexible):
    found = [graded(item, text, name) for name in ("strict", "flexible")]
    assert [s.quality for s in found] == [strict, flexible]
    assert [s.by_filter[1:] for s in found] == 2 * [(strict, flexible)]
    own = graded(item, text).outcome == "correct"
    assert {s.by_filter[0] for s in found} == {own}
    assert [s.rule for s in found] == ["number-strict", "number-flexible"]


@pytest.mark.parametrize(("item", "text", "strict", "flexible"), CASES)
def test_the_harness_itself_says_so(item, text, strict, flexible):
    pytest.importorskip(
        "lm_eval", reason="lm_eval is not installed: pip install 'kdstudy[harness]'"
    )
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    last = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    filters = [(strict, RegexFilter(r"#### (\-?[0-9\.\,]+)")), (flexible, last)]
    gold = ["18", "1080", "2.5", "72"][item]
    for wanted, one in filters:
        ((answer,),) = one.apply([[text]], [{}])
        found = exact_match_hf_evaluate(
            [answer], [f"so\n#### {gold}"], [",", r"\$", r"(?s).*#### ", r"\.$"], ignore_case=True
        )
        assert found["exact_match"] == wanted


def test_a_filter_that_finds_nothing_leaves_an_item_without_an_answer():
    assert graded(0, "It is 18.", "strict").outcome == "unparsed"
    assert filtered("...", "flexible") == ".."
    # As published, a text that was cut is graded all the same; kdstudy's own reading is not so.
    cut = graded(0, "Then 18", "flexible", stop="length")
    assert (cut.outcome, cut.by_filter) == ("correct", (0, 0, 1))
    assert graded(0, "Then 18", "strict", stop="length").outcome == "truncated"


def test_a_thought_is_no_answer_and_without_an_end_there_is_none():
    text = "Is it 17? No.</think>\n\nThe answer is 18."
    found = graded(0, text, thinking="</think>", thought=9)
    assert (found.outcome, found.extracted, found.thought) == ("correct", "18", 9)
    open_ended = "The answer is 18. But wait"
    assert graded(0, open_ended).outcome == "correct"
    assert graded(0, open_ended, thinking="</think>").outcome == "unparsed"
    cut = graded(0, open_ended, thinking="</think>", stop="length")
    assert (cut.outcome, cut.extracted) == ("truncated", "")
    for name in ("strict", "flexible"):
        assert graded(0, "#### 18", name, thinking="</think>").by_filter == (0, 0, 0)
    words = from_rows("mine", [{"question": "Say", "references": ["a cat"]}], "text")
    row = dataclasses.replace(made(0, "so a dog</think> a cat"), example_id=words.examples[0].id)
    assert [score([row], words, "corrected", thinking=m)[0].quality for m in ("", "</think>")] == [
        pytest.approx(0.5), 1.0,
    ]  # fmt: skip


def test_measures_and_summaries_of_filters_and_thoughts():
    texts = ["#### 18", "1080", "none", "72"]
    rows = [made(i, text, thought=i) for i, text in enumerate(texts)]
    scores = score(rows, GSM, "corrected", grader=chosen("strict", "mine", "number", ()))
    (cell,) = cells_of("x", scores).values()
    wanted = {"own_match": 0.75, "strict_match": 0.25, "flexible_extract": 0.75}
    for name, value in (wanted | {"accuracy": 0.25, "thought_tokens": 1.5}).items():
        assert MEASURES[name].defined_on(cell)
        assert MEASURES[name].per_item(cell).mean() == pytest.approx(value)
    found = summary(scores)
    assert found["by_filter"] == {"number": 0.75, "strict": 0.25, "flexible": 0.75}
    assert found["thought_tokens"] == 1.5
    usual = score([made(i, text) for i, text in enumerate(texts)], GSM, "corrected")
    (cell,) = cells_of("x", usual).values()
    assert not any(MEASURES[name].defined_on(cell) for name in (*wanted, "thought_tokens"))
    assert not summary(usual).keys() & {"by_filter", "thought_tokens"}


# Where exemplars are from, and what a study may not say.


def ref(**fields):
    return BenchmarkRef.model_validate({"name": "synth_addsub"} | fields)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_exemplars_are_the_first_rows_of_a_file_in_any_form(tmp_path):
    rows = [
        {"question": "A?", "answer": "so\n#### 1"},
        {"instruction": "B?", "input": "Of c.", "output": "b", "answer": "9"},
        {"messages": [{"role": "user", "content": "D?"}, {"role": "assistant", "content": "d"}]},
        {"prompt": "E?", "completion": "e"},
    ]
    lines(tmp_path / "rows.jsonl", rows)
    found = asking(ref(shots=3, exemplars="rows.jsonl", stop=["Q:"], thinking=True), tmp_path)
    assert found.shots == (("A?", "so\n#### 1"), ("B?\n\nOf c.", "b"), ("D?", "d"))
    assert found.endings == Endings(stop=("Q:",), thinking="</think>")
    assert found.question == "{question}"
    assert asking(ref(shots=1, exemplars="rows.jsonl", shots_as="bare"), tmp_path).question == (
        "Question: {question}\nAnswer:"
    )


def test_synthetic_sets_have_training_rows_of_their_own():
    from kdstudy.data.synthetic import split_of

    found = asking(ref(shots=5))
    assert found.shots == asking(ref(shots=5)).shots
    assert {split_of(shot.question) for shot in found.shots} == {"train"}
    assert all(shot.answer for shot in found.shots)


def test_the_data_folder_has_training_rows_beside_a_sets_file(tmp_path):
    folder = tmp_path / "math" / "gsm8k"
    folder.mkdir(parents=True)
    (folder / "test.json").write_text('[{"instruction": "T?", "answer": "1"}]')
    with pytest.raises(InputError, match="gsm8k: shots: no training rows are at hand"):
        asking(ref(name="gsm8k", shots=1), data_dir=tmp_path)
    lines(folder / "train.jsonl", [{"question": "A?", "answer": "#### 1"}])
    assert asking(ref(name="GSM-8k", shots=1), data_dir=tmp_path).shots == (("A?", "#### 1"),)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{"question": "A?", "answer": "1"}], r"synth_addsub: shots: 2, and .* has 1 exemplars"),
        ([{"text": "A?"}], "is no exemplar, which has one question and its answer"),
        ([{"messages": [{"role": r, "content": r} for r in 2 * ["user", "assistant"]]}],
         "is no exemplar"),
        ([{"question": "A?", "answer": ""}], r"line 1: .*(empty|no text)"),
        ([{"x": 1}], "line 1"),
    ],
)  # fmt: skip
def test_exemplars_that_are_none_are_refused(tmp_path, rows, wanted):
    path = lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=wanted):
        asking(ref(shots=2, exemplars=path))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"exemplars": "rows.jsonl"}, "exemplars is of few-shot prompts; give shots as well"),
        ({"shots_as": "text"}, "shots_as is of few-shot prompts"),
        ({"question": "Q: {question}"}, "question is of few-shot prompts"),
        ({"shots": 2, "question": "Q:"}, "has no {question}"),
        ({"shots": -1}, "greater than or equal to 0"),
        ({"shots": 0, "exemplars": "x.jsonl"}, "exemplars is of few-shot prompts"),
        ({"stop": [""]}, "at least 1 character"),
        ({"thinking": ""}, "at least 1 character"),
        ({"name": "arc_e", "scoring": "likelihood", "shots": 2}, "shots is of generated answers"),
        ({"name": "arc_e", "scoring": {"type": "likelihood"}, "stop": ["a"]}, "stop is of gener"),
        ({"name": "m", "path": "t.jsonl", "kind": "number", "shots": 2}, "need exemplars"),
    ],
)
def test_a_benchmark_that_contradicts_itself_is_refused(fields, wanted):
    with pytest.raises(ValueError, match=wanted):
        ref(**fields)


def test_a_study_plans_it_and_only_its_own_stages_change(tmp_path):
    write_folder(tmp_path)
    lines(tmp_path / "shots.jsonl", [{"question": f"What is {i}?", "answer": "1"} for i in (1, 2)])
    few = {"name": "synth_addsub", "shots": 2, "exemplars": "shots.jsonl", "stop": ["Q:"]}
    plain = plan_of(tmp_path, ablations={})
    more = plan_of(tmp_path, ablations={}, benchmarks=[few, "synth_multiarith"])
    thinks = plan_of(tmp_path, ablations={}, benchmarks=[few | {"thinking": True}, "synth_svamp"])
    kinds = {s.kind for k, s in more.stages.items() if k not in plain.stages}
    assert kinds == {"generate", "prompts", "score", "compare", "results", "report"}
    written = [s for k, s in more.stages.items() if s.kind == "generate" and k not in plain.stages]
    assert {s.config["items"] for s in written} == {"synth_addsub"}
    assert Asking.of(written[0].config["asking"]).shots == (
        ("What is 1?", "1"),
        ("What is 2?", "1"),
    )
    marks = [s.config.get("thinking") for s in thinks.stages.values() if s.kind == "score"]
    assert marks and all(mark == {"synth_addsub": "</think>"} for mark in marks)


def test_doctor_counts_prompts_with_their_exemplars():
    """One token is one character."""
    tokenizer = tiny.tokenizer("".join(map(chr, range(33, 127))))
    items = [ITEM, Example(id="j", instruction="x", request=json.dumps({"options": [
        ["one", " a", "a"], ["two", " longer", "longer"]]}))]  # fmt: skip
    study = Study(name="s", students=["zoo-xs"], corpus="synthetic", methods=["sft"],
                  benchmarks=["synth_addsub"], template="Q: {instruction}\nA: ")  # fmt: skip
    how = Asking(shots=SHOTS, shots_as="text", question="{question}")
    told = {"plain": items[:1], "few": items[:1], "options": items[1:]}
    found = doctor_text.read(study, tokenizer, ["m"], [], told, {}, {"few": how})
    before = sum(len(f"{q} {a}\n\n") for q, a in SHOTS)
    assert found.prompts["few"][0] == found.prompts["plain"][0] + before
    assert found.prompts["options"] == (len("two longer"),)


def test_a_study_with_a_test_item_among_its_exemplars_is_not_planned(tmp_path):
    write_folder(tmp_path)
    rows = [{"question": "What is 1 + 1?", "answer": "2"}]
    lines(tmp_path / "test.jsonl", rows)
    own = {"name": "own", "path": "test.jsonl", "kind": "number", "exemplars": "test.jsonl"}
    with pytest.raises(InputError, match="own: exemplar 1 is its test item"):
        plan_of(tmp_path, benchmarks=[own | {"shots": 1}], ablations={})
    with pytest.raises(InputError, match="template has no place for shots_as: turns"):
        plan_of(tmp_path, benchmarks=[{"name": "synth_addsub", "shots": 1}], ablations={},
                template="Q: {instruction}")  # fmt: skip


# End to end.


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The smallest model's answers in five shots, by name and loaded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kdstudy.models import zoo

    few = {"name": "synth_addsub", "shots": 3, "stop": ["\n", "Question:"], "scoring": "flexible"}
    few |= {"shots_as": "bare"}
    more = {"limit": 6, "max_new_tokens": 40}
    named = evaluate("zoo-xs", few, store=tmp_path_factory.mktemp("store"), **more)
    folder = zoo.path("zoo-xs")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    return named, evaluate(loaded, few, tokenizer=AutoTokenizer.from_pretrained(folder), **more)


def test_a_model_by_name_and_a_loaded_one_answer_alike(found):
    named, loaded = found
    assert named.metrics["synth_addsub"] == loaded.metrics["synth_addsub"]
    assert [*named.items.completion] == [*loaded.items.completion]
    assert not named.items.completion.str.contains("\n").any()
    assert named.metrics["synth_addsub"]["rule"] == "number-flexible"
    assert {*named.metrics["synth_addsub"]["by_filter"]} == {"number", "strict", "flexible"}


def test_verbs_take_it_as_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "sums.jsonl", [{"question": "2 + 2?", "answer": 4}])
    text = "Well, 5?</think> It is 4.\nQuestion: 7"
    lines(tmp_path / "said.jsonl", [{"question": "2 + 2?", "completion": text, "stop": "length"}])
    asked = ("score", "--benchmark", "sums.jsonl", "--kind", "number", "--generations",
             "said.jsonl", "--json", "--scoring", "flexible")  # fmt: skip
    plain = json.loads(call(*asked).out)
    cut = json.loads(call(*asked, "--stop", "Question:", "--thinking", "</think>").out)
    assert (plain["accuracy"], cut["accuracy"]) == (0.0, 1.0)
    assert cut["by_filter"] == {"number": 1.0, "strict": 0.0, "flexible": 1.0}
    assert (plain["truncated_rate"], cut["truncated_rate"]) == (0.0, 0.0)
    printed = call(*asked[:-3], "--scoring", "strict", "--stop", "Question:").out
    assert "by filter   number 100.0%, strict 0.0%, flexible 100.0%" in printed
    said = call("eval", "--model", "zoo-xs", "--benchmark", "synth_addsub", "--shots", "2",
                "--shots-as", "bare", "--stop", "\n", "--limit", "2", "--max-new-tokens", "20",
                "--store", tmp_path / "store", "--scoring", "strict")  # fmt: skip
    assert said.code == 0 and "flexible" in said.out
    refused = call("eval", "--model", "zoo-xs", "--benchmark", "synth_addsub", "--shots-as", "text")
    assert refused.code == 2 and "give shots as well" in refused.err
