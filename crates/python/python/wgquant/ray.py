"""A checkpoint on a Ray cluster: one task a file of the output, and a last one that finishes.

It needs ``pip install 'wgquant[ray]'`` on every node, and a folder that all of them share for source and destination
(stores such as S3 are not supported but where they are mounted as folders). The same call runs on one machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

import ray

from . import Path, QuantizeOptions, RefusedError, finish_tasks, plan, quantize_task

__all__ = ["Summary", "quantize_checkpoint"]

_PARTS = ".wgquant-parts"


@dataclass(frozen=True)
class Summary:
    """What was done. It has no tensors, so that the driver's memory does not grow with the model."""

    bytes_in: int
    """Bytes of the source's files."""
    bytes_out: int
    """Bytes of the output's files with weights."""
    n_files: int
    """How many those are."""
    n_tensors: int
    seconds: float


def quantize_checkpoint(
    source: Path,
    destination: Path,
    format: str,
    *,
    num_cpus: float = 1,
    num_gpus: float = 0,
    device: str | None = None,
    retries: int = 10,
    max_in_flight: int = 256,
    progress: Callable[[int, int], object] | None = None,
    **options: Unpack[QuantizeOptions],
) -> Summary:
    """Does what :func:`wgquant.quantize_file` does, byte for byte, over the cluster that Ray is connected to.

    The unit of work is a file of the output: a smaller ``shard_size`` makes more of them. A task takes ``num_cpus`` cores,
    which are the threads it uses, and ``num_gpus`` GPUs; ``device`` is ``"cpu"`` unless it has a GPU, and then
    ``"auto"``. A task whose node is lost is done again elsewhere, up to ``retries`` times; what was finished stays, also
    for another call after one that failed. At most ``max_in_flight`` tasks wait at a time. ``progress`` gets the number of
    files done and of all. The output's folder, with its index, appears last, when every file's digest was found right.

    Raises what :func:`wgquant.quantize_task` and :func:`wgquant.finish_tasks` raise, and Ray's own errors.
    """
    started = time.monotonic()
    source, destination = os.path.abspath(source), os.path.abspath(destination)
    device = device or ("auto" if num_gpus else "cpu")
    job = (source, destination, format, dict(options))
    cheap = {"num_cpus": num_cpus, "max_retries": retries}
    work = _quantize.options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries)
    bytes_in, bytes_out, n_files, n_tensors = ray.get(_plan.options(**cheap).remote(*job))
    pending: list[Any] = []
    next_task = n_done = 0
    try:
        while n_done < n_files:
            while next_task < n_files and len(pending) < max_in_flight:
                next_task += 1
                pending.append(work.remote(*job, (next_task, n_files), device, max(1, int(num_cpus))))
            done, pending = ray.wait(pending)
            for task in done:
                ray.get(task)
                n_done += 1
                if progress is not None:
                    progress(n_done, n_files)
    except BaseException:
        for task in pending:
            ray.cancel(task, force=True)
        raise
    ray.get(_finish.options(**cheap).remote(*job))
    return Summary(bytes_in, bytes_out, n_files, n_tensors, time.monotonic() - started)


@ray.remote
def _plan(source: str, destination: str, format: str, options: QuantizeOptions) -> tuple[Any, ...]:
    report = plan(source, destination, format, **options)
    return report.bytes_in, report.bytes_out, report.n_files, len(report.tensors)


@ray.remote
def _quantize(
    source: str,
    destination: str,
    format: str,
    options: QuantizeOptions,
    task: tuple[int, int],
    device: str,
    n_threads: int,
) -> None:
    # Read when the first task of a worker starts its threads.
    os.environ.setdefault("RAYON_NUM_THREADS", str(n_threads))
    quantize_task(source, destination, format, task, device=device, **options)


@ray.remote
def _finish(source: str, destination: str, format: str, options: QuantizeOptions) -> None:
    try:
        finish_tasks(source, destination, format, **options)
    except RefusedError:
        # All parts were there: where none are, this was done once, and its node lost before it could say so.
        if os.path.exists(destination + _PARTS) or not os.path.isdir(destination):
            raise
