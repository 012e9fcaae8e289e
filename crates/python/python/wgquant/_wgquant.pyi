"""The native half: what it reports, and what the package calls."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, final

import numpy
import numpy.typing

__version__: str
FORMATS: list[str]

_Progress = Callable[[str, int, int], object] | None

@final
class Packed:
    """Codes and scales of a packed array. Two are equal if format, shape and all bytes are."""

    @staticmethod
    def from_parts(
        format: str,
        shape: Sequence[int],
        dtype: str,
        codes: Any,
        scales: Any,
        nested_absmax: Any | None = None,
        nested_offset: float = 0.0,
    ) -> Packed: ...
    @property
    def format(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def codes(self) -> numpy.typing.NDArray[Any]: ...
    @property
    def scales(self) -> numpy.typing.NDArray[Any]: ...
    @property
    def nested_absmax(self) -> numpy.typing.NDArray[numpy.float32] | None: ...
    @property
    def nested_offset(self) -> float | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def digest(self) -> str: ...
    def __eq__(self, other: object) -> bool: ...

@final
class Figures:
    """How far values moved."""

    @property
    def max_abs_error(self) -> float: ...
    @property
    def mse(self) -> float: ...
    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise in decibels; ``None`` where there is no error at all."""
    @property
    def worst_block(self) -> int: ...

@final
class Tensor:
    """A tensor of a checkpoint; what a job does not know of it is ``None``."""

    @property
    def name(self) -> str: ...
    @property
    def action(self) -> str | None:
        """``quantized``, ``copied`` or ``dequantized``."""
    @property
    def format(self) -> str | None: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def bytes_in(self) -> int | None: ...
    @property
    def bytes_out(self) -> int | None: ...
    @property
    def digest(self) -> str | None:
        """BLAKE3 of codes and scales, in hexadecimal."""
    @property
    def figures(self) -> Figures | None: ...
    @property
    def verified(self) -> str | None: ...
    @property
    def mismatch(self) -> str | None: ...

@final
class Report:
    """What a job did, or would do; what does not apply to it is ``None``."""

    @property
    def adapter(self) -> str | None: ...
    @property
    def format(self) -> str | None: ...
    @property
    def container(self) -> str | None: ...
    @property
    def bytes_in(self) -> int | None: ...
    @property
    def bytes_out(self) -> int | None: ...
    @property
    def tensors(self) -> list[Tensor]: ...
    @property
    def n_resumed(self) -> int | None: ...
    @property
    def files(self) -> list[str] | None: ...
    @property
    def n_files(self) -> int | None: ...
    @property
    def metadata(self) -> dict[str, str] | None: ...
    @property
    def mismatch(self) -> str | None: ...
    @property
    def notices(self) -> list[str]: ...

@final
class Compared:
    """What a format would give: for all tensors, or for one."""

    @property
    def format(self) -> str: ...
    @property
    def tensor(self) -> str | None:
        """The tensor; ``None`` in the total."""
    @property
    def bytes_out(self) -> int | None: ...
    @property
    def figures(self) -> Figures | None: ...
    @property
    def unfit(self) -> str | None:
        """Why it does not fit a tensor."""
    @property
    def bits_per_weight(self) -> float | None: ...
    @property
    def n_unfit(self) -> int | None: ...
    @property
    def on_frontier(self) -> bool | None: ...

@final
class Adapter:
    """A GPU."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def device_type(self) -> str: ...
    @property
    def driver(self) -> str: ...
    @property
    def limits(self) -> dict[str, int]: ...
    @property
    def features(self) -> list[str]: ...

class Options(TypedDict):
    format: str
    container: str
    include: list[str]
    exclude: list[str]
    min_elements: int | None
    copy_unfit: bool
    overrides: list[tuple[str, str | None]]
    shard_size: int | None
    verify: str
    force: bool
    resume: bool
    sync: bool

def main(arguments: Sequence[str]) -> int: ...
def quantize(array: Any, format: str, dtype: str | None, device: str) -> Packed: ...
def dequantize(packed: Packed, out: Any, dtype: str | None, device: str) -> None: ...
def quantize_file(
    source: Any, destination: Any, options: Options, device: str, memory: int | None, progress: _Progress
) -> Report: ...
def quantize_task(
    source: Any,
    destination: Any,
    options: Options,
    task: tuple[int, int],
    device: str,
    memory: int | None,
    progress: _Progress,
) -> Report: ...
def finish_tasks(source: Any, destination: Any, options: Options, progress: _Progress) -> Report: ...
def plan(source: Any, destination: Any, options: Options) -> Report: ...
def plan_task(
    source: Any, destination: Any, options: Options, task: tuple[int, int]
) -> tuple[list[tuple[str, int, str | None]], int, list[tuple[pathlib.Path, int, int]]]: ...
def finish_elsewhere(source: Any, destination: Any, options: Options) -> Report: ...
def holds_weights(name: str) -> bool: ...

class Digest:
    def __init__(self) -> None: ...
    def update(self, data: Any) -> None: ...
    def hexdigest(self) -> str: ...

def dequantize_file(
    source: Any,
    destination: Any,
    dtype: str | None,
    force: bool,
    sync: bool,
    device: str,
    memory: int | None,
    progress: _Progress,
) -> Report: ...
def verify(original: Any, quantized: Any, progress: _Progress) -> tuple[Report, str | None]: ...
def inspect(path: Any) -> Report: ...
def compare(
    original: Any,
    formats: list[str] | None,
    include: list[str],
    exclude: list[str],
    min_elements: int | None,
    progress: _Progress,
) -> tuple[list[Compared], list[Compared]]: ...
def adapters() -> list[Adapter]: ...
