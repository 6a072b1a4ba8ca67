"""Pinned downloads: one file, whose hash is known before it is asked for."""

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from filelock import FileLock

from kdstudy.errors import InputError, StageError

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and how many there will be (None: the server does not say)"""

_TIMEOUTS = (10.0, 30.0)
_PAUSE = 0.5
_ATTEMPTS = 4
_MAX_REDIRECTS = 5
_CHUNK = 1 << 14
_BUSY = (408, 429)


class _Broken(Exception):
    """An attempt that another one may put right."""


def cache_dir() -> Path:
    """Return the folder of downloads: `$KDSTUDY_CACHE`, else `kdstudy` in the user's cache folder.

    That one is `$XDG_CACHE_HOME`, else `~/.cache`.
    """
    given = os.environ.get("KDSTUDY_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kdstudy"


def holds(path: Path, sha256: str) -> bool:
    """Return whether there is such a file and its bytes have this hash."""
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest() == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e


def fetch(
    url: str,
    sha256: str,
    path: Path,
    *,
    progress: Progress | None = None,
    timeouts: tuple[float, float] = _TIMEOUTS,
    pause: float = _PAUSE,
) -> Path:
    """Bring one file, or do nothing when it is there already.

    The bytes go to a `.part` file beside the target and get their name only once their hash is
    right. What an interrupted download left there is resumed when the server can. A file of another
    content under the target's name is damage: it is named in a warning and replaced.

    Args:
        url: Where it is; https, or http on this machine.
        sha256: Hash of the file, in hexadecimal.
        path: Where to put it. Processes that want the same file wait for each other.
        progress: See `Progress`.
        timeouts: Seconds to wait for a connection, and between two pieces of the answer.
        pause: Seconds before the second attempt; twice as many before each further one.

    Returns:
        `path`.

    Raises:
        InputError: The address is not acceptable, or `HF_HUB_OFFLINE` forbids the request.
        StageError: The server has no such file, sends another one, or fails several times in a row
            (then the part that came is kept), or the file cannot be written.
    """
    if not _acceptable(url, local=True):
        raise InputError(f"{url}: is no https address", why="an answer over http can be forged")
    if holds(path, sha256):
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(
            f"{path}: {'is damaged' if path.exists() else 'is not here'}",
            why="HF_HUB_OFFLINE is set, so it cannot be downloaded",
            remedy=f"unset HF_HUB_OFFLINE, or put {url} there",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            _fetch_locked(_Download(url, sha256, path, progress, timeouts), pause)
    except OSError as e:
        raise StageError(
            f"{path}: cannot be written ({e.strerror or e})",
            remedy="make room or set KDSTUDY_CACHE to another folder, then run again",
        ) from e
    return path


class _Download:
    def __init__(
        self,
        url: str,
        sha256: str,
        path: Path,
        progress: Progress | None,
        timeouts: tuple[float, float],
    ):
        self.url, self.sha256, self.path, self.timeouts = url, sha256, path, timeouts
        self.progress = progress or (lambda done, total: None)
        self.part = path.with_name(f"{path.name}.part")

    def attempt(self) -> bool:
        """Complete the `.part` file and return whether its hash is right; if not, remove it.

        Raises:
            _Broken: It is not complete.
            StageError: Another attempt would end alike.
        """
        resumed = self.part.exists()
        # A process that died before the rename leaves a complete file: then there is no request.
        if not (resumed and holds(self.part, self.sha256)):
            self._append()
        if holds(self.part, self.sha256):
            return True
        size = self.part.stat().st_size
        self.part.unlink()
        if not resumed:
            raise StageError(
                f"{self.url}: is not the pinned file ({size} bytes with another sha256)",
                why=f"expected {self.sha256}; what came was thrown away",
                remedy="a proxy or login page may have answered; else get the file by hand",
            )
        return False

    def _append(self) -> None:
        import requests

        start = self.part.stat().st_size if self.part.exists() else 0
        # A compressed answer could not be resumed: byte ranges are those of the file itself.
        headers = {"Accept-Encoding": "identity", "User-Agent": "kdstudy"}
        if start:
            headers["Range"] = f"bytes={start}-"
        done = start
        try:
            with self._get(headers) as response:
                if start and response.status_code == 416:
                    self.part.unlink()
                    raise _Broken("the server has no bytes behind those that are here")
                self._check_status(response)
                if response.status_code != 206:
                    start = done = 0
                length = response.headers.get("Content-Length", "")
                total = start + int(length) if length.isdigit() else None
                self.progress(done, total)
                with self.part.open("ab" if start else "wb") as f:
                    for chunk in response.iter_content(_CHUNK):
                        done += f.write(chunk)
                        self.progress(done, total)
        except requests.RequestException as e:
            raise _Broken(self._reason(e, done)) from e
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done} of {total} bytes")

    def _get(self, headers: dict[str, str]) -> "requests.Response":
        import requests

        url = self.url
        for _ in range(_MAX_REDIRECTS + 1):
            response = requests.get(
                url, headers=headers, stream=True, timeout=self.timeouts, allow_redirects=False
            )
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
            if not _acceptable(url, local=_is_local(self.url)):
                raise StageError(
                    f"{self.url}: redirects to {url}, which is no https address",
                    why="an answer over http can be forged",
                    remedy="get the file by hand",
                )
        raise StageError(f"{self.url}: redirects more than {_MAX_REDIRECTS} times")

    def _check_status(self, response: "requests.Response") -> None:
        status = f"the server answered {response.status_code} ({response.reason})"
        if response.status_code >= 500 or response.status_code in _BUSY:
            raise _Broken(status)
        if response.status_code not in (200, 206):
            raise StageError(
                f"{self.url}: {status}",
                why="the file was moved or removed, or this network does not let you have it",
                remedy="look at the address in a browser; else get the file by hand",
            )

    def _reason(self, e: Exception, done: int) -> str:
        import requests
        from urllib3.exceptions import ReadTimeoutError

        cause = e.args[0] if e.args else None
        if isinstance(e, requests.ConnectTimeout):
            return f"no connection within {self.timeouts[0]:g} s"
        if isinstance(e, requests.ReadTimeout) or isinstance(cause, ReadTimeoutError):
            return f"the server sent nothing for {self.timeouts[1]:g} s, after {done} bytes"
        if isinstance(e, requests.exceptions.ChunkedEncodingError):
            return f"the connection broke after {done} bytes"
        return f"the server cannot be reached ({type(e).__name__})"


def _fetch_locked(download: _Download, pause: float) -> None:
    path = download.path
    if holds(path, download.sha256):
        return
    if path.exists():
        warnings.warn(f"{path}: is damaged; it is downloaded again", stacklevel=3)
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            if download.attempt():
                os.replace(download.part, path)
                return
            reason = "what an earlier download had left was not the file's beginning"
        except _Broken as e:
            reason = str(e)
    kept = download.part.stat().st_size if download.part.exists() else 0
    again = f"; {kept} bytes are kept, only the rest is fetched" if kept else ""
    raise StageError(
        f"{download.url}: the download failed {_ATTEMPTS} times",
        why=reason,
        remedy=f"check the network and run again{again}",
    )


def _acceptable(url: str, *, local: bool) -> bool:
    return urlsplit(url).scheme == "https" or (local and _is_local(url))


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1")
