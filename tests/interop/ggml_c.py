"""ggml's own C code for quantizing, from the library that llama-cpp-python carries."""

import ctypes
import glob
import importlib.util
import os

import numpy as np

BLOCK_BYTES = {"q4_0": 18, "q8_0": 34, "mxfp4": 17}

_folder = importlib.util.find_spec("llama_cpp").submodule_search_locations[0]
_found = glob.glob(os.path.join(_folder, "lib", "libggml-base*"))
_library = ctypes.CDLL(min(_found, key=len))
_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64


def _call(name, source, target, n):
    function = getattr(_library, name)
    function.argtypes, function.restype = [_pointer, _pointer, _int64], None
    function(source.ctypes.data, target.ctypes.data, n)
    return target


def quantize(name, x):
    x = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
    assert x.size % 32 == 0
    return _call(f"quantize_row_{name}_ref", x, np.zeros(x.size // 32 * BLOCK_BYTES[name], np.uint8), x.size)


def dequantize(name, blocks):
    blocks = np.ascontiguousarray(blocks).reshape(-1)
    n = blocks.size // BLOCK_BYTES[name] * 32
    return _call(f"dequantize_row_{name}", blocks, np.zeros(n, np.float32), n)
