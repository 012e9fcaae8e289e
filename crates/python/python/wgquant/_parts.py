"""A checkpoint in tasks whose source, destination or both are in a store that speaks S3.

A task brings to its node's own disk what it reads, and no more. What it makes goes to ``DESTINATION.wgquant-parts/files`` under
a name that no other try has, is read back and held against its digest, and only then gets a record. The last step works from
the records and what a listing says of the objects: it has the store copy them to their names, and writes the index last.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from . import _wgquant
from ._errors import DamagedError, RefusedError
from ._objects import Bucket, Object, in_order, is_url
from ._options import native
from ._scratch import scratch_errors
from ._staging import (
    CONFIG_FILE,
    INDEX_FILE,
    MODEL_FILE,
    NO_TASK,
    PARTS,
    Job,
    Places,
    Snapshot,
    bring,
    check_room,
    check_unchanged,
    grow_heads,
    staged,
    take_snapshot,
    write,
)

_MAX_NAMED = 5
"""Parts that a message names at most."""
_RECORD = {"source": (str, type(None)), "object": str, "etag": str, "n_bytes": int, "record": str}
"""What a part's record has."""


@dataclass(frozen=True)
class Survey:
    """What there is to do."""

    bytes_in: int
    bytes_out: int
    n_files: int
    n_tensors: int


def survey(job: Job) -> tuple[Survey, Snapshot | None]:
    """Looks at both places before any work."""
    snapshot = take_snapshot(job) if is_url(job.source) else None
    if is_url(job.destination):
        _check_destination(job)
    with staged(job, snapshot) as at:
        grow_heads(job, snapshot, at)
        with at.named():
            _, n_files, _ = _wgquant.plan_task(at.source, at.destination, at.options, NO_TASK)
            report = _wgquant.plan(at.source, at.destination, at.options)
    return Survey(report.bytes_in or 0, report.bytes_out or 0, n_files, len(report.tensors)), snapshot


def work(job: Job, snapshot: Snapshot | None, task: tuple[int, int], device: str) -> None:
    """Does a task, unless it is done."""
    to = job.bucket(job.destination) if is_url(job.destination) else None
    with staged(job, snapshot) as at:
        if snapshot or to:
            with at.named():
                files, _, reads = _wgquant.plan_task(at.source, at.destination, at.options, task)
            if to and not job.options.get("force", False) and _is_done(to, at, task, [name for name, _, _ in files]):
                return
            check_room(at, reads if snapshot else [], sum(n_bytes for _, n_bytes, _ in files) if to else 0)
            if snapshot:
                bring(job, snapshot, at, reads)
        with at.named():
            _wgquant.quantize_task(at.source, at.destination, at.options, task, device, None, None)
        if to:
            for name, _, _ in files:
                _hand_over(to, at, name)


def finish(job: Job, snapshot: Snapshot | None) -> None:
    """Does the last step."""
    with staged(job, snapshot) as at:
        if snapshot and not snapshot.is_file:
            source = job.bucket(job.source)
            for of in snapshot.objects:
                if not _wgquant.holds_weights(of.name):
                    write(source, of, at.source / of.name, [(0, of.n_bytes)])
        if is_url(job.destination):
            _finish_there(job, snapshot, at)
        else:
            with at.named():
                _wgquant.finish_tasks(at.source, at.destination, at.options, None)


def _check_destination(job: Job) -> None:
    """Refuses a destination that is the source, or is there already."""
    to = job.bucket(job.destination, max_retries=3)
    if is_url(job.source):
        source = job.bucket(job.source)
        if (source.bucket, source.key) == (to.bucket, to.key):
            raise RefusedError(f"{to.url}: the output is the input: give it another name")
        if source.bucket == to.bucket and source.key.startswith(f"{to.key}/"):
            raise RefusedError(f"{to.url}: holds the input, so it can't be replaced: give another name")
    names = {of.name for of in to.list(to.key)}
    if not names and to.head(to.key) is None:
        return
    state = _read_state(to)
    if state.get("state") == "complete":
        _tidy_up(to)  # of a call that was killed when all was done but that
    elif state.get("job") == _identity(job):
        return  # it was killed while it gave the parts their names
    if not job.options.get("force", False):
        raise RefusedError(f"{to.url}: exists already: give another name, or --force to replace it")
    if not names & {MODEL_FILE, INDEX_FILE, CONFIG_FILE} and not state:
        raise RefusedError(
            f"{to.url}: holds objects, and no model, so it is not replaced: remove them, or give another name"
        )


def _parts(to: Bucket, name: str) -> str:
    return f"{to.key}{PARTS}/{name}"


def _read_record(to: Bucket, name: str) -> dict[str, Any] | None:
    """What a task said of a part, if it can be read."""
    text = to.read(_parts(to, f"{name}.json"))
    try:
        record = json.loads(text or b"")
    except (ValueError, RecursionError):
        return None
    is_whole = isinstance(record, dict) and all(isinstance(record.get(key, ...), of) for key, of in _RECORD.items())
    return record if is_whole else None


def _fetch_record(to: Bucket, at: Places, name: str) -> dict[str, Any] | None:
    """Brings a part's record, so that the library can say whether it is this job's."""
    record = _read_record(to, name)
    if record is None:
        return None
    if record["source"] != at.identity:
        raise RefusedError(f"{to.url}: its part {name} was made with another input: run its task again with --force")
    with scratch_errors(at.folder):
        at.parts().mkdir(exist_ok=True)
        # Text that is none is one record more that the library can't read.
        (at.parts() / f"{name}.json").write_bytes(record["record"].encode(errors="replace"))
    return record


def _is_done(to: Bucket, at: Places, task: tuple[int, int], names: list[str]) -> bool:
    """Whether all files of a task are in the store, as another try or call has left them."""
    records = {name: _fetch_record(to, at, name) for name in names}
    if not all(records.values()):
        return False
    with at.named():  # which refuses those of another job
        files, _, _ = _wgquant.plan_task(at.source, at.destination, at.options, task)
    if not all(digest for _, _, digest in files):
        return False
    return all(_fits(of, to.head(_parts(to, of["object"]))) for of in records.values() if of)


def _fits(record: dict[str, Any], of: Object | None) -> bool:
    return of is not None and (of.etag, of.n_bytes) == (record["etag"], record["n_bytes"])


def _hand_over(to: Bucket, at: Places, name: str) -> None:
    """Puts a part into the store, holds it there against its digest, and records it."""
    text = (at.parts() / f"{name}.json").read_text(encoding="utf-8")
    expected, path = json.loads(text), at.parts() / "files" / name
    key = f"files/{name}.{secrets.token_hex(8)}"
    etag = to.put(_parts(to, key), path)
    made = Object(_parts(to, key), expected["bytes"], etag, 0)
    if to.digest(made) != expected["blake3"]:
        raise DamagedError(f"{to.url}: its part {name} reads back from the store with another digest: run it again")
    record = {"source": at.identity, "object": key, "etag": etag, "n_bytes": made.n_bytes, "record": text}
    to.put(_parts(to, f"{name}.json"), json.dumps(record).encode())


def _finish_there(job: Job, snapshot: Snapshot | None, at: Places) -> None:
    to = job.bucket(job.destination)
    if _read_state(to) == {"job": _identity(job), "state": "complete"}:
        _tidy_up(to)
        return
    with at.named():
        files, _, _ = _wgquant.plan_task(at.source, at.destination, at.options, (1, 1))
    names = [name for name, _, _ in files]
    there = {of.key: of for of in to.list(_parts(to, "files"))}
    if not there and _is_named(to, files):
        return  # done once, and the node lost before it could say so
    parts = _checked_parts(to, at, names, there)
    with at.named():
        _wgquant.finish_elsewhere(at.source, at.destination, at.options)
    others = sorted(path.name for path in at.destination.iterdir())
    if snapshot:
        check_unchanged(job, snapshot)

    _write_state(job, to, "placing")
    old = [of.key for of in to.list(to.key)]
    # Without these it is no model, whatever else lies there meanwhile.
    to.delete([key for key in old if key.rpartition("/")[2] in (INDEX_FILE, MODEL_FILE)])
    made = {f"{to.key}/{name}" for name in (*names, *others)}
    to.delete([key for key in old if key not in made])
    for name in others:
        if name != INDEX_FILE:
            to.put(f"{to.key}/{name}", at.destination / name)
    for _ in in_order(lambda name: to.copy(parts[name], f"{to.key}/{name}"), names):
        pass
    if INDEX_FILE in others:
        to.put(f"{to.key}/{INDEX_FILE}", at.destination / INDEX_FILE)
    _write_state(job, to, "complete")
    _tidy_up(to)


def _checked_parts(to: Bucket, at: Places, names: list[str], there: dict[str, Object]) -> dict[str, Object]:
    """The objects of all parts, each as its task has held it against its digest."""
    parts, missing = {}, []
    for name, record in in_order(lambda name: (name, _fetch_record(to, at, name)), names):
        of = there.get(_parts(to, record["object"])) if record else None
        if record is None or of is None:
            missing.append(name)
        elif not _fits(record, of):
            raise DamagedError(f"{to.url}: its part {name} is not what its task wrote: run it again")
        else:
            parts[name] = of
    if missing:
        named = ", ".join(missing[:_MAX_NAMED]) + (
            f" and {len(missing) - _MAX_NAMED} more" if missing[_MAX_NAMED:] else ""
        )
        is_one = len(missing) == 1
        text = f"its part {named} is missing" if is_one else f"its parts {named} are missing"
        raise RefusedError(f"{to.url}: {text}: run it again, which makes what is missing")
    return parts


def _is_named(to: Bucket, files: list[tuple[str, int, str | None]]) -> bool:
    """Whether all files have their names, and the index too if there is one."""
    found = {of.name: of.n_bytes for of in to.list(to.key)}
    return all(found.get(name) == n_bytes for name, n_bytes, _ in files) and (len(files) == 1 or INDEX_FILE in found)


def _identity(job: Job) -> str:
    text = repr((job.source, job.format, sorted(native(job.format, {**job.options, "force": False}).items())))
    return hashlib.sha256(text.encode()).hexdigest()


def _write_state(job: Job, to: Bucket, state: str) -> None:
    """Notes that what lies under the final names is this job's."""
    to.put(_parts(to, "state.json"), json.dumps({"job": _identity(job), "state": state}).encode())


def _read_state(to: Bucket) -> dict[str, str]:
    """What was noted last; nothing if that can't be read."""
    try:
        state = json.loads(to.read(_parts(to, "state.json")) or b"{}")
        return state if isinstance(state, dict) else {}
    except (ValueError, RecursionError):
        return {}


def _tidy_up(to: Bucket) -> None:
    keys = [of.key for of in to.list_all(f"{to.key}{PARTS}")]
    state = _parts(to, "state.json")
    to.delete([key for key in keys if key != state])
    to.delete([key for key in keys if key == state])
