"""Exceptions, with the library's own sentences."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._wgquant import Report


class Error(Exception):
    """Everything that goes wrong in the library. ``str()`` gives one sentence: what, where, and what would do."""

    tensor: str | None = None
    """The tensor that it happened in, if it was in one."""
    path: os.PathLike[str] | str | None = None
    """The file that it happened in, if it was in one; of an object in a store, its URL."""
    kept: os.PathLike[str] | None = None
    """What of an unfinished output is kept, for ``resume=True`` to go on with; ``None`` if nothing is."""


class NonFiniteError(Error, ValueError):
    """A NaN or an infinity among the weights."""

    index: int = -1
    """Flat row-major index of the first one."""


class RefusedError(Error, ValueError):
    """What was asked for can't be done: an unknown format, a type or length that does not fit, an output that exists."""


class DamagedError(Error, ValueError):
    """A file, codes or scales that are not what they should be."""


class MismatchError(Error):
    """Bytes that differ from what the CPU reference gives."""

    report: Report | None = None
    """Of :func:`wgquant.verify`, every tensor and what differs."""


class DeviceError(Error, RuntimeError):
    """No GPU of that name, or one that failed."""


class IoError(Error, OSError):
    """Reading, writing or renaming failed."""
