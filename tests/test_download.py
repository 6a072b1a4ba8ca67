"""Pinned downloads against a local server that misbehaves."""

import hashlib
import random
import socket
import threading
import time
from pathlib import Path

import pytest
from file_server import serving

from kdstudy.data import download
from kdstudy.data.download import cache_dir, fetch
from kdstudy.errors import InputError, StageError

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def get(url: str, path: Path, sha256: str = SHA256, **more) -> Path:
    return fetch(url, sha256, path, **{"pause": 0.01, "timeouts": (2.0, 2.0), **more})


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_a_file_is_fetched_once_with_its_progress(tmp_path):
    seen = []
    path = tmp_path / "deep" / "er" / "file"
    with serving(CONTENT) as server:
        assert get(server.url, path, progress=lambda done, total: seen.append((done, total)))
        assert get(server.url, path) == path
    assert path.read_bytes() == CONTENT
    assert server.sent == [len(CONTENT)]
    assert left(path.parent) == ["file"]
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_an_answer_that_breaks_off_is_resumed_where_it_ended(tmp_path, how):
    seen = []
    with serving(CONTENT, (how, 200_000)) as server:
        get(
            server.url,
            tmp_path / "file",
            timeouts=(2.0, 0.2),
            progress=lambda done, total: seen.append(total),
        )
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked[0][1] is None
    start = int(server.asked[1][1].removeprefix("bytes=").removesuffix("-"))
    # At most one unfinished piece of what was sent is asked for again.
    assert 200_000 - download._CHUNK <= start <= 200_000
    assert server.sent == [200_000, len(CONTENT) - start]
    assert set(seen) == {len(CONTENT)}


def test_a_server_without_ranges_sends_it_all_again(tmp_path):
    with serving(CONTENT, ("cut", 200_000), ranges=False) as server:
        get(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.sent == [200_000, len(CONTENT)]


def test_what_broke_off_for_good_is_kept_and_resumed_by_the_next_call(tmp_path):
    path = tmp_path / "file"
    with serving(CONTENT, *[("cut", 50_000)] * 4) as server:
        with pytest.raises(StageError, match="failed 4 times") as error:
            get(server.url, path)
        kept = (tmp_path / "file.part").stat().st_size
        assert f"{kept} bytes are kept" in str(error.value)
        assert "connection" in error.value.why
        assert 4 * 50_000 - 4 * download._CHUNK <= kept <= 200_000
        assert left(tmp_path) == ["file.part"]
        get(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={kept}-"
    assert left(tmp_path) == ["file"]


def test_a_complete_part_needs_no_request(tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    with serving(CONTENT) as server:
        get(server.url, tmp_path / "file")
    assert not server.asked
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize("stale", [b"another beginning", b"x" * 400_000])
def test_a_part_of_something_else_is_thrown_away(tmp_path, stale):
    (tmp_path / "file.part").write_bytes(stale)
    with serving(CONTENT) as server:
        get(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [part for _, part in server.asked] == [f"bytes={len(stale)}-", None]


def test_another_file_is_refused_and_nothing_is_left(tmp_path):
    with (
        serving(CONTENT) as server,
        pytest.raises(StageError, match="not the pinned file") as error,
    ):
        get(server.url, tmp_path / "file", sha256="0" * 64)
    assert len(server.asked) == 1
    assert "expected 000" in error.value.why and error.value.remedy
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_not_there_is_not_asked_for_again(tmp_path, status):
    with serving(CONTENT, status) as server, pytest.raises(StageError) as error:
        get(server.url, tmp_path / "file")
    assert f"answered {status}" in error.value.what
    assert len(server.asked) == 1
    assert server.url in error.value.what and error.value.remedy
    assert left(tmp_path) == []


def test_a_server_in_trouble_is_asked_again(tmp_path):
    with serving(CONTENT, 500, 503, 429) as server:
        get(server.url, tmp_path / "file")
    assert len(server.asked) == 4
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_in_trouble_for_ever_is_left_alone_after_longer_and_longer_pauses(
    tmp_path, monkeypatch
):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    with serving(CONTENT, *[500] * 9) as server, pytest.raises(StageError) as error:
        get(server.url, tmp_path / "file", pause=1.0)
    assert "failed 4 times" in error.value.what
    assert len(server.asked) == 4
    assert [p for p in pauses if p >= 1] == [1, 2, 4]
    assert "500" in error.value.why
    assert "run again" in error.value.remedy
    assert left(tmp_path) == []


def test_a_silent_server_is_not_waited_for(tmp_path):
    began = time.monotonic()
    with serving(CONTENT, *[("stall", 0)] * 9) as server:
        with pytest.raises(StageError) as error:
            get(server.url, tmp_path / "file", timeouts=(1.0, 0.1))
        assert time.monotonic() - began < 3
    assert "sent nothing for 0.1 s" in error.value.why
    assert "file" not in left(tmp_path)


def test_no_server_is_a_clear_error(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(StageError, match="failed 4 times") as error:
        get(url, tmp_path / "file")
    assert "cannot be reached" in error.value.why
    assert "check the network" in error.value.remedy
    assert left(tmp_path) == []


def test_redirects_are_followed_but_not_to_http(tmp_path):
    with serving(CONTENT, ("to", "/elsewhere")) as server:
        get(server.url, tmp_path / "file")
        assert [path for path, _ in server.asked] == ["/file", "/elsewhere"]
        server.script = [("to", "http://example.invalid/file")]
        with pytest.raises(StageError, match=r"redirects to http://example\.invalid/file"):
            get(server.url, tmp_path / "other")
        server.script = [("to", "/again")] * 9
        with pytest.raises(StageError, match="redirects more than"):
            get(server.url, tmp_path / "other")
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize("url", ["http://example.invalid/f", "file:///etc/passwd", "/f", "ftp://x"])
def test_only_https_is_asked(tmp_path, url):
    with pytest.raises(InputError, match="is no https address"):
        get(url, tmp_path / "file")


def test_a_damaged_file_is_named_and_fetched_again(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:-1])
    with serving(CONTENT) as server, pytest.warns(UserWarning, match="is damaged") as warned:
        get(server.url, path)
    assert str(path) in str(warned[0].message)
    assert path.read_bytes() == CONTENT


def test_a_damaged_file_stays_when_no_better_one_comes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"damaged")
    with serving(CONTENT, 404) as server, pytest.warns(UserWarning), pytest.raises(StageError):
        get(server.url, path)
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_nothing_is_asked(tmp_path, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    path = tmp_path / "file"
    with serving(CONTENT) as server:
        with pytest.raises(InputError, match="is not here") as error:
            get(server.url, path)
        assert "HF_HUB_OFFLINE" in error.value.why and server.url in error.value.remedy
        path.write_bytes(b"damaged")
        with pytest.raises(InputError, match="is damaged"):
            get(server.url, path)
        path.write_bytes(CONTENT)
        assert get(server.url, path) == path
    assert not server.asked


def test_two_that_want_one_file_fetch_it_once(tmp_path):
    path = tmp_path / "file"
    with serving(CONTENT) as server:
        threads = [threading.Thread(target=get, args=(server.url, path)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.sent == [len(CONTENT)]
    assert path.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with serving(CONTENT) as server, pytest.raises(StageError, match="cannot be written") as error:
        get(server.url, tmp_path / "folder" / "sub" / "file")
    assert "KDSTUDY_CACHE" in error.value.remedy


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KDSTUDY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "kdstudy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "kdstudy"
    monkeypatch.setenv("KDSTUDY_CACHE", "~/own")
    assert cache_dir() == tmp_path / "own"
