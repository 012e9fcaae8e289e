"""What the scripts share: runs of wgquant, differences counted by bits, and lines that say what was found."""

import json
import os
import subprocess
import sys

import torch

torch.set_num_threads(2)
INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


class Peers:
    """Our binary, and what was found with it."""

    def __init__(self, binary):
        self.binary, self.failed = os.path.abspath(binary), False

    def run(self, command, *args):
        """Runs a command, on the CPU where it has a choice; gives its exit code and what it printed."""
        device = ["--device", "cpu"] if command in ["quantize", "dequantize"] else []
        line = [self.binary, command, *args, *device, "--quiet", "--json"]
        done = subprocess.run(line, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def ok(self, command, *args):
        """The document that a command prints, which must succeed."""
        code, document, error = self.run(command, *args)
        if code != 0:
            sys.exit(f"wgquant {command} {' '.join(args)}: {error}")
        return json.loads(document)

    def packed(self, path):
        """Names of the weights that are packed there, and their format."""
        tensors = [tensor for tensor in self.ok("inspect", path)["tensors"] if tensor.get("format")]
        return {tensor["name"]: tensor["format"] for tensor in tensors}

    def say(self, line, is_right):
        """One line for each comparison; the script fails if one is not right."""
        print(line if is_right else f"WRONG: {line}", flush=True)
        self.failed |= not is_right

    def end(self):
        if self.failed:
            sys.exit("there are differences that are by nobody's design")


def differing(ours, theirs, zeros_are_equal=False):
    """How many elements differ by bits; types and shapes must be the same."""
    kinds = [(tensor.dtype, tensor.shape) for tensor in [ours, theirs]]
    assert kinds[0] == kinds[1], kinds
    integers = INTEGERS.get(ours.dtype, ours.dtype)
    differ = ours.contiguous().view(integers) != theirs.contiguous().view(integers)
    if zeros_are_equal:
        differ &= ~((ours == 0) & (theirs == 0))
    return int(differ.sum())


def flip(path, tensor, bits):
    """Damages a tensor of a safetensors file: some bits of every byte in the middle half of it."""
    with open(path, "r+b") as file:
        n_header = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(n_header))[tensor]["data_offsets"]
        quarter = (end - start) // 4
        file.seek(8 + n_header + start + quarter)
        middle = file.read(2 * quarter)
        file.seek(-len(middle), os.SEEK_CUR)
        file.write(bytes(byte ^ bits for byte in middle))
