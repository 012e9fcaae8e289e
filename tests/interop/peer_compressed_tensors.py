"""transformers with compressed-tensors: it loads what we write, and we read what compressed-tensors saves.

    python tests/interop/peer_compressed_tensors.py MODEL WGQUANT
"""

import os
import re
import sys
import tempfile
import warnings

import compressed_tensors.offload.dispatch
import compressed_tensors.quantization.lifecycle.apply
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file
from transformers import AutoModel, CompressedTensorsConfig

from common import Peers, differing, flip

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
for module in [compressed_tensors.offload.dispatch, compressed_tensors.quantization.lifecycle.apply]:
    module.tqdm = lambda items, **_: items  # their bars would stand between our lines
# That `dequantize` is not in the model's config.json.
warnings.filterwarnings("ignore", message="You passed `quantization_config`")
DAMAGED = "encoder.layer.2.intermediate.dense.weight"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BITS = {"sym4": 4, "sym8": 8}
# With scales of absmax/this, rounded to 16 bits, no code is beyond ours.
HALF_RANGE = {"sym4": 7, "sym8": 126}
# Their scales are absmax/7.5 or absmax/127.5, so that they have codes of -8 or -128, which our formats have not.
REFUSAL = r'"\S+": block \d+ holds the code {} at element \d+, which {} never writes: the data is damaged, or .*'


def run_once(model):
    """The first run makes weights of packed ones."""
    with torch.no_grad():
        model.eval()(input_ids=torch.tensor([[101, 2054, 102]]))
    return model


def weights_that_differ(values, model):
    """Of all parameters: values that differ by bits, of how many."""
    count = total = 0
    for name, theirs in model.named_parameters():
        if name in values:
            count += differing(values[name], theirs.detach())
            total += theirs.numel()
    return count, total


def count_packed(model):
    return sum(hasattr(module, "weight_packed") for module in model.modules())


def they_read(peers, format, model, folder):
    out, back = os.path.join(folder, f"ours-{format}"), os.path.join(folder, "back")
    peers.ok("quantize", model, "-o", out, "--format", format, "--container", "compressed-tensors")
    peers.ok("dequantize", out, "-o", back, "--force")
    values = load_file(back)
    loaded = AutoModel.from_pretrained(out)
    n_packed = count_packed(loaded)
    peers.say(f"{format}: {n_packed} Linears loaded packed", n_packed == 37)
    ways = [
        ("in the first run", run_once(loaded)),
        ("on loading", AutoModel.from_pretrained(out, quantization_config=CompressedTensorsConfig(dequantize=True))),
    ]
    for way, model in ways:
        count, total = weights_that_differ(values, model)
        text = f"{format}: dequantized {way} and by us: {count} of {total} values differ"
        peers.say(text, count == 0 and total > 22_000_000)
    flip(os.path.join(out, "model.safetensors"), f"{DAMAGED}_packed", 0x11)
    count, _ = weights_that_differ(values, run_once(AutoModel.from_pretrained(out)))
    peers.say(f"{format}: one weight damaged: {count} values differ, which is found", count > 0)


def save_theirs(format, name, plain, saved, half_range):
    """Has compressed-tensors pack and save a model. Scales are absmax / half_range, or their own."""
    scheme = {"num_bits": BITS[format], "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}
    group = {"targets": ["Linear"], "weights": scheme}
    model = AutoModel.from_pretrained(plain, dtype=DTYPES[name])
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": group}))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.detach().unflatten(-1, (-1, 64))
            least, most = groups.amin(-1), groups.amax(-1)
            scale, _ = calculate_qparams(least, most, module.quantization_scheme.weights)
            if half_range is not None:
                scale = torch.maximum(-least, most) / half_range
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(saved)
    compressor.update_config(saved)


def we_read(peers, format, name, model, folder, half_range):
    plain, saved, back = (os.path.join(folder, part) for part in ["plain", "saved", "back"])
    AutoModel.from_pretrained(model, dtype=DTYPES[name]).save_pretrained(plain)
    save_theirs(format, name, plain, saved, half_range)
    scales = "their scales" if half_range is None else f"scales absmax/{half_range}"
    about = f"{format}, {name}, {scales}"
    packed = peers.packed(saved)
    peers.say(f"{about}: inspect finds {len(packed)} weights", len(packed) == 37 and set(packed.values()) == {format})
    code, _, error = peers.run("dequantize", saved, "-o", back, "--force")
    theirs = AutoModel.from_pretrained(saved)
    n_lowest = lowest_codes(theirs, BITS[format])
    if code != 0:
        # Only their own scales may make such codes.
        sentence = error.partition(": tensor ")[2].strip()
        lowest = 2 ** (BITS[format] - 1)
        is_sentence = re.fullmatch(REFUSAL.format(lowest, format), sentence) is not None
        text = f"{about}: {n_lowest} codes are {-lowest}, so it is refused: {sentence}"
        peers.say(text, is_sentence and half_range is None and n_lowest > 0)
        return
    count, total = weights_that_differ(load_file(back), run_once(theirs))
    peers.say(f"{about}: of what they saved {count} of {total} values differ", count == 0 and n_lowest == 0)
    flip(os.path.join(saved, "model.safetensors"), f"{DAMAGED}_scale", 0x01)
    peers.ok("dequantize", saved, "-o", back, "--force")
    count, _ = weights_that_differ(load_file(back), theirs)
    peers.say(f"{about}: one weight damaged: {count} values differ, which is found", count > 0)


def lowest_codes(model, bits):
    """How many codes are -8 or -128, which are stored as 0."""
    words = (module.weight_packed for module in model.modules() if hasattr(module, "weight_packed"))
    return sum(int((((word.unsqueeze(-1) >> torch.arange(0, 32, bits)) & (2**bits - 1)) == 0).sum()) for word in words)


def main(model, wgquant):
    peers = Peers(wgquant)
    for format in BITS:
        with tempfile.TemporaryDirectory() as folder:
            they_read(peers, format, model, folder)
            for name in DTYPES:
                for half_range in [None, HALF_RANGE[format]]:
                    we_read(peers, format, name, model, folder, half_range)
    peers.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
