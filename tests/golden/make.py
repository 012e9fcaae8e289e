"""Makes vectors.safetensors and versions.txt: inputs, and what the peers themselves make of them.

    pip install -r tests/interop/requirements.txt
    python tests/golden/make.py

tests/golden.rs holds the CPU reference to these. All values are bits: inputs that are ordinary, that lie on the borders
between codes, and that are hostile.
"""

import importlib.metadata
import os
import platform
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "interop"))
import ggml_c

PACKAGES = ["bitsandbytes", "compressed-tensors", "gguf", "llama-cpp-python", "numpy", "torch"]
random = np.random.default_rng(20260323)


def f32(values):
    return np.asarray(values, dtype=np.float32)


def with_neighbours(values):
    """Each value, and the floats before and after it, with both signs."""
    values = f32(values)
    near = np.concatenate([np.nextafter(values, f32(-np.inf)), values, np.nextafter(values, f32(np.inf))])
    return np.concatenate([near, -near])


def blocks_of(values, block, absmax, scale=1.0):
    """Blocks that have +-absmax first, then some of the values, all times scale."""
    values = f32(values)
    room = block - 1
    values = np.concatenate([values, np.zeros(-len(values) % room, np.float32)]).reshape(-1, room)
    first = f32([[absmax * (-1) ** i] for i in range(len(values))])
    return (np.concatenate([first, values], axis=1) * f32(scale)).reshape(-1)


def ordinary(n):
    return f32(random.standard_normal(n)) * f32(0.05)


def hostile(block, scales):
    """Zero blocks of both signs, one weight alone, equal weights, and ordinary ones at every size."""
    zero, lone = np.zeros(block, np.float32), np.zeros(block, np.float32)
    lone[block // 2] = -3.5
    mixed_zero = zero.copy()
    mixed_zero[::3] = -0.0
    blocks = [zero, -zero, mixed_zero, lone, np.full(block, 0.25, np.float32), np.full(block, -0.25, np.float32)]
    for scale in scales:
        values = random.uniform(-1, 1, block)
        values[5] = 1 if len(blocks) % 2 else -1
        blocks.append(f32(values * scale))
    return np.concatenate(blocks)


SMALLEST = 2.0**-149
out = {}

# Of bitsandbytes: blocks of 64, then a short one. Their CPU code takes bounds between codes from the values themselves.
for kind in ["nf4", "fp4"]:
    levels = np.unique(f32(bnb.get_4bit_type(kind, device="cpu").numpy()))
    borders = np.abs((levels[1:] + levels[:-1]) / f32(2))
    pivots = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333] if kind == "fp4" else []
    borders = with_neighbours(np.concatenate([borders, f32(pivots)]))
    sizes = [3e38, 1e20, 1.0, 1e-20, 1.2e-38, 1.1754944e-38, 0.9e-38, 2.0**-128, 1e-40, 100 * SMALLEST, SMALLEST]
    x = np.concatenate(
        [ordinary(512), blocks_of(borders, 64, 1.0), blocks_of(borders, 64, 0.75), hostile(64, sizes), ordinary(37)]
    )
    packed, state = bnb.quantize_4bit(torch.from_numpy(x), blocksize=64, quant_type=kind)
    out[f"{kind}.input"] = x
    out[f"{kind}.codes"] = packed.reshape(-1).numpy()
    out[f"{kind}.absmax"] = state.absmax.numpy()
    out[f"{kind}.values"] = bnb.dequantize_4bit(packed, state).numpy()

# Double quantization: what becomes of absmax values. Blocks of 256, the last one short.
for name, absmax in [
    ("ordinary", np.abs(ordinary(600)) + f32(0.1)),
    ("equal", np.full(300, 0.7, np.float32)),
    ("wide", f32(np.exp(random.uniform(-60, 30, 400)))),
]:
    # As quantize_4bit does it with compress_statistics.
    offset = torch.from_numpy(absmax).mean()
    codes, state = bnb.quantize_blockwise(torch.from_numpy(absmax) - offset, blocksize=256)
    out[f"nested.{name}.input"] = absmax
    out[f"nested.{name}.codes"] = codes.numpy()
    out[f"nested.{name}.absmax"] = state.absmax.numpy()
    out[f"nested.{name}.offset"] = offset.reshape(1).numpy()
    out[f"nested.{name}.values"] = (bnb.dequantize_blockwise(codes, state) + offset).numpy()
out["nested.map"] = bnb.create_dynamic_map(signed=True).numpy()

# Of ggml, in C and in the gguf package's numpy. mxfp4's maxima just below a power of two test its logarithm.
halves = with_neighbours(np.arange(0, 8) + 0.5)
sizes = [65504, 1e5, 5e5, 524000, 8.3e6, 3e38, 1.0, 1e-5, 3e-8, 1e-20, 2.0**-126, 1e-38, 2.0**-131, 1e-45]
ggml_inputs = {
    "q4_0": [blocks_of(halves, 32, 8.0), blocks_of(halves, 32, 8.0, 0.1)],
    "q8_0": [blocks_of(with_neighbours(np.arange(0, 127, 9) + 0.5), 32, 127.0)],
    "mxfp4": [
        blocks_of(with_neighbours([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]), 32, 6.0, scale) for scale in [1.0, 2.0**-20]
    ]
    + [hostile(32, np.nextafter(f32([2.0**e for e in range(-120, 120, 20)]), f32(0)))],
}
for name, borders in ggml_inputs.items():
    x = np.concatenate([ordinary(512), *borders, hostile(32, sizes)])
    kind = gguf.GGMLQuantizationType[name.upper()]
    with np.errstate(all="ignore"):
        numpy_blocks = gguf.quants.quantize(x, kind)
    c_blocks = ggml_c.quantize(name, x)
    out[f"{name}.input"] = x
    out[f"{name}.numpy"] = numpy_blocks.reshape(-1)
    out[f"{name}.c"] = c_blocks
    with np.errstate(all="ignore"):
        out[f"{name}.values"] = gguf.quants.dequantize(c_blocks, kind).reshape(-1)
    assert np.array_equal(out[f"{name}.values"], ggml_c.dequantize(name, c_blocks), equal_nan=True), name

# Of compressed-tensors: given codes, and weights that have them in blocks of 64 with the scale 2^-6.
for name, bits in [("sym4", 4), ("sym8", 8)]:
    largest = 2 ** (bits - 1) - 1
    codes = random.integers(-largest, largest + 1, (6, 128)).astype(np.int8)
    codes[:, ::64] = largest
    out[f"{name}.input"] = f32(codes) / f32(64)
    out[f"{name}.packed"] = pack_to_int32(torch.from_numpy(codes), bits).numpy()

for name, array in out.items():
    # Floats as they are, bit for bit, NaN too.
    out[name] = np.ascontiguousarray(array)
versions = {package: importlib.metadata.version(package) for package in PACKAGES}
versions["machine"] = platform.machine()
save_file(out, os.path.join(HERE, "vectors.safetensors"))
os.chmod(os.path.join(HERE, "vectors.safetensors"), 0o644)
with open(os.path.join(HERE, "versions.txt"), "w") as file:
    file.writelines(f"{name} {version}\n" for name, version in versions.items())
print("".join(f"{name} {version}\n" for name, version in versions.items()), end="")
