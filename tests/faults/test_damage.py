"""Files of a finished store that are not as published: found by hash, named, built again."""

import os
import random

import harness
import pytest

DRAW = random.Random(11)


def flip(path):
    data = bytearray(path.read_bytes())
    data[DRAW.randrange(len(data))] ^= 1 << DRAW.randrange(8)
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def rot(harm):
    """Harm a file as a disk does, which leaves its times."""

    def harmed(path):
        times = path.stat()
        harm(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return harmed


HARMS = (rot(flip), rot(truncate), rot(zero), flip, os.remove)


def named(stage, name):
    return f"damaged: {stage['kind']} {stage['label']}: {name} is not as published"


@pytest.mark.parametrize("turn", range(2))
def test_verify_finds_names_and_mends_a_file_of_every_kind_of_stage(turn, whole, finished):
    expected, kinds = [], set()
    for i, (key, stage) in enumerate(sorted(finished.stages().items())):
        if stage["kind"] in kinds:
            continue
        kinds.add(stage["kind"])
        name = DRAW.choice([*stage["files"], "manifest.json"])
        HARMS[(i + turn) % len(HARMS)](finished.store / "stages" / key / name)
        expected.append(named(stage, name))
    assert len(kinds) == 13
    done = finished.run("run", "study.yaml", "--verify")
    assert done.code == 0, done.text
    assert sorted(s.split("; ")[0] for s in done.text.split("\n") if s.startswith("damaged")) == (
        sorted(expected)
    )
    harness.require_whole(finished, whole)
    again = finished.run("run", "study.yaml", "--verify")
    assert "stages are finished" in again.text


def test_what_a_missing_stage_reads_is_checked_byte_by_byte_even_without(whole, finished):
    """Bit rot that no size and no time tells of, in what a changed study still uses."""
    harmed = []
    for kind, name in (("generate", "generations.parquet"), ("benchmark", "examples.parquet")):
        folder = finished.find(kind)
        harmed.append(named(finished.stages()[folder.name], name))
        rot(flip)(folder / name)
    before = whole.bytes()
    finished.write(extraction="reference")
    done = finished.run()
    assert done.code == 0, done.text
    assert all(line in done.text for line in harmed)
    assert {key: files for key, files in finished.bytes().items() if key in before} == before


def test_a_plain_run_mends_a_report_and_leaves_what_it_does_not_read(whole, finished):
    report = finished.find("report")
    truncate(report / "results.csv")
    (finished.store / "studies" / "small" / "report.html").unlink()
    done = finished.run()
    assert done.code == 0, done.text
    assert named(finished.stages()[report.name], "results.csv") in done.text
    assert {line["kind"] for line in finished.work()} == {"report"}
    harness.require_whole(finished, whole)
    shown = finished.store / "studies" / "small" / "report.html"
    assert shown.read_bytes() == (report / "report.html").read_bytes()


def test_what_only_helps_may_be_anything(whole, finished):
    """Logs, leases, pins, and what explains a miss.

    An empty lease is what an owner leaves that is killed between making it and writing its name.
    """
    finished.remove("results", "report")
    left = whole.stages().keys() - finished.stages().keys()
    junk = [path for name in ("logs", "latest") for path in (finished.store / name).iterdir()]
    for path in (*junk, finished.store / "pins.json"):
        path.write_bytes(DRAW.randbytes(64))
    for key, data in zip(left, (b"", b"\0\xff junk"), strict=True):
        (finished.store / "locks" / f"{key}.lock").write_bytes(data)
    done = finished.run()
    assert done.code == 0, done.text
    harness.require_whole(finished, whole)
    assert finished.run("ls", "runs").code == 0
    assert finished.run("plan", "study.yaml").code == 0
