"""A Hugging Face Hub in miniature: one repository, served over local HTTP."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _handler(kind: str, repo: str, folder: Path, seen: list[str]) -> type:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.answer(body=True)

        def do_POST(self):
            """Facts on named paths, `paths-info`."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            there = [n for n in asked["paths"] if (folder / n).is_file()]
            entries = [
                {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": n}
                for n in there
            ]
            seen.append(self.path)
            self.send(200, json.dumps(entries).encode(), True, "application/json")

        def do_HEAD(self):
            self.answer(body=False)

        def answer(self, body):
            path = self.path.split("?")[0]
            seen.append(path)
            if path.startswith(f"/api/{kind}/{repo}"):
                files = (p for p in folder.rglob("*") if p.is_file())
                names = sorted(p.relative_to(folder).as_posix() for p in files)
                if "/tree/" in path:
                    entries = [
                        {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": n}
                        for n in names
                    ]
                    return self.send(200, json.dumps(entries).encode(), body, "application/json")
                facts = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
                return self.send(200, json.dumps(facts).encode(), body, "application/json")
            prefix = f"/{'' if kind == 'models' else kind + '/'}{repo}/resolve/{COMMIT}/"
            file = folder / path.removeprefix(prefix)
            if path.startswith(prefix) and file.is_file():
                return self.send(200, file.read_bytes(), body, "application/octet-stream")
            error = "EntryNotFound" if f"/{repo}/" in path else "RepoNotFound"
            return self.send(404, b"{}", body, "application/json", {"X-Error-Code": error})

        def send(self, status, content, body, kind, headers=()):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    return Handler


@contextlib.contextmanager
def hub(repo: str, folder: Path, kind: str = "models") -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as `repo`; yield (endpoint, list of the paths asked for so far)."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kind, repo, folder, seen))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
