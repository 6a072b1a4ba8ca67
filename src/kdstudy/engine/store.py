"""key -> folder: lease, build in `.partial`, verify, publish by rename."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from kdstudy.artifacts import MANIFEST
from kdstudy.engine.lease import Leases, require_held
from kdstudy.errors import InputError, StageError
from kdstudy.stage import SCRATCH

RUNS = "runs"
"""Folder, inside a study's, of what its trackers write while it trains."""
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is full"}
_FACTS = {
    **{"kind": str, "version": int, "label": str, "config": dict, "inputs": dict},
    **{"key": str, "started": float | int, "seconds": float | int, "summary": str},
}


class Store:
    """Finished stages on disk.

    Layout: `stages/<key>/` (files and `manifest.json`), `stages/<key>.partial/` while building,
    `locks/<key>.lock` (who builds), `logs/<key>.jsonl` (how it goes), `latest/<label hash>` (key
    last built under a label, to explain a miss), `pins.json` (Hub commits and file hashes),
    `studies/<name>/` (what people open), `studies.json` (which study file each belongs to).
    """

    def __init__(self, root: Path):
        """Open or create a store.

        Raises:
            InputError: The folder cannot be written.
        """
        try:
            self.root = root.expanduser().resolve()
        except RuntimeError as e:
            raise _refusal_of(root, str(e)) from e
        try:
            _nearest(self.root)
            for folder in ("stages", "locks", "logs", "latest", "studies"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise _refusal_of(self.root, e.strerror or str(e)) from e
        self._leases = Leases(self.root / "locks")

    def get(self, key: str) -> Path | None:
        """Return the finished folder of a key, or None if it is not there as it was published.

        Every file must have its recorded size; what was written since is read byte by byte.
        """
        folder, manifest = self._folder(key), self.manifest(key)
        if manifest is None:
            return None
        try:
            written = [(folder / name).stat() for name in manifest["files"]]
            if [w.st_size for w in written] != [f["size"] for f in manifest["files"].values()]:
                return None
            newest = max((w.st_mtime_ns for w in written), default=0)
            published = (folder / MANIFEST).stat().st_mtime_ns
        except (OSError, ValueError):
            return None
        if newest > published:
            # A copied store, or a file that somebody touched.
            if self.damage(key):
                return None
            with contextlib.suppress(OSError):
                os.utime(folder / MANIFEST, ns=(newest, newest))
        return folder

    def manifest(self, key: str) -> dict[str, Any] | None:
        """Return a key's manifest; None where there is none, or none that `build` wrote."""
        return read_manifest(self._folder(key))

    def damage(self, key: str) -> str:
        """Read every byte of a stage; return the first file that is not as recorded, or ''.

        What was never there is not damaged.
        """
        if not self._folder(key).exists():
            return ""
        manifest = self.manifest(key)
        return MANIFEST if manifest is None else _differing(self._folder(key), manifest)

    def build(
        self,
        key: str,
        facts: Callable[[], Mapping[str, Any]],
        fill: Callable[[Path], str],
        *,
        wait: bool = True,
    ) -> Path | None:
        """Return the finished folder of a key, building it if it is missing or damaged.

        One process builds a key at a time; others wait and find it finished. What an interrupted
        `fill` left behind is there for the next one, so that it can resume; what it left whole is
        published as it is.

        Args:
            key: The key.
            facts: Returns, once the folder is filled, what the manifest records beside times and
                hashes: kind, label, config, inputs.
            fill: Fills the folder it is given and returns a line on what it found.
            wait: False returns None at once where another process builds it.

        Raises:
            StageError: The lease was lost meanwhile: another process builds the key.
        """
        with contextlib.ExitStack() as held:
            try:
                lease = held.enter_context(self.lock(key, wait=wait))
            except Timeout:  # of the lease; a stage may have timeouts of its own
                return None
            if (found := self.get(key)) and not self.damage(key):
                return found
            partial = self._folder(key + ".partial")
            if partial.is_symlink() or partial.is_file():
                partial.unlink()
            partial.mkdir(exist_ok=True)
            if not _is_whole(partial, key):
                self._fill(key, partial, facts, fill)
            require_held(lease)
            self._publish(key, partial)
            return self._folder(key)

    def _fill(
        self,
        key: str,
        partial: Path,
        facts: Callable[[], Mapping[str, Any]],
        fill: Callable[[Path], str],
    ) -> None:
        for torn in partial.glob(f".{MANIFEST}.*"):
            torn.unlink()
        started, clock = time.time(), time.monotonic()
        summary = fill(partial)
        manifest = {
            **facts(),
            "key": key,
            "started": round(started, 3),
            "seconds": round(time.monotonic() - clock, 3),
            "summary": summary,
            "files": _inventory(partial),
        }
        manifest["sha256"] = _digest(json.loads(json.dumps(manifest)))
        _write_durably(partial / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))

    def _publish(self, key: str, partial: Path) -> None:
        facts, final = _read_object(partial / MANIFEST), self._folder(key)
        shutil.rmtree(partial / SCRATCH, ignore_errors=True)
        # What is there is damaged. A death between here and the renaming loses nothing: the next
        # build finds the whole partial.
        if final.is_symlink() or final.is_file():
            final.unlink()
        elif final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _settle(final.parent)
        _write_durably(self._latest(facts["kind"], facts["label"]), key)

    def last_built(self, kind: str, label: str) -> dict[str, Any] | None:
        """Return the manifest that was last published under a label, or None."""
        try:
            return self.manifest(self._latest(kind, label).read_text().strip())
        except (OSError, ValueError):
            return None

    def begun(self, key: str) -> bool:
        """Return whether an interrupted build of this key waits to be resumed."""
        return self._folder(key + ".partial").is_dir()

    def owner(self, key: str) -> str:
        """Return `host:pid` of the process that builds a key, or '' if none does."""
        return self._leases.owner(key)

    def log(self, key: str) -> Path:
        """Return where a stage's log is."""
        return self.root / "logs" / f"{key}.jsonl"

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[SoftFileLease]:
        """Hold a lock; those of dead owners are taken over.

        Raises:
            filelock.Timeout: Another process holds it, and `wait` is False.
        """
        with self._leases.hold(name, wait=wait) as lease:
            yield lease

    def pins(self) -> dict[str, str]:
        """Return the remembered Hub commits and file hashes."""
        found = _read_object(self.root / "pins.json")
        return {k: v for k, v in found.items() if isinstance(v, str)}

    def remember(self, pins: Mapping[str, str]) -> None:
        """Add to the remembered Hub commits and file hashes.

        Raises:
            StageError: They cannot be written.
        """
        known = self.pins()
        if known | dict(pins) == known:
            return
        try:
            with self.lock("pins"):
                text = json.dumps(self.pins() | dict(pins), indent=1, sort_keys=True)
                _write_durably(self.root / "pins.json", text)
        except OSError as e:
            raise self._unwritable(e) from e

    def output(self, study: str) -> Path:
        """Return the folder where people look for a study's report."""
        return self.root / "studies" / study

    def claim(self, study: str, file: Path | None, still: Callable[[Path], bool]) -> None:
        """Record that a study's output folder is that of this study file.

        Args:
            study: The study's name.
            file: The study file; None for a study that is in none.
            still: Tells whether another file, recorded earlier, is there and has that name.

        Raises:
            InputError: Another study file of that name writes there.
            StageError: The record cannot be written.
        """
        path = self.root / "studies.json"
        # A store that was copied or moved belongs to whoever uses it there.
        mine = {"file": str(file.absolute()) if file else "", "store": str(self.root)}
        known = _read_object(path).get(study)
        if known == mine:
            return
        other = known.get("file", "") if isinstance(known, dict) else ""
        if other and known.get("store") == mine["store"] and still(Path(other)):
            raise InputError(
                f"{file or 'study'}: another study file is called {study} as well: {other}",
                why=f"each would replace the other's report in {self.output(study)}",
                remedy="give one of them another `name`, or its own --store",
            )
        try:
            with self.lock("studies"):
                known = _read_object(path) | {study: mine}
                _write_durably(path, json.dumps(known, indent=1, sort_keys=True))
        except OSError as e:
            # Where nothing can be written nothing is replaced, and what is finished can be read.
            if e.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise self._unwritable(e) from e

    def show(self, study: str, report: Path) -> Path:
        """Copy a finished report into the study's output folder, unless it is there as it is.

        What else lies in the folder (notes, a tracker's files) stays.

        Raises:
            StageError: The folder cannot be written, or the report cannot be read.
        """
        final, manifest = self.output(study), read_manifest(report)
        if manifest is None:
            raise StageError(
                f"{report}: is not in the store any more",
                remedy="run again: what is missing or damaged is built first",
            )
        fresh, old = (final.with_name(f".{study}.{word}") for word in ("new", "old"))
        shown = _read_object(final / MANIFEST).get("key")
        if shown == manifest["key"] and not old.exists() and not _differing(final, manifest):
            return final
        try:
            with self.lock(f"study-{study}"):
                _bring_over(old, final)  # an earlier exchange that was interrupted
                shutil.rmtree(fresh, ignore_errors=True)
                for name in (*manifest["files"], MANIFEST):
                    (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(report / name, fresh / name)
                if final.exists():
                    final.rename(old)
                fresh.rename(final)
                _bring_over(old, final)
        except OSError as e:
            raise self._unwritable(e) from e
        return final

    def refusal(self, e: OSError) -> StageError:
        """Return what to tell a person whose disk did not do what the store asked of it."""
        if e.errno not in _FULL:
            return StageError(
                f"{e.strerror or e}",
                why=str(e.filename2 or e.filename or self.root),
                remedy="run again, or give another --store: finished stages are kept",
            )
        try:
            free = f"{shutil.disk_usage(self.root).free / 2**20:.0f} MiB free"
        except OSError:
            free = "no space"
        return StageError(
            _FULL[e.errno],
            why=f"{self.root}: {free}",
            remedy="free some space or give another --store; run again: finished stages are kept",
        )

    def _unwritable(self, e: OSError) -> StageError:
        if e.errno in _FULL:
            return self.refusal(e)
        name = e.filename2 or e.filename or "it"
        return StageError(
            f"store {self.root}: {name} cannot be written ({e.strerror or e})",
            remedy="move that file away, or give another --store; finished stages are kept",
        )

    def _folder(self, key: str) -> Path:
        return self.root / "stages" / key

    def _latest(self, kind: str, label: str) -> Path:
        return self.root / "latest" / hashlib.sha256(f"{kind} {label}".encode()).hexdigest()[:32]


def require_writable(root: Path) -> None:
    """Refuse a store in which nothing can be built; it is not made where it is not there.

    Raises:
        InputError: A file is in its place, or it or the folder it would be in is read-only.
    """
    root = root.expanduser().resolve()
    folder = _nearest(root)
    # A store's own folders may belong to somebody else than the one around them.
    for place in (folder, folder / "stages", folder / "locks"):
        try:
            if place.is_dir():
                with tempfile.TemporaryFile(dir=place) as f:
                    f.write(b"kdstudy")
        except OSError as e:
            raise _refusal_of(root, f"{place}: {e.strerror or e}") from e


def _nearest(root: Path) -> Path:
    """Return the store's folder, or the nearest one above it that exists, if that is a folder."""
    found = next(p for p in (root, *root.parents) if p.exists())
    if not found.is_dir():
        raise _refusal_of(root, f"{found} is a file")
    return found


def _refusal_of(root: Path, why: str) -> InputError:
    return InputError(
        f"store {root}: cannot be written ({why})",
        why="finished stages would have nowhere to go",
        remedy="give another folder with --store DIR or KDSTUDY_STORE",
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a finished stage's manifest; None where there is none, or none that `build` wrote."""
    found = _read_object(folder / MANIFEST)
    return found if found.get("key") == folder.name and _is_manifest(found) else None


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where the file is missing or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_manifest(found: Mapping[str, Any]) -> bool:
    files = found.get("files")
    return (
        all(isinstance(found.get(fact), kind) for fact, kind in _FACTS.items())
        and isinstance(files, dict)
        and all(isinstance(f, dict) and f.keys() >= {"size", "sha256"} for f in files.values())
    )


def _is_whole(partial: Path, key: str) -> bool:
    """Return whether a build had written everything, down to its manifest, when it died."""
    found = _read_object(partial / MANIFEST)
    return found.get("key") == key and _is_manifest(found) and not _differing(partial, found)


def _digest(manifest: Mapping[str, Any]) -> str:
    """Return the hash of all else that a manifest says."""
    said = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _bring_over(old: Path, final: Path) -> None:
    """Move what `show` did not write from the folder of before into the one of now."""
    if not old.exists():
        return
    if not final.exists():
        old.rename(final)
        return
    ours = {*_read_object(old / MANIFEST).get("files", {}), MANIFEST}
    for path in sorted(p for p in old.rglob("*") if not p.is_dir() or p.is_symlink()):
        name = path.relative_to(old)
        if name.as_posix() not in ours and not (final / name).exists():
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(final / name)
    shutil.rmtree(old)


def _differing(folder: Path, manifest: Mapping[str, Any]) -> str:
    # Older manifests have no hash of their own.
    if "sha256" in manifest and manifest["sha256"] != _digest(manifest):
        return MANIFEST
    for name, fact in manifest["files"].items():
        try:
            if _sha256(folder / name) != fact["sha256"]:
                return name
        except (OSError, ValueError):
            return name
    return ""


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of every file, all of them safely on the disk."""
    kept = (p for p in folder.rglob("*") if p.relative_to(folder).parts[0] != SCRATCH)
    files = sorted(p for p in kept if p.is_file() and p != folder / MANIFEST)
    for path in files:
        _settle(path)
    return {
        str(p.relative_to(folder)): {"size": p.stat().st_size, "sha256": _sha256(p)} for p in files
    }


def _settle(path: Path) -> None:
    """Have a file or folder written through to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _write_durably(path: Path, text: str) -> None:
    """Write so that a reader sees the old file or the whole new one, whatever happens between."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    fresh.replace(path)
