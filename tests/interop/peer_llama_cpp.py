"""llama.cpp and the package gguf: llama.cpp runs what we write, and we read what both write.

    python tests/interop/peer_llama_cpp.py MODEL WGQUANT

MODEL is not looked at: the model is a small one of the kind llama whose weights are random, but always the same.
"""

import os
import shutil
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file

import ggml_c
from common import Peers, differing

EMBEDDING, FEED_FORWARD, HEADS, LAYERS = 256, 768, 4, 2
WORDS = ["▁the", "▁a", "▁cat", "▁dog", "▁sees", "▁and", "▁runs", "."]
TOKENS = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + WORDS
PROMPT = [1] + [TOKENS.index(word) for word in ["▁the", "▁cat", "▁sees", "▁a", "▁dog", "▁and", "▁runs", "."]]
# Least correlation with the logits of the f32 model: below what was seen.
CORRELATION = {"q8_0": 0.999, "q4_0": 0.95, "mxfp4": 0.93}
FTYPES = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "mxfp4": llama_cpp.LLAMA_FTYPE_MOSTLY_MXFP4_MOE,
}
DAMAGED = "blk.0.ffn_up.weight"


def tensors_of_model():
    """Names, and weights that are the same every time."""
    random = np.random.default_rng(20261124)
    matrix = lambda rows, columns: (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
    yield "token_embd.weight", matrix(len(TOKENS), EMBEDDING) * np.float32(16)
    yield "output_norm.weight", np.ones(EMBEDDING, np.float32)
    yield "output.weight", matrix(len(TOKENS), EMBEDDING)
    for layer in range(LAYERS):
        for name in ["attn_norm", "ffn_norm"]:
            yield f"blk.{layer}.{name}.weight", np.ones(EMBEDDING, np.float32)
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            yield f"blk.{layer}.{name}.weight", matrix(EMBEDDING, EMBEDDING)
        for name in ["ffn_gate", "ffn_up"]:
            yield f"blk.{layer}.{name}.weight", matrix(FEED_FORWARD, EMBEDDING)
        yield f"blk.{layer}.ffn_down.weight", matrix(EMBEDDING, FEED_FORWARD)


def write_model(path, format=None):
    """The model as f32, or with matrices that the package gguf packs."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_file_type(FTYPES.get(format, llama_cpp.LLAMA_FTYPE_ALL_F32))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    kind = gguf.TokenType
    writer.add_token_types([kind.UNKNOWN] + [kind.CONTROL] * 2 + [kind.BYTE] * 256 + [kind.NORMAL] * len(WORDS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, values in tensors_of_model():
        if format is None or values.ndim < 2:
            writer.add_tensor(name, values)
        else:
            packed = gguf.GGMLQuantizationType[format.upper()]
            writer.add_tensor(name, quantize(values, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(path):
    """Those of every token of the prompt, and what llama.cpp writes after it."""
    model = llama_cpp.Llama(path, n_ctx=64, n_threads=2, logits_all=True, verbose=False)
    model.eval(PROMPT)
    found = np.array(model.scores[: len(PROMPT)], dtype=np.float64)
    text = model.create_completion(PROMPT, max_tokens=8, temperature=0)["choices"][0]["text"]
    assert np.isfinite(found).all() and found.std() > 0
    model.close()
    return found, text


def correlation(ours, theirs):
    return float(np.corrcoef(ours.reshape(-1), theirs.reshape(-1))[0, 1])


def packed_tensors(path):
    """Blocks by name, as the package gguf finds them."""
    tensors = gguf.GGUFReader(path).tensors
    kinds = [gguf.GGMLQuantizationType[format.upper()] for format in FTYPES]
    return {tensor.name: tensor for tensor in tensors if tensor.tensor_type in kinds}


def quantize_with_llama_cpp(source, path, format):
    """What `llama-quantize --pure` does."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread, options.pure = FTYPES[format], 2, True
    done = llama_cpp.llama_model_quantize(source.encode(), path.encode(), options)
    assert done == 0, f"llama.cpp did not quantize {format}"


def they_read(peers, format, original, out):
    peers.ok("quantize", original, "-o", out, "--format", format, "--container", "gguf")
    peers.ok("verify", original, out)
    n_matrices = len(packed_tensors(out))
    wanted, _ = logits(original)
    found, text = logits(out)
    alike = correlation(found, wanted)
    line = f"{n_matrices} matrices packed, llama.cpp's {found.size} logits correlate with f32's by {alike:.4f}"
    peers.say(f"{format}: {line}", alike >= CORRELATION[format] and n_matrices == 2 + 7 * LAYERS and len(text) > 0)
    damaged = shutil.copy(out, f"{out}-damaged")
    damage(damaged)
    alike = correlation(logits(damaged)[0], wanted)
    peers.say(f"{format}: one matrix damaged: {alike:.4f}, which is found", alike < CORRELATION[format])


def damage(path):
    """Other codes and scales in a whole matrix."""
    tensor = packed_tensors(path)[DAMAGED]
    blocks = np.array(tensor.data)
    with open(path, "r+b") as file:
        file.seek(int(tensor.data_offset))
        file.write(np.roll(blocks, 1, axis=0).tobytes())


def values_that_differ(peers, path, folder):
    """What we make of the blocks in a file, and what ggml's C code and the package gguf make of them."""
    back, found = os.path.join(folder, "back"), packed_tensors(path)
    peers.ok("dequantize", path, "-o", back, "--force")
    ours, formats = load_file(back), peers.packed(path)
    assert formats == {name: tensor.tensor_type.name.lower() for name, tensor in found.items()}, formats
    count = total = 0
    for name, tensor in found.items():
        in_c = ggml_c.dequantize(formats[name], np.array(tensor.data))
        in_numpy = dequantize(tensor.data, tensor.tensor_type)
        for theirs in [in_c.reshape(in_numpy.shape), in_numpy]:
            count += differing(ours[name], torch.from_numpy(np.array(theirs)))
        total += in_c.size
    return count, total


def we_read(peers, format, original, path, writer, folder):
    count, total = values_that_differ(peers, path, folder)
    peers.say(f"{format}, {writer}: {count} of {total} values differ from ggml's and gguf's", count == 0 and total > 0)
    # They take another code on ties of mxfp4, but this model has none.
    code, _, error = peers.run("verify", original, path)
    peers.say(f"{format}, {writer}: verify against f32 says {'it matches' if code == 0 else error.strip()}", code == 0)


def same_logits(peers, format, ours, theirs):
    """Ours and llama.cpp's own file must run alike to the bit, because their blocks are the same."""
    blocks = [packed_tensors(path) for path in [ours, theirs]]
    assert blocks[0].keys() == blocks[1].keys()
    pairs = [(blocks[0][name].data, blocks[1][name].data) for name in blocks[0]]
    count, total = sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)
    apart = int((logits(ours)[0] != logits(theirs)[0]).sum())
    line = f"{format}: of llama.cpp's own {total} bytes of blocks {count} differ from ours, and {apart} logits"
    peers.say(line, count == 0 and apart == 0)


def main(_model, wgquant):
    peers = Peers(wgquant)
    with tempfile.TemporaryDirectory() as folder:
        original = os.path.join(folder, "original.gguf")
        write_model(original)
        for format in FTYPES:
            writers = ["wgquant", "llama.cpp", "gguf"]
            ours, theirs, package = (os.path.join(folder, f"{writer}-{format}.gguf") for writer in writers)
            they_read(peers, format, original, ours)
            write_model(package, format)
            we_read(peers, format, original, package, "by the package gguf", folder)
            quantize_with_llama_cpp(original, theirs, format)
            we_read(peers, format, original, theirs, "by llama.cpp", folder)
            same_logits(peers, format, ours, theirs)
            damage(theirs)
            code, _, _ = peers.run("verify", original, theirs)
            peers.say(f"{format}, by llama.cpp: one matrix damaged: verify finds it", code == 1)
    peers.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
