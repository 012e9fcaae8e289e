"""How a checkpoint is quantized: the options that several calls share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from ._wgquant import Options


class QuantizeOptions(TypedDict, total=False):
    """Options of :func:`wgquant.quantize_file` and its kin, all of which may be left out."""

    container: str
    """The layout of the output: ``native`` (the default), ``bnb``, ``compressed-tensors``, ``gguf`` or ``mxfp4``."""
    include: Iterable[str]
    """Quantize only tensors whose name matches one of these globs, whatever their shape."""
    exclude: Iterable[str]
    """Leave tensors alone whose name matches one of these globs."""
    min_elements: int | None
    """Leave smaller tensors alone; 4096 by default, or any size with ``include``."""
    copy_unfit: bool
    """Copy tensors whose rows are no multiple of the format's block, instead of refusing them."""
    overrides: Mapping[str, str | None]
    """A format of its own for what matches a glob, or ``None`` to keep it; of several that match the last counts."""
    shard_size: int | None
    """Bytes of tensors that a file of the output holds at most; the output is then a folder with an index."""
    verify: str
    """How much of the result is recomputed on the CPU and compared: ``none``, ``sample`` (the default) or ``full``."""
    force: bool
    """Replace an existing output."""
    sync: bool
    """Flush the output to the disk before it gets its name."""


def native(format: str, given: QuantizeOptions, resume: bool = False) -> Options:
    """All options, as the native half takes them."""
    unknown = given.keys() - QuantizeOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
    for name in ("include", "exclude"):
        if isinstance(given.get(name), str):
            raise TypeError(f"{name} is a list of globs, not one string")
    return {
        "format": format,
        "container": given.get("container", "native"),
        "include": list(given.get("include", ())),
        "exclude": list(given.get("exclude", ())),
        "min_elements": given.get("min_elements"),
        "copy_unfit": given.get("copy_unfit", False),
        "overrides": list(dict(given.get("overrides", {})).items()),
        "shard_size": given.get("shard_size"),
        "verify": given.get("verify", "sample"),
        "force": given.get("force", False),
        "resume": resume,
        "sync": given.get("sync", False),
    }
