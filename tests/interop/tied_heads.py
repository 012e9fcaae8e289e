"""Models whose output head shares an embedding's weight: what we write must run in transformers.

    python tests/interop/tied_heads.py MODEL WGQUANT

MODEL is not looked at: the models are small ones with random weights.
"""

import json
import os
import sys
import tempfile

import torch
import transformers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from common import Peers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SIZES = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 512, "vocab_size": 200}
MODELS = [
    (LlamaForCausalLM, LlamaConfig(tie_word_embeddings=True, **SIZES), "lm_head"),
    (BertForMaskedLM, BertConfig(**SIZES), "cls.predictions.decoder"),
]
CONTAINERS = [("bnb", "nf4", "llm_int8_skip_modules"), ("compressed-tensors", "sym4", "ignore")]


def logits(kind, folder):
    with torch.no_grad():
        return kind.from_pretrained(folder).eval()(input_ids=torch.tensor([[1, 2, 3]])).logits.float().reshape(-1)


def fails_without(head, key, kind, folder):
    """Whether the model does not run if its config.json does not name the head."""
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["quantization_config"][key].remove(head)
    with open(path, "w") as file:
        json.dump(config, file)
    try:
        logits(kind, folder)
    except Exception:
        return True
    return False


def main(_model, wgquant):
    peers = Peers(wgquant)
    for kind, config, head in MODELS:
        for container, format, key in CONTAINERS:
            with tempfile.TemporaryDirectory() as folder:
                original, out = os.path.join(folder, "original"), os.path.join(folder, "out")
                torch.manual_seed(20261124)
                kind(config).save_pretrained(original)
                peers.ok("quantize", original, "-o", out, "--format", format, "--container", container)
                cosine = torch.nn.functional.cosine_similarity(logits(kind, out), logits(kind, original), dim=0).item()
                about = f"{kind.__name__}, {container}"
                peers.say(f"{about}: it runs, and its logits' cosine with f32's is {cosine:.4f}", cosine > 0.95)
                peers.say(f"{about}: without {head} in config.json it fails", fails_without(head, key, kind, out))
    peers.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
