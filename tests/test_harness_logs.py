"""Sample logs of lm-evaluation-harness: read as scores, and refused where they do not match."""

import hashlib
import json

import pytest
from refusals import call

from kdstudy import compare, evaluate
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.harness import document_hash
from kdstudy.evaluation.harness_logs import read_log, require_same_documents
from kdstudy.records import Score, read_records


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def sample(number, right, *, question=None, target="7", filter_="strict-match", said="#### 7",
           found="7", **more):  # fmt: skip
    """A row of a task that has texts written, as 0.4.13 writes it."""
    doc = {"question": question or f"Question {number} é?", "answer": target}
    prompt = f"Question: {doc['question']}\nAnswer:"
    told = json.dumps(doc, indent=2, ensure_ascii=False)
    row = {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["Question:"]}}},
        "resps": [[said]],
        "filtered_resps": [found],
        "filter": filter_,
        "metrics": ["exact_match"],
        "doc_hash": sha(told),
        "prompt_hash": sha(prompt),
        "target_hash": sha(target),
        "exact_match": float(right),
    }
    return row | more


def choice(number, logprobs, right, *, norm=None, target=1, texts=(" a", " bcde", " f"), **more):
    """A row of a task that chooses by likelihood."""
    row = sample(number, right, target=str(target), filter_="none")
    del row["exact_match"]
    arguments = {f"gen_args_{i}": {"arg_0": "Q", "arg_1": text} for i, text in enumerate(texts)}
    filtered = [[str(value), "False"] for value in logprobs]
    norm = float(right if norm is None else norm)
    both = {"acc": float(right), "acc_norm": norm, "metrics": ["acc", "acc_norm"]}
    both |= {"arguments": arguments, "filtered_resps": filtered, "prompt_hash": sha("Q")}
    return row | both | more


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_a_log_of_texts_by_hand(tmp_path):
    rows = [
        sample(1, 0, said="", found="[invalid]"),
        sample(0, 1),
        sample(2, 0, said="so 8", found="8"),
        *(sample(i, 1, filter_="flexible-extract") for i in range(3)),
    ]
    path = write(tmp_path / "samples_gsm8k_2026-01-02T03-04-05.678901.jsonl", rows)
    log = read_log(path)
    assert log.benchmark == "harness-gsm8k"
    assert [s.outcome for s in log.scores] == ["correct", "unparsed", "wrong"]
    assert [s.extracted for s in log.scores] == ["7", "", "8"]
    assert [s.example_id for s in log.scores] == [
        document_hash(row["doc"])[:16] for row in sorted(rows[:3], key=lambda r: r["doc_id"])
    ]
    assert {s.rule for s in log.scores} == {"harness-exact_match,strict-match"}
    assert log.others == ("exact_match,flexible-extract",)
    flexible = read_log(path, name="flexible-extract")
    assert [s.quality for s in flexible.scores] == [1.0, 1.0, 1.0]


def test_a_log_of_choices_by_hand(tmp_path):
    """Lengths 1, 4 and 1: per character -3, -1/4, -2; then -1, -3/4, -3."""
    rows = [choice(0, [-3, -1, -2], 1), choice(1, [-1, -3, -3], 0, norm=1)]
    path = write(tmp_path / "mine.jsonl", rows)
    log = read_log(path)
    assert log.benchmark == "harness-mine"
    assert [(s.extracted, s.completion, s.quality) for s in log.scores] == [
        ("B", "bcde", 1.0),
        ("A", "a", 0.0),
    ]
    assert {s.rule for s in log.scores} == {"choice-likelihood"}
    assert {(s.option_characters, s.target) for s in log.scores} == {((1, 4, 1), 1)}
    normed = read_log(path, "acc_norm").scores
    assert {s.rule for s in normed} == {"harness-acc_norm,none"}
    assert [(s.extracted, s.outcome) for s in normed] == [("B", "correct")] * 2


@pytest.mark.parametrize(
    "row",
    [
        choice(0, [-1, -3, -3], 0, norm=0),  # the lengths are not those of the task
        choice(0, [-3, -1], 1, texts=(" same", " same")),  # contexts are the options
        choice(0, [-3, -1, -2], 1, target="[0, 1]"),
    ],
)
def test_choices_that_a_log_does_not_tell_are_left_open(tmp_path, row):
    path = write(tmp_path / "mine.jsonl", [choice(1, [-3, -1, -2], 1), row])
    assert [bool(s.extracted) for s in read_log(path, "acc").scores] == [True, True]
    normed = read_log(path, "acc_norm").scores
    assert {(s.extracted, s.option_logprobs, s.target) for s in normed} == {("", (), -1)}
    assert [s.outcome == "correct" for s in normed] == [bool(row["acc_norm"]), True]


def test_options_without_their_context_are_no_options(tmp_path):
    texts = (" a", " bcde", " f") * 2
    more = {"acc_mutual_info": 0.0, "metrics": ["acc", "acc_norm", "acc_mutual_info"]}
    row = choice(0, [-3, -1, -2, -9, -0.5, -9], 1, texts=texts, **more)
    (score,) = read_log(write(tmp_path / "mine.jsonl", [row])).scores
    assert (score.extracted, score.option_logprobs) == ("B", (-3, -1, -2))
    (score,) = read_log(tmp_path / "mine.jsonl", "acc_mutual_info").scores
    assert (score.extracted, score.outcome) == ("", "wrong")


def test_two_logs_of_choices_agree_by_their_metric(tmp_path, monkeypatch):
    """By `acc` they choose A and C, both wrong; by `acc_norm` both choose B."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [choice(i, [-1, -3, -3], 0, norm=1) for i in range(3)])
    write(tmp_path / "b.jsonl", [choice(i, [-3, -3, -1], 0, norm=1) for i in range(3)])
    both = ("score", "--lm-eval", "a.jsonl", "--against", "b.jsonl")
    for metric, rate in (("acc", 0), ("acc_norm", 1)):
        found = json.loads(call(*both, "--metric", metric, "--json").out)
        assert (found["agreement"]["rate"], found["fidelity"]) == (rate, None)
    assert "BLEU" not in call(*both).out
    write(tmp_path / "b.jsonl", [choice(i, [-3, -3, -1], 0) for i in range(3)])
    done = call(*both, "--metric", "acc_norm", "--out", "out")
    assert "agreement" not in done.out and "do not tell which options" in done.err
    assert not (tmp_path / "out" / "pairs.parquet").exists()


def test_one_document_under_two_numbers_is_two_items(tmp_path):
    path = write(tmp_path / "a.jsonl", [sample(i, 1, question="Same?") for i in range(2)])
    first, second = (s.example_id for s in read_log(path).scores)
    assert second == f"{first}-2"


def test_logs_of_older_versions_have_no_hashes(tmp_path):
    row = sample(0, 1)
    old = {k: v for k, v in row.items() if not k.endswith("_hash")}
    del old["filter"], old["metrics"]
    old["arguments"] = [["Question: Question 0 é?\nAnswer:", {}]]
    new, old = (read_log(write(tmp_path / f"{i}.jsonl", [r])) for i, r in enumerate((row, old)))
    assert new.documents == old.documents and new.prompts == old.prompts
    assert old.scores[0].rule == "harness-exact_match,none"


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([], "holds no samples"),
        ([{"question": "x", "completion": "y"}], "line 1: is no sample.*it has no doc_id"),
        ([sample(0, 1, doc_id="0")], "is no sample of lm-evaluation-harness"),
        ([sample(0, 1, metrics=[])], "is no sample of lm-evaluation-harness"),
        ([sample(0, 1) | {"doc": {"question": "other"}}], "doc_hash is not that of its doc"),
        ([sample(0, 1) | {"target": "8"}], "target_hash is not that of its target"),
        ([sample(0, 1), sample(1, 1) | {"arguments": {"gen_args_0": {"arg_0": "x"}}}],
         "line 2: prompt_hash is not that of its prompt"),
        ([sample(0, 1), sample(0, 1)], "line 2: document 0 is there twice"),
        ([sample(0, 0.5)], r"its exact_match is 0\.5, neither 0 nor 1"),
        ([sample(0, 1) | {"exact_match": None}], "its exact_match is None"),
        ([sample(0, 1) | {"arguments": {}}], "its arguments are none of a request"),
        ([sample(0, 1) | {"arguments": 3}], "its arguments are none of a request"),
    ],
)  # fmt: skip
def test_what_is_no_log_or_was_changed_is_refused(tmp_path, rows, wanted):
    with pytest.raises(InputError, match=wanted):
        read_log(write(tmp_path / "a.jsonl", rows))


def test_names_that_a_log_does_not_have_are_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [sample(0, 1)])
    with pytest.raises(InputError, match="has no filter 'none'"):
        read_log(path, name="none")
    with pytest.raises(InputError, match="its bleu is None"):
        read_log(path, "bleu")


def test_two_logs_are_paired_by_documents_that_are_the_same(tmp_path):
    one = read_log(write(tmp_path / "a.jsonl", [sample(i, 1) for i in range(3)]))
    prompt = {"gen_args_0": {"arg_0": "other"}}
    same = [sample(i, 0, arguments=prompt, prompt_hash=sha("other")) for i in range(1, 4)]
    assert require_same_documents(one, read_log(write(tmp_path / "b.jsonl", same))) == 2
    moved = [sample(0, 1), *(sample(i, 1, question=f"Shifted {i}") for i in (1, 2))]
    with pytest.raises(InputError, match="2 of 3 documents with one number are not the same, the"):
        require_same_documents(one, read_log(write(tmp_path / "c.jsonl", moved)))
    golds = [sample(0, 1, target="8")]
    with pytest.raises(InputError, match="1 of 1 documents"):
        require_same_documents(one, read_log(write(tmp_path / "d.jsonl", golds)))
    far = read_log(write(tmp_path / "e.jsonl", [sample(9, 1)]))
    with pytest.raises(InputError, match="have no document in common"):
        require_same_documents(one, far)


def test_the_verb_scores_and_pairs_logs(tmp_path, monkeypatch):
    """Of eight documents one is right on six, the other on two of these: McNemar of 4 and 0."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [sample(i, i < 6) for i in range(8)])
    write(tmp_path / "b.jsonl", [sample(i, i < 2, found="8") for i in range(8)])
    done = call("score", "--lm-eval", "a.jsonl", "--against", "b.jsonl", "--json", "--out", "out")
    found = json.loads(done.out)
    assert (found["accuracy"], found["against"]["accuracy"]) == (0.75, 0.25)
    assert (found["items"], found["of"], found["compared"]) == (8, 8, 8)
    assert found["difference"]["estimate"] == pytest.approx(0.5)
    assert found["difference"]["p"] == pytest.approx(2 * 0.5**4)
    rows = read_records(tmp_path / "out" / "scores.parquet", Score)
    assert [r.quality for r in rows] == [1.0] * 6 + [0.0] * 2
    assert {r.benchmark for r in rows} == {"harness-a"}
    said = call("score", "--lm-eval", "a.jsonl", "--against", "b.jsonl").out
    assert "harness-a, 8 items, rule exact_match,strict-match" in said
    assert "accuracy    75.0%" in said


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (("--scoring", "strict"), "--scoring: is of texts to grade, and --lm-eval has samples"),
        (("--stop", "x"), "--stop: is of texts"),
        (("--thinking", "x"), "--thinking: is of texts"),
        (("--generations", "a.jsonl"), "--generations: is of texts"),
        (("--benchmark", "synth_addsub"), "8 of 8 documents are no items of synth_addsub"),
        (("--filter", "x"), "has no filter 'x'"),
    ],
)
def test_what_is_not_of_logs_is_refused(tmp_path, monkeypatch, more, wanted):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [sample(i, 1) for i in range(8)])
    done = call("score", "--lm-eval", "a.jsonl", *more)
    assert done.code == 2 and wanted in done.err.replace("\n", " ").replace("   ", " ")


def test_a_call_that_names_no_file_is_refused():
    assert "Missing option '--generations'" in call("score", "--benchmark", "synth_addsub").err
    assert "are of --lm-eval" in call("score", "--filter", "x", "--generations", "y").err


def test_a_log_that_the_harness_wrote_pairs_with_the_tasks_items(tmp_path):
    pytest.importorskip("lm_eval", reason="lm_eval is not here: pip install 'kdstudy[harness]'")
    import harness_tasks as tasks
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from kdstudy.evaluation.benchmarks.harness import HarnessTask
    from kdstudy.models import zoo

    tasks.write(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    model = HFLM(pretrained=str(zoo.path("zoo-xs")), dtype="float32", device="cpu")
    for name in ("few", "sums", "blanks"):
        tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
        found = lm_eval.simple_evaluate(
            model=model, tasks=[f"kdstudy_{name}"], task_manager=manager, log_samples=True,
            bootstrap_iters=0, evaluation_tracker=tracker,
        )  # fmt: skip
        samples = found["samples"][f"kdstudy_{name}"]
        results = {k: v for k, v in found["results"][f"kdstudy_{name}"].items() if "," in str(k)}
        tracker.date_id = "2026-01-02T03-04-05.678901"
        tracker.general_config_tracker.model_name_sanitized = "m"
        tracker.save_results_samples(f"kdstudy_{name}", samples)
        (path,) = (tmp_path / "out").rglob(f"samples_kdstudy_{name}_*.jsonl")
        log = read_log(path)
        assert log.benchmark == f"harness-kdstudy_{name}"
        items = HarnessTask(name, str(tmp_path / f"{name}.yaml")).load(None).examples
        assert {s.example_id for s in log.scores} == {e.id for e in items}
        metric = "acc,none" if name != "sums" else "exact_match,last"
        mean = sum(s.quality for s in log.scores) / len(log.scores)
        assert mean == pytest.approx(results[metric])
        done = call("score", "--lm-eval", path, "--benchmark", tmp_path / f"{name}.yaml", "--out",
                    tmp_path / name)  # fmt: skip
        assert done.code == 0, done.err
    task = {"harness": str(tmp_path / "few.yaml")}
    (test,) = compare(evaluate("zoo-xs", task, store=tmp_path / "store"), tmp_path / "few")
    assert (test.n, test.estimate) == (len(tasks.CHOICES), 0)
