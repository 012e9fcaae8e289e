"""Folders on a node's own disk that go away with the work they were made for, or with the next one after it was killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from ._errors import Error, IoError

try:
    import fcntl
except ImportError:  # Windows, where what a killed process left stays
    fcntl = None  # type: ignore[assignment]

_PREFIX = "wgquant-scratch-"


@contextlib.contextmanager
def scratch_folder(parent: str | None) -> Iterator[pathlib.Path]:
    """A new folder in ``parent``, or where temporary files go. Others whose process was killed are removed."""
    root = pathlib.Path(parent or tempfile.gettempdir())
    with scratch_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        file, lock = _locked(root)
    folder = lock.with_suffix("")
    try:
        with scratch_errors(root):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(file)
        lock.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_errors(folder: pathlib.Path) -> Iterator[None]:
    """Says in a sentence that a folder can't hold what it should."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        why = error.strerror or error
        raise IoError(f"{folder}: can't be written to ({why}): give another folder as scratch") from None


def _locked(root: pathlib.Path) -> tuple[int, pathlib.Path]:
    """An open and locked file, which says that the folder of its name is in use."""
    while True:
        file, name = tempfile.mkstemp(prefix=_PREFIX, suffix=".lock", dir=root)
        # Another's sweep may have come between the two.
        if _lock(file) is not False and os.path.exists(name):
            return file, pathlib.Path(name)
        os.close(file)


def _lock(file: int) -> bool | None:
    """Whether it was free; ``None`` where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(root: pathlib.Path) -> None:
    for lock in root.glob(f"{_PREFIX}*.lock"):
        with contextlib.suppress(OSError):
            file = os.open(lock, os.O_RDWR)
            try:
                if _lock(file):
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()
            finally:
                os.close(file)
