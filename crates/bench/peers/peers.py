"""Measures peers on request: peers.py WEIGHTS N_THREADS, then a name a line, answered with seconds."""

import ctypes
import glob
import importlib.util
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

path, n_threads = sys.argv[1], int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = str(n_threads)
# What packages print must not come among the answers.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import bitsandbytes.functional as bnb
import numpy as np
import torch

torch.set_num_threads(n_threads)
weights = np.fromfile(path, np.float32)
pool = ThreadPoolExecutor(n_threads)

BLOCK_BYTES = {"q4_0": 18, "q8_0": 34, "mxfp4": 17}
folder = importlib.util.find_spec("llama_cpp").submodule_search_locations[0]
library = ctypes.CDLL(min(glob.glob(os.path.join(folder, "lib", "libggml-base*")), key=len))
# A part for each thread; a call through ctypes holds no lock.
part = weights.size // n_threads // 32 * 32
out = {name: np.ones(weights.size // 32 * n_bytes, np.uint8) for name, n_bytes in BLOCK_BYTES.items()}


def ggml(name):
    quantize = getattr(library, f"quantize_row_{name}_ref")
    quantize.argtypes, quantize.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    n_bytes = BLOCK_BYTES[name]

    def one(thread):
        first = thread * part
        n = weights.size - first if thread == n_threads - 1 else part
        quantize(weights.ctypes.data + first * 4, out[name].ctypes.data + first // 32 * n_bytes, n)

    list(pool.map(one, range(n_threads)))


sixteenth = torch.from_numpy(weights[: weights.size // 16])


def nf4():
    bnb.quantize_4bit(sixteenth, blocksize=64, quant_type="nf4")


for line in sys.stdin:
    name = line.strip()
    start = time.perf_counter()
    if name == "nf4":
        nf4()
    elif name != "ready":
        ggml(name)
    print(time.perf_counter() - start, file=answers)
