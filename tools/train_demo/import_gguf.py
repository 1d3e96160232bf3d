"""Makes a checkpoint of a demo model's GGUF file, to train on from it: `train.py --start`.

    python import_gguf.py ../../crates/demo-model/demo-q8_0.gguf CHECKPOINT
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, quants

import network
import tokenizer as tk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from convert_hf_to_gguf import Config, expected_tensors  # noqa: E402


def read_tokenizer(reader):
    """The tokenizer whose tokens and merges the file holds."""
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = [tuple(merge.split(" ")) for merge in reader.get_field("tokenizer.ggml.merges").contents()]
    return tk.assemble({token: i for i, token in enumerate(tokens)}, merges)


def checkpoint(gguf, folder):
    """Writes the checkpoint of a file whose model is network.build's, with a vocabulary of any size."""
    reader = GGUFReader(gguf)
    tokenizer = read_tokenizer(reader)
    model = network.build(tokenizer.get_vocab_size())
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tk.save(tokenizer, folder)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    weights = {}
    for spec in expected_tensors(Config(folder / "config.json")):
        values = quants.dequantize(stored[spec.gguf_name].data, stored[spec.gguf_name].tensor_type)
        weights.update(dict.fromkeys(spec.sources, torch.from_numpy(np.array(values, dtype=np.float32)).reshape(spec.shape)))
    model.load_state_dict({name: weights.get(name, value) for name, value in model.state_dict().items()})
    model.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("checkpoint", type=Path)
    args = parser.parse_args()
    checkpoint(args.gguf, args.checkpoint)


if __name__ == "__main__":
    main()
