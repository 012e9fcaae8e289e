"""What stands in on a node for what is in a store: sparse files of the source's lengths and times of change, with all headers and
the bytes of a task's own tensors; and a place for what is made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import _wgquant
from ._errors import DamagedError, Error, RefusedError
from ._objects import CHANGED, Bucket, Object, in_order, is_url
from ._options import QuantizeOptions, native
from ._scratch import scratch_errors, scratch_folder

PARTS = ".wgquant-parts"
MODEL_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
NO_TASK = (1 << 32, 1 << 32)
"""A task beyond all files: it reads nothing but headers."""
_HEAD_BYTES = 64 << 10
"""What is read of a file at first: most headers are shorter."""
_MAX_HEADER_BYTES = 100_000_000
_MAX_TEXT_BYTES = {CONFIG_FILE: 16 << 20, INDEX_FILE: 256 << 20}
_MAX_GGUF_HEADER_BYTES = 256 << 20
_SLACK_BYTES = 64 << 20
"""What a task's disk should have beyond what it is known to take."""


@dataclass(frozen=True)
class Job:
    """What is done, and with what. Either place is a folder's path or a URL."""

    source: str
    destination: str
    format: str
    options: QuantizeOptions
    scratch: str | None = None
    storage_options: dict[str, Any] | None = field(default=None, repr=False)

    def bucket(self, url: str, max_retries: int = 10) -> Bucket:
        return Bucket(url, self.storage_options, max_retries)


@dataclass(frozen=True)
class Snapshot:
    """A source in a store as it was when the job began: what every task sees, or refuses to go on."""

    objects: tuple[Object, ...]
    heads: dict[str, bytes]
    """The first bytes of files with weights, headers and all."""
    is_file: bool

    @property
    def identity(self) -> str:
        """What tells it from any other."""
        text = repr([(of.key, of.n_bytes, of.etag) for of in self.objects])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Places:
    """Where the job's two places are on this node."""

    source: pathlib.Path
    destination: pathlib.Path
    options: Any
    folder: pathlib.Path
    names: tuple[tuple[str, str], ...]
    """Paths on this node, and what the job calls them."""
    identity: str | None

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Lets errors speak of the job's places."""
        try:
            yield
        except Error as error:
            text, path = str(error), str(error.path or "")
            for here, name in self.names:
                text, path = text.replace(here, name), path.replace(here, name)
            renamed = type(error)(text)
            renamed.__dict__.update(error.__dict__)
            if error.path is not None:
                renamed.path = path
            raise renamed from None

    def parts(self) -> pathlib.Path:
        return self.destination.with_name(self.destination.name + PARTS)


@contextlib.contextmanager
def staged(job: Job, snapshot: Snapshot | None) -> Iterator[Places]:
    """Stands in for what is in a store: the source's headers, and a place for what is made."""
    options: QuantizeOptions = {**job.options}
    if not snapshot and not is_url(job.destination):
        here = pathlib.Path(job.source), pathlib.Path(job.destination)
        yield Places(*here, native(job.format, options), here[1].parent, (), None)
        return
    with scratch_folder(job.scratch) as folder:
        source, destination = pathlib.Path(job.source), pathlib.Path(job.destination)
        names = []
        if snapshot:
            name = job.source.rstrip("/")
            # In a folder of its own, as an object may be called anything.
            source = folder / "in" / (name.rpartition("/")[2] if snapshot.is_file else "")
            names.append((str(source), name))
            _stage_heads(snapshot, source)
        if is_url(job.destination):
            destination = folder / "out"
            names.append((str(destination), job.destination.rstrip("/")))
            options["force"] = False  # there is nothing here that it could replace
        identity = snapshot.identity if snapshot else None
        yield Places(source, destination, native(job.format, options), folder, tuple(names), identity)


def take_snapshot(job: Job) -> Snapshot:
    bucket = job.bucket(job.source, max_retries=3)
    objects = {of.name: of for of in bucket.list(bucket.key) if of.name not in ("", ".", "..")}
    is_file = not objects
    if is_file:
        found = bucket.head(bucket.key)
        if found is None:
            raise RefusedError(f"{bucket.url}: there is no such object, nor any with that prefix: check the name")
        objects = {found.name: found}
    heads: dict[str, bytes] = {}
    for name, max_bytes in () if is_file else _MAX_TEXT_BYTES.items():
        if name in objects:
            # One that is longer is refused by its length.
            n_bytes = objects[name].n_bytes
            heads[name] = bytes(bucket.read_range(objects[name], 0, n_bytes if n_bytes <= max_bytes else 0))
    weights = list(objects) if is_file else _with_weights(objects, heads)
    for name, head in in_order(lambda name: (name, _head(bucket, objects[name])), weights):
        heads[name] = head
    return Snapshot(tuple(sorted(objects.values(), key=lambda of: of.key)), heads, is_file)


def _with_weights(objects: dict[str, Object], heads: dict[str, bytes]) -> list[str]:
    """The files that a model's folder says its weights are in, as far as they are there."""
    if MODEL_FILE in objects:
        return [MODEL_FILE]
    try:
        named = set(json.loads(heads[INDEX_FILE])["weight_map"].values())
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return []  # which is said better where the index is read
    return sorted(name for name in named if name in objects)


def _head(bucket: Bucket, of: Object) -> bytes:
    """A file's header; the first bytes of one that is not safetensors'."""
    head = bytes(bucket.read_range(of, 0, min(of.n_bytes, _HEAD_BYTES)))
    end = 8 + int.from_bytes(head[:8], "little")
    if head[:4] == b"GGUF" or end > min(of.n_bytes, 8 + _MAX_HEADER_BYTES):
        return head
    return head[:end] + bytes(bucket.read_range(of, len(head), end)) if end > len(head) else head[:end]


def grow_heads(job: Job, snapshot: Snapshot | None, at: Places) -> None:
    """Brings all of a GGUF file's header, of which only reading it says how long it is."""
    if not snapshot or not snapshot.is_file:
        return
    (of,) = snapshot.objects
    while snapshot.heads[of.name][:4] == b"GGUF":
        n_bytes = len(snapshot.heads[of.name])
        # What is missing of it reads as zeros.
        with contextlib.suppress(DamagedError, RefusedError):
            _, _, reads = _wgquant.plan_task(at.source, at.destination, at.options, NO_TASK)
            if reads[0][2] <= n_bytes:
                return
        if n_bytes >= min(of.n_bytes, _MAX_GGUF_HEADER_BYTES):
            return
        more = job.bucket(job.source).read_range(of, n_bytes, min(of.n_bytes, 4 * n_bytes))
        snapshot.heads[of.name] += bytes(more)
        _stage_heads(snapshot, at.source)


def _stage_heads(snapshot: Snapshot, source: pathlib.Path) -> None:
    """Makes the source's files, of which only the headers take room."""
    folder = source.parent if snapshot.is_file else source
    with scratch_errors(folder.parent):
        folder.mkdir(exist_ok=True)
        for of in snapshot.objects:
            if of.name in snapshot.heads:
                path = folder / of.name
                with open(path, "wb") as file:
                    file.write(snapshot.heads[of.name])
                    file.truncate(of.n_bytes)
                os.utime(path, ns=(of.modified_ns, of.modified_ns))


def bring(job: Job, snapshot: Snapshot, at: Places, reads: list[tuple[pathlib.Path, int, int]]) -> None:
    """Fills in the runs that a task reads, but for the headers, which are there."""
    bucket = job.bucket(job.source)
    objects = {of.name: of for of in snapshot.objects}
    runs: dict[pathlib.Path, list[tuple[int, int]]] = {}
    for path, start, end in reads:
        start = max(start, len(snapshot.heads[path.name]))
        if start < end:
            runs.setdefault(path, []).append((start, end))
    for path, of_file in runs.items():
        write(bucket, objects[path.name], path, of_file)


def write(bucket: Bucket, of: Object, path: pathlib.Path, runs: list[tuple[int, int]]) -> None:
    """Writes runs of an object to its file here, which keeps the object's time."""
    with scratch_errors(path):
        with open(path, "r+b" if path.exists() else "wb") as file:
            for at, data in bucket.pieces(of, runs):
                file.seek(at)
                file.write(data)
        os.utime(path, ns=(of.modified_ns, of.modified_ns))


def check_room(at: Places, reads: Any, bytes_out: int) -> None:
    wanted = sum(end - start for _, start, end in reads) + bytes_out
    free = shutil.disk_usage(at.folder).free
    if wanted and free < wanted + _SLACK_BYTES:
        raise RefusedError(
            f"{at.folder.parent}: has {free} bytes free, and a task takes {wanted}: give another folder as scratch, or a "
            "smaller shard_size"
        )


def check_unchanged(job: Job, snapshot: Snapshot) -> None:
    """Refuses to name what came of a source that is another by now."""
    bucket = job.bucket(job.source)
    found = [bucket.head(bucket.key)] if snapshot.is_file else bucket.list(bucket.key)
    now = {of.key: (of.etag, of.n_bytes) for of in found if of}
    for of in snapshot.objects:
        if of.name in snapshot.heads and now.get(of.key) != (of.etag, of.n_bytes):
            raise DamagedError(f"{bucket.place(of.key)}: {CHANGED}")
