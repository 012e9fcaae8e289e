"""Holds a GGUF file that wgquant wrote against the Python package gguf.

usage: gguf_reader.py ORIGINAL.safetensors QUANTIZED.gguf DEQUANTIZED.safetensors

The package must find every tensor of the original, dequantize what is packed to exactly the floats that `wgquant
dequantize` gave (-0.0 and 0.0 differ), and, for q4_0 and q8_0, quantize the original to exactly the bytes in the file.
Prints how many weights it compared.
"""

import json
import struct
import sys

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64,
         "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
Q = gguf.GGMLQuantizationType
PACKED = (Q.Q4_0, Q.Q8_0, Q.MXFP4)


def read_safetensors(path):
    """Name to (type, array); the array is a view of the file."""
    data = np.memmap(path, mode="r")
    (n_bytes,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + n_bytes].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + n_bytes + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[start:end].tobytes(), TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return tensors


def as_f32(dtype, array):
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def compare(name, what, ours, theirs):
    ours, theirs = np.ascontiguousarray(ours), np.ascontiguousarray(theirs)
    if ours.shape != theirs.shape:
        sys.exit(f"{name}: {what} have shape {ours.shape} here and {theirs.shape} there")
    bits = {1: np.uint8, 4: np.uint32}[ours.itemsize]
    differ = (ours.view(bits) != theirs.view(bits)).sum()
    if differ:
        sys.exit(f"{name}: {differ} {what} of {ours.size} differ")


def main():
    original, packed, back = sys.argv[1:]
    reader = gguf.GGUFReader(packed)
    original, back = read_safetensors(original), read_safetensors(back)
    found = {tensor.name: tensor for tensor in reader.tensors}
    if found.keys() != original.keys():
        sys.exit(f"tensors differ: {sorted(found.keys() ^ original.keys())}")
    n_weights = 0
    for name, tensor in found.items():
        dtype, values = original[name]
        if list(reversed(tensor.shape.tolist())) != list(values.shape):
            sys.exit(f"{name}: shape {tensor.shape.tolist()} for {values.shape}")
        if tensor.tensor_type not in PACKED:
            if tensor.tensor_type.name != dtype or tensor.data.tobytes() != values.tobytes():
                sys.exit(f"{name}: it was not copied bit for bit")
            continue
        compare(name, "dequantized values", back[name][1], dequantize(tensor.data, tensor.tensor_type))
        if tensor.tensor_type != Q.MXFP4:
            compare(name, "bytes", tensor.data, quantize(as_f32(dtype, values), tensor.tensor_type))
        n_weights += values.size
    print(n_weights)


if __name__ == "__main__":
    main()
