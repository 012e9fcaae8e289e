"""Objects in a store that speaks S3, by ``s3://bucket/prefix``."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ._errors import DamagedError, Error, IoError, RefusedError
from ._wgquant import Digest

SCHEME = "s3://"
PIECE_BYTES = 16 << 20
"""Bytes that a request moves at a time."""
STREAMS = 4
"""Requests at the same time, and so pieces in memory."""
MAX_COPY_BYTES = 5 << 30
"""The store copies no larger object by itself."""
_MAX_PARTS = 10_000

CHANGED = "was changed while it was read, so what came of it is worthless: run it again"

T = TypeVar("T")
R = TypeVar("R")


def is_url(place: str) -> bool:
    """Whether it names something in a store. Other stores than S3's are refused."""
    scheme, found, _ = place.partition("://")
    if found and scheme.lower() != "s3":
        raise RefusedError(f"{place}: there is no way to stores of {scheme}://: give s3://bucket/prefix, or a folder")
    return bool(found)


@dataclass(frozen=True)
class Object:
    """An object as a listing has it."""

    key: str
    n_bytes: int
    etag: str
    modified_ns: int

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


class Bucket:
    """A bucket, and the key or prefix in it that a URL names."""

    def __init__(self, url: str, options: Mapping[str, Any] | None, max_retries: int = 10) -> None:
        self.bucket, _, key = url[len(SCHEME) :].partition("/")
        self.key = key.strip("/")
        self.url = f"{SCHEME}{self.bucket}/{self.key}"
        if not self.bucket or not self.key or any(part in ("", ".", "..") for part in self.key.split("/")):
            raise RefusedError(f"{url}: is no place in a bucket: give it as s3://bucket/prefix")
        try:
            import obstore
        except ImportError:
            raise RefusedError(f"{url}: needs the package obstore: pip install 'wgquant[s3]'") from None
        self._obs = obstore
        # A copy within the store takes as long as it takes.
        config = {"timeout": "600s", **(options or {})}
        retries = {"max_retries": max_retries, "retry_timeout": timedelta(seconds=180)}
        with self._sentences(self.key):
            self._store = obstore.store.S3Store(self.bucket, config=config, retry_config=retries)

    def place(self, key: str) -> str:
        """The URL of an object."""
        return f"{SCHEME}{self.bucket}/{key}"

    def list(self, prefix: str) -> list[Object]:
        """What lies directly in a prefix, as in a folder."""
        with self._sentences(prefix):
            found = self._obs.list_with_delimiter(self._store, prefix)["objects"]
        return [_object(meta) for meta in found]

    def list_all(self, prefix: str) -> list[Object]:
        """What lies in a prefix at any depth."""
        with self._sentences(prefix):
            return [_object(meta) for batch in self._obs.list(self._store, prefix) for meta in batch]

    def head(self, key: str) -> Object | None:
        """What is known of an object, or ``None`` if there is none."""
        try:
            with self._sentences(key):
                return _object(self._obs.head(self._store, key))
        except FileNotFoundError:
            return None

    def read(self, key: str) -> bytes | None:
        """A small object as it is now, or ``None`` if there is none."""
        try:
            with self._sentences(key):
                return bytes(self._obs.get(self._store, key).bytes())
        except FileNotFoundError:
            return None

    def read_range(self, of: Object, start: int, end: int) -> Any:
        """Bytes of an object, which is still the one that was listed."""
        if start >= end:
            return b""
        try:
            with self._sentences(of.key):
                got = self._obs.get(self._store, of.key, options={"range": (start, end), "if_match": of.etag})
                data = got.bytes()
        except FileNotFoundError:
            raise DamagedError(
                f"{self.place(of.key)}: has gone while it was read: put it back, and run it again"
            ) from None
        if len(data) != end - start or got.meta["e_tag"] != of.etag:
            raise DamagedError(f"{self.place(of.key)}: {CHANGED}")
        return data

    def pieces(self, of: Object, runs: Iterable[tuple[int, int]] | None = None) -> Iterator[tuple[int, Any]]:
        """Runs of an object's bytes, or all of it, in order and in pieces, each with where it starts."""
        runs = [(0, of.n_bytes)] if runs is None else runs
        cut = ((at, min(at + PIECE_BYTES, end)) for start, end in runs for at in range(start, end, PIECE_BYTES))
        for (at, _), data in in_order(lambda piece: (piece, self.read_range(of, *piece)), cut):
            yield at, data

    def digest(self, of: Object) -> str:
        """BLAKE3 of an object, read from the store."""
        digest = Digest()
        for _, data in self.pieces(of):
            digest.update(data)
        return digest.hexdigest()

    def put(self, key: str, data: bytes | Path | Iterator[bytes], n_bytes: int | None = None) -> str:
        """Writes an object, which appears when it is whole; gives its ETag. ``n_bytes`` are those of an iterator."""
        large = n_bytes if n_bytes is not None else data.stat().st_size if isinstance(data, Path) else len(data)  # type: ignore
        chunk = max(PIECE_BYTES, -(-large // _MAX_PARTS))
        with self._sentences(key):
            put = self._obs.put(
                self._store, key, data, use_multipart=large > chunk, chunk_size=chunk, max_concurrency=STREAMS
            )
        return str(put["e_tag"])

    def copy(self, of: Object, key: str) -> None:
        """Copies an object within the bucket."""
        if of.n_bytes > MAX_COPY_BYTES:
            self.put(key, (bytes(data) for _, data in self.pieces(of)), of.n_bytes)
        else:
            try:
                with self._sentences(of.key):
                    self._obs.copy(self._store, of.key, key)
            except FileNotFoundError:
                raise DamagedError(f"{self.place(of.key)}: has gone before it was copied: run it again") from None
        made = self.head(key)
        if made is None or made.n_bytes != of.n_bytes:
            raise DamagedError(f"{self.place(key)}: is not what was copied to it: run it again")

    def delete(self, keys: list[str]) -> None:
        """Removes objects; those that are not there are no error."""
        if keys:
            with self._sentences(keys[0]), contextlib.suppress(FileNotFoundError):
                self._obs.delete(self._store, keys)

    @contextlib.contextmanager
    def _sentences(self, key: str) -> Iterator[None]:
        """Says what failed in one sentence."""
        try:
            yield
        except Error:
            raise
        except (self._obs.exceptions.BaseError, FileNotFoundError, ValueError) as error:
            raise self._sentence(key, error) from None

    def _sentence(self, key: str, error: Exception) -> Exception:
        place, text = self.place(key), str(error).partition("\n\nDebug")[0]
        kind = type(error).__name__
        found = re.search(r"<Code>(\w+)</Code>", text)
        code = found.group(1) if found else ""
        if code == "NoSuchBucket":
            return RefusedError(f"{place}: there is no bucket {self.bucket!r}: make it, or give another name")
        if kind == "FileNotFoundError":
            return FileNotFoundError(place)
        if kind == "PreconditionError":
            return DamagedError(f"{place}: {CHANGED}")
        if kind == "UnknownConfigurationKeyError":
            return RefusedError(f"storage_options: {text}")
        if kind in ("PermissionDeniedError", "UnauthenticatedError") or re.search(r"\b40[13] (Unauth|Forb)", text):
            return IoError(
                f"{place}: the store gave no access ({code or 'status 401 or 403'}): check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or storage_options, and what they allow"
            )
        if re.search(r"/latest/api/token|Missing (SecretAccessKey|AccessKeyId)", text):
            return IoError(
                f"{place}: there are no keys for the store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "storage_options, or give the machine a role"
            )
        if "builder error" in text and "http://" in text:
            return IoError(f"{place}: the store is at an http:// address: allow that with AWS_ALLOW_HTTP=true")
        if "HTTP error" in text:
            where = re.search(r"https?://[^/\s]+", text)
            return IoError(
                f"{place}: the store at {where.group() if where else 'its endpoint'} can't be reached: check "
                f"AWS_ENDPOINT_URL, AWS_REGION and AWS_ALLOW_HTTP, or storage_options ({_plain(text)})"
            )
        return IoError(f"{place}: the store failed: {_plain(text)}")


def _plain(text: str) -> str:
    """What the store's client said, in a line."""
    text = re.sub(r"<\?xml.*?\?>|</?\w+>", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= 300 else text[:300] + "…"


def _object(meta: Any) -> Object:
    time = meta["last_modified"]
    modified_ns = int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000
    return Object(meta["path"], meta["size"], meta["e_tag"] or "", modified_ns)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What ``work`` makes of items, in order, with a few of them in the making at a time."""
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        waiting: list[concurrent.futures.Future[R]] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= STREAMS:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
