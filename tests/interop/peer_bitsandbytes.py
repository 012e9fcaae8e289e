"""transformers with bitsandbytes: it loads and runs what we write, and we read what it saves.

    python tests/interop/peer_bitsandbytes.py MODEL WGQUANT
"""

import json
import os
import shutil
import sys
import tempfile

import bitsandbytes
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from sentences import SENTENCES
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig

from common import Peers, differing, flip

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
COSINE = 1 - 1e-3
DAMAGED = "encoder.layer.2.intermediate.dense.weight"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def bnb_modules(model):
    """Modules that bitsandbytes has put in place of Linears, by the names of their weights."""
    kind = bitsandbytes.nn.Linear4bit
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, kind)}


def embed(model, tokenizer):
    """Sentence embeddings: the mean over tokens."""
    tokens = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**tokens).last_hidden_state.float()
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    return (states * mask).sum(1) / mask.sum(1)


def least_cosine(ours, theirs):
    return float(torch.nn.functional.cosine_similarity(ours.double(), theirs.double()).min())


def config_of(kind, skip, dtype=torch.float32):
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind.removesuffix("-dq"),
        bnb_4bit_use_double_quant=kind.endswith("-dq"),
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skip,
    )


def parts_of(module):
    """What bitsandbytes holds of a weight, by what our files add to its name."""
    state = module.weight.quant_state
    parts = {"": module.weight.data, ".absmax": state.absmax}
    if state.nested:
        parts |= {".nested_absmax": state.state2.absmax, ".nested_quant_map": state.state2.code}
    return parts


def codes_that_differ(model, file):
    """Elements of codes and scales in the model that are not the file's, of how many. Modules must be bitsandbytes'."""
    modules, count, total = bnb_modules(model), 0, 0
    with safe_open(file, "pt") as ours:
        names = {name.removesuffix(".absmax") for name in ours.keys() if name.endswith(".absmax")}
        assert modules.keys() == names and len(names) == 37, modules.keys() ^ names
        for name, module in modules.items():
            for part, theirs in parts_of(module).items():
                count += differing(ours.get_tensor(name + part), theirs)
                total += theirs.numel()
    return count, total


def values_that_differ(ours, wide, model):
    """Of the values that `wgquant dequantize` gave, those that bitsandbytes' own are not, and how many there are.
    Differences by design come second: bitsandbytes rounds to f32 and then to f16, and we once; `wide` are f32."""
    other = twice = total = 0
    for name, module in bnb_modules(model).items():
        theirs = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        differ = differing(ours[name], theirs, zeros_are_equal=True)
        if differ and differing(wide[name].to(theirs.dtype), theirs, zeros_are_equal=True) == 0:
            apart = ours[name].view(torch.int16).int() - theirs.view(torch.int16).int()
            apart[(ours[name] == 0) & (theirs == 0)] = 0
            twice += int((apart.abs() == 1).sum())
            differ = int((apart.abs() > 1).sum())
        other += differ
        total += theirs.numel()
    return other, twice, total


def dequantized(peers, packed, folder):
    """Values as `wgquant dequantize` gives them, in the type of the model and in f32."""
    back, wide = os.path.join(folder, "back"), os.path.join(folder, "wide")
    peers.ok("dequantize", packed, "-o", back, "--force")
    peers.ok("dequantize", packed, "-o", wide, "--force", "--dtype", "f32")
    return load_file(back), load_file(wide)


def they_read(peers, kind, model, folder, tokenizer, original):
    out = os.path.join(folder, f"ours-{kind}")
    peers.ok("quantize", model, "-o", out, "--format", kind, "--container", "bnb")
    with open(os.path.join(out, "config.json")) as file:
        skip = json.load(file)["quantization_config"]["llm_int8_skip_modules"]
    ours = AutoModel.from_pretrained(out)
    file = os.path.join(out, "model.safetensors")
    count, total = codes_that_differ(ours, file)
    text = f"{kind}: 37 Linears loaded as Linear4bit, {count} of {total} code bytes and scales differ"
    peers.say(text, count == 0)
    values, wide = dequantized(peers, out, folder)
    count, twice, total = values_that_differ(values, wide, ours)
    peers.say(f"{kind}: dequantized by them and by us: {count} of {total} values differ", count + twice == 0)
    theirs = embed(AutoModel.from_pretrained(model, quantization_config=config_of(kind, skip)), tokenizer)
    cosine = least_cosine(embed(ours, tokenizer), theirs)
    text = f"{kind}: {len(SENTENCES)} sentences, ours and quantized by them: least cosine {cosine:.7f}"
    peers.say(text, cosine >= COSINE)
    plain = AutoModel.from_pretrained(model, dtype=torch.float32)
    plain.load_state_dict(values, strict=False)
    cosine = least_cosine(embed(ours, tokenizer), embed(plain, tokenizer))
    text = f"{kind}: the same, and the plain model of our dequantized values: least cosine {cosine:.7f}"
    peers.say(text, cosine >= COSINE)
    cosine = least_cosine(embed(ours, tokenizer), original)
    peers.say(f"{kind}: the same, and the model before quantizing: least cosine {cosine:.4f}", True)
    flip(file, DAMAGED, 0x88)
    cosine = least_cosine(embed(AutoModel.from_pretrained(out), tokenizer), theirs)
    peers.say(f"{kind}: one weight damaged: least cosine {cosine:.4f}, which is found", cosine < COSINE)
    shutil.rmtree(out)


def we_read(peers, kind, name, model, folder):
    """What transformers saves; `name` is the type of the model."""
    plain, saved = os.path.join(folder, "plain"), os.path.join(folder, "saved")
    dtype = DTYPES[name]
    AutoModel.from_pretrained(model, dtype=dtype).save_pretrained(plain)
    theirs = AutoModel.from_pretrained(plain, dtype=dtype, quantization_config=config_of(kind, ["embeddings"], dtype))
    theirs.save_pretrained(saved)
    packed = peers.packed(saved)
    wanted = dict.fromkeys(bnb_modules(theirs), kind)
    peers.say(f"{kind}, {name}: inspect finds {len(packed)} weights", packed == wanted)
    count, twice, total = values_that_differ(*dequantized(peers, saved, folder), theirs)
    text = f"{kind}, {name}: of what they saved {count} of {total} values differ, and {twice} that they round twice"
    peers.say(text, count == 0 and twice < (1 if name == "f32" else 2000))
    verified(peers, kind, name, plain, saved)
    flip(os.path.join(saved, "model.safetensors"), DAMAGED, 0x01)
    count, _, _ = values_that_differ(*dequantized(peers, saved, folder), theirs)
    code, _, _ = peers.run("verify", plain, saved)
    peers.say(f"{kind}, {name}: one weight damaged: {count} values differ, which is found", count > 0 and code == 1)


def verified(peers, kind, name, plain, saved):
    """All of nf4 matches; of fp4 weights differ where bitsandbytes' CPU differs from its CUDA kernels. Nested scales differ
    where it misses the nearest code, or adds up their mean otherwise."""
    code, document, _ = peers.run("verify", plain, saved)
    tensors = json.loads(document)["tensors"]
    packed = [tensor for tensor in tensors if tensor["action"] == "quantized"]
    differ = [tensor for tensor in packed if not tensor["matches"]]
    others = [tensor for tensor in tensors if tensor["action"] != "quantized" and not tensor["matches"]]
    found = f"{len(differ)} of {len(packed)} weights that differ, {len(others)} other tensors"
    text = f"{kind}, {name}: verify finds {found}"
    others += [tensor for tensor in differ if kind == "nf4-dq" and " scale" not in tensor["mismatch"]]
    is_right = not others and len(packed) == 37 and (code == 0 if kind == "nf4" else code in [0, 1])
    peers.say(text + (f", first: {differ[0]['mismatch']}" if differ else ""), is_right)


def main(model, wgquant):
    peers = Peers(wgquant)
    tokenizer = AutoTokenizer.from_pretrained(model)
    original = embed(AutoModel.from_pretrained(model, dtype=torch.float32), tokenizer)
    for kind in ["nf4", "fp4", "nf4-dq", "fp4-dq"]:
        with tempfile.TemporaryDirectory() as folder:
            they_read(peers, kind, model, folder, tokenizer, original)
            for name in DTYPES:
                we_read(peers, kind, name, model, folder)
    peers.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
