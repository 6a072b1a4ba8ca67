"""A clock that jumps by hours, forwards and backwards: nothing that matters is read off it."""

import datetime
import json
import os
import random
import re
import time

import harness


class Jumping:
    """Replaces this process's clock by one that is set anew, by up to a day, all the time."""

    def arm(self, root):
        from kdstudy.engine import log

        draw, true = random.Random(7), time.time

        def jumped():
            return true() + draw.uniform(-86400, 86400)

        class Datetime(datetime.datetime):
            @classmethod
            def now(cls, zone=None):
                return datetime.datetime.fromtimestamp(jumped(), zone)

        time.time = jumped
        log.datetime = type("module", (), {"datetime": Datetime, "UTC": datetime.UTC})


def test_a_clock_that_jumps_while_stages_are_built_changes_no_result(whole, finished):
    finished.remove("train", "generate", "score", "results", "report")
    done = finished.run(strike=Jumping())
    assert done.code == 0, done.text
    harness.require_whole(finished, whole)
    for manifest in finished.stages().values():
        assert 0 <= manifest["seconds"] < 600
    logs = [json.loads(s) for p in finished.store.glob("logs/*") for s in p.open()]
    said = [datetime.datetime.fromisoformat(line["time"]) for line in logs]
    assert max(said) - min(said) > datetime.timedelta(hours=12)
    assert all(0 <= line["seconds"] < 600 for line in logs if line["event"] == "finish")
    listed = finished.run("ls", "runs")
    assert listed.code == 0
    assert not re.search(r"\s-\d", listed.text), listed.text


def test_times_of_files_that_jump_build_nothing_again(whole, finished):
    draw = random.Random(8)
    for path in finished.store.rglob("*"):
        moment = time.time() + draw.uniform(-86400, 86400)
        os.utime(path, (moment, moment))
    done = finished.run()
    assert "stages are finished" in done.text
    assert not finished.work()
    harness.require_whole(finished, whole)
