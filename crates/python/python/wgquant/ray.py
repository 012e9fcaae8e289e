"""A checkpoint on a Ray cluster: one task a file of the output, and a last one that finishes.

It needs ``pip install 'wgquant[ray]'`` on every node. Source and destination are folders that all nodes share, or places in a
store that speaks S3, ``s3://bucket/prefix`` (with ``pip install 'wgquant[ray,s3]'``), in any combination. The same call runs on
one machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import ray

from . import Path, QuantizeOptions, RefusedError, _parts
from ._objects import is_url

__all__ = ["Summary", "quantize_checkpoint"]


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
    scratch: Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Unpack[QuantizeOptions],
) -> Summary:
    """Does what :func:`wgquant.quantize_file` does, byte for byte, over the cluster that Ray is connected to.

    The unit of work is a file of the output: a smaller ``shard_size`` makes more of them. A task takes ``num_cpus`` cores,
    which are the threads it uses, and ``num_gpus`` GPUs; ``device`` is ``"cpu"`` unless it has a GPU, and then
    ``"auto"``. A task whose node is lost is done again elsewhere, up to ``retries`` times; what was finished stays, also
    for another call after one that failed. At most ``max_in_flight`` tasks wait at a time. ``progress`` gets the number of
    files done and of all. The output's folder, with its index, appears last, when every file's digest was found right.

    **Stores.** ``source`` and ``destination`` may be ``s3://bucket/prefix``, and ``source`` ``s3://bucket/file.safetensors``.
    Nodes find the store by the environment variables of their Ray processes (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
    ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_ALLOW_HTTP``) or their machine's role;
    ``storage_options`` has the same names in lower case, with or without ``aws_``, comes before those, and goes to all
    tasks. A task brings what it reads to a folder in ``scratch`` (by default where temporary files go), which holds at
    most the headers of all files, its own tensors and the file it makes: about five times ``shard_size`` for ``bf16`` to
    4 bits. Parts lie in ``DESTINATION.wgquant-parts`` until all are done and each was read back and found right; then the
    store copies them to their names, and the index comes last: a prefix without it is no finished output. Uploads that a
    killed task left half done are invisible, and a lifecycle rule of the bucket removes them.

    Raises what :func:`wgquant.quantize_task` and :func:`wgquant.finish_tasks` raise, and Ray's own errors. A source that
    is changed meanwhile is a :class:`wgquant.DamagedError`, a store that gives no access or can't be reached a
    :class:`wgquant.IoError`, no such bucket or prefix a :class:`wgquant.RefusedError`.
    """
    started = time.monotonic()
    device = device or ("auto" if num_gpus else "cpu")
    stored = None if storage_options is None else dict(storage_options)
    folder = None if scratch is None else os.path.abspath(scratch)
    job = _parts.Job(_place(source), _place(destination), format, {**options}, folder, stored)
    cheap = {"num_cpus": num_cpus, "max_retries": retries}
    work = _quantize.options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries)
    # What the tasks need to know of the source goes from node to node, and not through here.
    survey, snapshot = _survey.options(num_returns=2, **cheap).remote(job)
    found = ray.get(survey)
    pending: list[Any] = []
    next_task = n_done = 0
    try:
        while n_done < found.n_files:
            while next_task < found.n_files and len(pending) < max_in_flight:
                next_task += 1
                pending.append(work.remote(job, snapshot, (next_task, found.n_files), device, max(1, int(num_cpus))))
            done, pending = ray.wait(pending)
            for task in done:
                ray.get(task)
                n_done += 1
                if progress is not None:
                    progress(n_done, found.n_files)
    except BaseException:
        for task in pending:
            ray.cancel(task, force=True)
        raise
    ray.get(_finish.options(**cheap).remote(job, snapshot))
    return Summary(found.bytes_in, found.bytes_out, found.n_files, found.n_tensors, time.monotonic() - started)


def _place(place: Path) -> str:
    """A URL as it is, and a folder's whole path."""
    text = os.fspath(place)
    return text if is_url(text) else os.path.abspath(text)


@ray.remote
def _survey(job: _parts.Job) -> tuple[Any, ...]:
    return _parts.survey(job)


@ray.remote
def _quantize(job: _parts.Job, snapshot: Any, task: tuple[int, int], device: str, n_threads: int) -> None:
    # Read when the first task of a worker starts its threads.
    os.environ.setdefault("RAYON_NUM_THREADS", str(n_threads))
    _parts.work(job, snapshot, task, device)


@ray.remote
def _finish(job: _parts.Job, snapshot: Any) -> None:
    try:
        _parts.finish(job, snapshot)
    except RefusedError:
        # All parts were there: where none are, this was done once, and its node lost before it could say so.
        if is_url(job.destination) or os.path.exists(job.destination + _parts.PARTS):
            raise
        if not os.path.isdir(job.destination):
            raise
