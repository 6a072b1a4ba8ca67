"""A local HTTP server that serves one file, and misbehaves as told."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class FileServer:
    """What is served and how, and what was asked.

    Attributes:
        content: The file.
        script: What the next answers are, each used once: a status such as 404, `("cut", n)` for n
            bytes of the body and then a closed connection, `("stall", n)` for n bytes and silence,
            `("to", url)` for a redirect. When it is used up, the file is served.
        ranges: Whether a part of the file can be asked for.
        asked: Path and Range header of each request.
        sent: Bytes of body sent in answer to each.
    """

    content: bytes
    script: list[int | tuple[str, int] | tuple[str, str]] = dataclasses.field(default_factory=list)
    ranges: bool = True
    asked: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
    sent: list[int] = dataclasses.field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(content: bytes, *script, ranges: bool = True) -> Iterator[FileServer]:
    """Serve a file at `url` until the block ends."""
    state = FileServer(content, list(script), ranges)
    stop = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state, stop))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(state: FileServer, stop: threading.Event) -> type:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            state.asked.append((self.path, self.headers.get("Range")))
            state.sent.append(0)
            step = state.script.pop(0) if state.script else None
            if isinstance(step, int):
                self.send_error(step)
            elif step and step[0] == "to":
                self.send_response(302)
                self.send_header("Location", step[1])
                self.end_headers()
            else:
                self._body(step)

        def _body(self, step):
            start = 0
            asked = self.headers.get("Range")
            if asked and state.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.content):
                    self.send_error(416)
                    return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self._write(body[: step[1]] if step else body)
            if step and step[0] == "stall":
                stop.wait(5)

        def _write(self, body):
            number = len(state.sent) - 1
            with contextlib.suppress(OSError):
                self.wfile.write(body)
                state.sent[number] += len(body)
                self.wfile.flush()
                time.sleep(0.01)

    return Handler
