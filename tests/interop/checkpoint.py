"""Our packed weights of a whole checkpoint against what bitsandbytes and ggml make of the same weights.

    python tests/interop/checkpoint.py MODEL WGQUANT

Kinds of difference that are by design are counted and printed; any other ends it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import torch
from safetensors import safe_open

import ggml_c

torch.set_num_threads(2)
PIVOTS = np.float32([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333])
FP4 = bnb.get_4bit_type("fp4", device="cpu").numpy().astype(np.float32)
MXFP4 = np.float64([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def nibbles(codes):
    return np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1)


def fp4_kinds(x, absmax, ours, theirs):
    """Counts kinds of difference; levels are ranks of magnitudes."""
    level = np.argsort(np.argsort(FP4[:8]))
    at = np.flatnonzero(ours != theirs)
    ours, theirs, x = ours[at], theirs[at], x[at]
    n = np.abs(x * (np.float32(1) / absmax[at // 64]))
    zero = (ours % 8 == 0) & (theirs % 8 == 0)
    low = np.minimum(level[ours % 8], level[theirs % 8])
    high = np.maximum(level[ours % 8], level[theirs % 8])
    magnitudes = np.sort(FP4[:8])
    midpoint, pivot = (magnitudes[low % 7] + magnitudes[low % 7 + 1]) / np.float32(2), PIVOTS[low % 7]
    same_sign = (ours // 8 == theirs // 8) | (ours % 8 == 0) | (theirs % 8 == 0)
    neighbours = (high == low + 1) & same_sign & ~zero
    tie = neighbours & (n == midpoint) & (x < 0)
    between = neighbours & ~tie & (np.minimum(midpoint, pivot) <= n) & (n <= np.maximum(midpoint, pivot))
    return {
        "the sign of zero": zero.sum(),
        "a tie of a negative value": tie.sum(),
        "between midpoint and pivot": between.sum(),
        "OTHER": (~(zero | tie | between)).sum(),
    }


def against_bitsandbytes(name, x, codes, scales):
    flat = x.reshape(-1)
    packed, state = bnb.quantize_4bit(torch.from_numpy(x), blocksize=64, quant_type=name)
    counts = Counter()
    counts["OTHER"] += (state.absmax.numpy().view(np.uint32) != scales.view(np.uint32)).sum()
    ours, theirs = nibbles(codes)[: flat.size], nibbles(packed.numpy().reshape(-1))[: flat.size]
    if name == "fp4":
        counts.update(fp4_kinds(flat, scales, ours, theirs))
    else:
        counts["OTHER"] += (ours != theirs).sum()
    # What they make of our codes.
    values = bnb.dequantize_4bit(torch.from_numpy(codes.reshape(-1, 1)), state).numpy().reshape(-1)
    return counts, values


def against_ggml(name, x, codes, scales):
    """ggml's blocks have the scale before its codes; ours lie apart."""
    n = x.size // 32
    codes, scales = codes.view(np.uint8).reshape(n, -1), scales.view(np.uint8).reshape(n, -1)
    blocks = np.concatenate([scales, codes], axis=1)
    counts = Counter()
    kind = gguf.GGMLQuantizationType[name.upper()]
    for peer, theirs in [("C", ggml_c.quantize(name, x)), ("numpy", gguf.quants.quantize(x.reshape(-1), kind))]:
        theirs = theirs.reshape(n, -1)
        if name != "mxfp4":
            counts["OTHER"] += (theirs != blocks).sum()
            continue
        counts["OTHER"] += (theirs[:, 0] != blocks[:, 0]).sum()
        by_element = lambda b: np.concatenate([b[:, 1:] & 15, b[:, 1:] >> 4], axis=1)
        ours, others = by_element(blocks), by_element(theirs)
        y = np.abs(x.reshape(n, 32).astype(np.float64)) / np.exp2(blocks[:, :1].astype(np.float64) - 127)
        tie = (ours != others) & (MXFP4[ours % 8] + MXFP4[others % 8] == 2 * y) & (ours % 2 == 0)
        counts[f"a tie ({peer})"] += tie.sum()
        counts["OTHER"] += ((ours != others) & ~tie).sum()
    return counts, ggml_c.dequantize(name, blocks)


def main(model, wgquant):
    failed, checkpoint = False, os.path.join(model, "model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        for name in ["nf4", "fp4", "q4_0", "q8_0", "mxfp4"]:
            packed, back = os.path.join(folder, "packed"), os.path.join(folder, "back")
            output = ["--device", "cpu", "--quiet", "--force"]
            subprocess.run([wgquant, "quantize", checkpoint, "-o", packed, "--format", name, *output], check=True)
            subprocess.run([wgquant, "dequantize", packed, "-o", back, *output], check=True)
            counts, n = Counter(), 0
            with (
                safe_open(checkpoint, "np") as original,
                safe_open(packed, "np") as ours,
                safe_open(back, "np") as values,
            ):
                for weight in json.loads(ours.metadata()["wgquant"])["weights"]:
                    x = original.get_tensor(weight)
                    compare = against_bitsandbytes if name in ["nf4", "fp4"] else against_ggml
                    codes, scales = ours.get_tensor(weight), ours.get_tensor(f"{weight}.scales")
                    found, theirs = compare(name, x, codes, scales)
                    counts.update(found)
                    if n == 0:
                        # One byte changed must be found: the comparison can fail.
                        damaged = codes.copy()
                        damaged[damaged.size // 2] ^= 0x11
                        assert compare(name, x, damaged, scales)[0]["OTHER"] > 0, name
                    mine = values.get_tensor(weight).reshape(-1)
                    # Values of the same codes and scales: equal bits, but for the sign of zero.
                    differ = (mine.view(np.uint32) != theirs.view(np.uint32)) & ~((mine == 0) & (theirs == 0))
                    counts["OTHER"] += differ.sum()
                    n += x.size
            failed |= counts["OTHER"] > 0 or n < 20_000_000
            print(f"{name}: {n} weights:", ", ".join(f"{kind} {int(count)}" for kind, count in counts.items()))
    if failed:
        sys.exit("there are differences that are by nobody's design")


main(*sys.argv[1:])
