"""Compresses neural-network weights to 4 or 8 bits on any GPU or the CPU, with bytes that are the same everywhere.

Arrays: :func:`quantize` and :func:`dequantize`. Checkpoints: :func:`quantize_file`, :func:`dequantize_file`,
:func:`verify`, :func:`inspect`, :func:`compare`, :func:`plan`; in parts on many machines: :func:`quantize_task` and
:func:`finish_tasks`, or with Ray :mod:`wgquant.ray`. What goes wrong is an :class:`Error`.

``device`` is ``"auto"`` for the best GPU or else the CPU, ``"cpu"``, or part of a name that :func:`adapters` gives, with
``vulkan:`` or ``gl:`` before it where needed. It changes no byte of a result.

``progress`` is called every now and then with a tensor's name, the bytes done and the bytes there are. What it raises
stops the job, as Ctrl-C does: nothing of the output remains, and the exception comes out of the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Unpack

import numpy

from . import _wgquant
from ._errors import DamagedError, DeviceError, Error, IoError, MismatchError, NonFiniteError, RefusedError
from ._options import QuantizeOptions, native
from ._wgquant import FORMATS, Adapter, Compared, Figures, Packed, Report, Tensor, __version__, adapters

Path = str | os.PathLike[str]
Progress = Callable[[str, int, int], object]

__all__ = [
    "FORMATS",
    "Adapter",
    "Compared",
    "DamagedError",
    "DeviceError",
    "Error",
    "Figures",
    "IoError",
    "MismatchError",
    "NonFiniteError",
    "Packed",
    "QuantizeOptions",
    "RefusedError",
    "Report",
    "Tensor",
    "__version__",
    "adapters",
    "compare",
    "dequantize",
    "dequantize_file",
    "finish_tasks",
    "inspect",
    "plan",
    "quantize",
    "quantize_file",
    "quantize_task",
    "verify",
]


def quantize(array: Any, format: str, *, dtype: str | None = None, device: str = "auto") -> Packed:
    """Packs an array.

    ``array`` has any shape and elements of ``f32``, ``f16`` or ``bf16``, which are read where they are: a NumPy array, a
    PyTorch tensor on the CPU, or anything else with the buffer protocol or DLPack. It is copied only where its elements
    don't lie in a row. Other threads go on meanwhile; none should write to it. Blocks of the format are cut from the flat
    row-major order. ``dtype`` says what integers of 16 or 32 bits are the bits of.

    Raises :class:`NonFiniteError` with the flat ``index`` of the first NaN or infinity, :class:`RefusedError` for an
    unknown format, another type, no elements or a length that the format can't pack, :class:`DeviceError`, and
    ``TypeError`` for what is no array.
    """
    return _wgquant.quantize(array, format, dtype, device)


def dequantize(packed: Packed, *, dtype: str | None = None, out: Any | None = None, device: str = "auto") -> Any:
    """The values that a packed array stands for, each the exact product of code and scale, rounded once to nearest even.

    They come as a NumPy array of the packed array's shape and, unless ``dtype`` (``f32``, ``f16`` or ``bf16``) says
    another, of the type that it had. NumPy has ``bf16`` from the package ``ml_dtypes``. Or they go to ``out``, an array of
    this shape as :func:`quantize` takes them, with elements in a row, which is then what is returned.

    Raises :class:`DamagedError` for codes or scales that no writer makes, :class:`RefusedError` for a value beyond the
    type's range and an ``out`` that does not fit, and :class:`DeviceError`.
    """
    if out is None:
        out = numpy.empty(packed.shape, _numpy_dtype((dtype or packed.dtype).lower()))
        dtype = None
    _wgquant.dequantize(packed, out, dtype, device)
    return out


def _numpy_dtype(dtype: str) -> Any:
    if dtype in ("f32", "f16"):
        return {"f32": "<f4", "f16": "<f2"}[dtype]
    if dtype != "bf16":
        raise RefusedError(f"there is no type {dtype!r}; there are: f32, f16, bf16")
    try:
        import ml_dtypes
    except ImportError:
        raise RefusedError(
            "NumPy has bf16 only with the package ml_dtypes: install that, give out=, or ask for dtype='f32'"
        ) from None
    return ml_dtypes.bfloat16


def quantize_file(
    source: Path,
    destination: Path,
    format: str,
    *,
    resume: bool = False,
    device: str = "auto",
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[QuantizeOptions],
) -> Report:
    """Packs a checkpoint: a ``.safetensors`` or ``.gguf`` file, or a folder with ``model.safetensors`` or with shards.

    ``destination`` appears only when it is complete, and verified as far as ``verify`` says. ``options`` are those of
    :class:`QuantizeOptions`. ``memory`` is the most bytes in flight, on host and device together, at least 64 MiB.
    ``resume`` goes on with what a run left that failed because of the machine.

    Raises :class:`RefusedError` before any work, :class:`DamagedError` for an input that does not hold together,
    :class:`NonFiniteError` with ``tensor`` and ``index``, :class:`MismatchError` where verification fails,
    :class:`IoError` and :class:`DeviceError` (what is done is then ``kept``). Otherwise nothing of the output remains.
    """
    chosen = native(format, options, resume)
    return _wgquant.quantize_file(source, destination, chosen, device, memory, progress)


def quantize_task(
    source: Path,
    destination: Path,
    format: str,
    task: tuple[int, int],
    *,
    device: str = "auto",
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[QuantizeOptions],
) -> Report:
    """Does part ``(i, n)``, ``i`` from 1 to ``n``, of what :func:`quantize_file` does: some of the output's files.

    All parts take the same arguments, in any order and at the same time, on machines that share both folders. One that
    was killed is done again; what it had finished stays. :func:`finish_tasks` then makes the output.

    Raises as :func:`quantize_file`, and :class:`RefusedError` where the output is one file, or parts of another job lie.
    """
    return _wgquant.quantize_task(source, destination, native(format, options), task, device, memory, progress)


def finish_tasks(
    source: Path,
    destination: Path,
    format: str,
    *,
    progress: Progress | None = None,
    **options: Unpack[QuantizeOptions],
) -> Report:
    """Makes the output of the parts that :func:`quantize_task` made with the same arguments. It can be repeated.

    Every file is held against its digest; then the index is written, and the folder gets its name: byte for byte what
    :func:`quantize_file` writes.

    Raises :class:`RefusedError` that names parts which are missing or another job's, :class:`DamagedError` for one that is
    not what its task wrote, and :class:`IoError`. All parts stay.
    """
    return _wgquant.finish_tasks(source, destination, native(format, options), progress)


def plan(source: Path, destination: Path, format: str, **options: Unpack[QuantizeOptions]) -> Report:
    """What :func:`quantize_file` would do, with exact sizes in bytes and ``n_files``; nothing is done.

    Raises :class:`RefusedError` and :class:`DamagedError` as that does before any work.
    """
    return _wgquant.plan(source, destination, native(format, options))


def dequantize_file(
    source: Path,
    destination: Path,
    *,
    dtype: str | None = None,
    force: bool = False,
    sync: bool = False,
    device: str = "auto",
    memory: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Turns a packed checkpoint back into plain safetensors; weights get the type that they had, or ``dtype``.

    Raises as :func:`quantize_file`, :class:`DamagedError` for a digest that does not fit, and :class:`RefusedError` for a
    value beyond the type's range.
    """
    return _wgquant.dequantize_file(source, destination, dtype, force, sync, device, memory, progress)


def verify(original: Path, quantized: Path, *, progress: Progress | None = None) -> Report:
    """Recomputes a packed checkpoint from its original, and compares every byte; the report has the error figures.

    Raises :class:`MismatchError` with the first difference and the whole ``report``, :class:`DamagedError`,
    :class:`IoError`.
    """
    report, mismatch = _wgquant.verify(original, quantized, progress)
    if mismatch is not None:
        error = MismatchError(mismatch)
        error.report = report
        raise error
    return report


def inspect(path: Path) -> Report:
    """What a checkpoint holds, packed or not: tensors, formats, shapes, sizes in bytes (``bytes_in``), digests.

    Raises :class:`DamagedError` and :class:`IoError`.
    """
    return _wgquant.inspect(path)


def compare(
    original: Path,
    formats: Iterable[str] | None = None,
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    min_elements: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Compared], list[Compared]]:
    """The error and the size that each format (all by default) would give; writes nothing.

    Gives the formats over all tensors, and then each format for each tensor. A tensor that a format does not fit is
    ``unfit``, and counts as it is.

    Raises :class:`RefusedError`, :class:`DamagedError`, :class:`NonFiniteError`, :class:`IoError`.
    """
    chosen = None if formats is None else list(formats)
    return _wgquant.compare(original, chosen, list(include), list(exclude), min_elements, progress)
