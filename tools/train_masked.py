#!/usr/bin/env python3
"""Trains the small LLaDA model that tests of masked generation use, and writes it as a GGUF file.

    tools/train_masked.py --minutes 8 tests/engine/masked/counting.gguf

It counts ("37>42=" is answered by "37 38 39 40 41 42"), repeats ("say otter=") and spells backwards ("back otter="),
letter by letter: answers of which a confident model knows most at once. Needs torch, numpy and gguf.

B: rows of a batch, T: tokens of a text, V: vocabulary, D: width, H: heads.
"""

import argparse
import math
import random
import time

import torch
import torch.nn.functional as F
from gguf import GGUFWriter, TokenType

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
EOS, BOS, MASK = 1, 2, 4
TOKENS = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + ["\n", "▁"]
BYTE, NEWLINE, SPACE = len(SPECIAL), len(TOKENS) - 2, len(TOKENS) - 1
CANVAS = 40
WIDTH, LAYERS, HEADS, INNER = 64, 3, 4, 160
EPSILON, BASE = 1e-6, 1e4


def encode(text):
    return [{" ": SPACE, "\n": NEWLINE}.get(c, BYTE + ord(c)) for c in text]


def example(draw):
    """A prompt and its only right answer."""
    kind = draw.random()
    if kind < 0.7:
        start, count = draw.randrange(10, 84), draw.randrange(2, 14)
        last = min(start + count - 1, 99)
        return f"{start}>{last}=", " ".join(str(n) for n in range(start, last + 1))
    word = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randrange(2, 9)))
    return (f"say {word}=", word) if kind < 0.9 else (f"back {word}=", word[::-1])


def batch(draw, rows):
    """Tokens [B, T], which of them belong to the canvas, which are padding."""
    texts = []
    for _ in range(rows):
        prompt, answer = example(draw)
        answer = encode(answer)
        texts.append(([BOS] + encode(prompt), answer + [EOS] * (CANVAS - len(answer))))
    longest = max(len(prompt) for prompt, _ in texts)
    tokens = torch.zeros(rows, longest + CANVAS, dtype=torch.long)
    canvas, padding = torch.zeros_like(tokens, dtype=torch.bool), torch.ones_like(tokens, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(texts):
        end = len(prompt) + CANVAS
        tokens[row, :end] = torch.tensor(prompt + answer)
        canvas[row, len(prompt) : end] = True
        padding[row, :end] = False
    return tokens, canvas, padding


def norm(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, EPSILON)


class Network(torch.nn.Module):
    """Parameters by the names of the GGUF file."""

    def __init__(self):
        super().__init__()
        shapes = {"token_embd": (len(TOKENS), WIDTH), "output": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
        for layer in range(LAYERS):
            blk = f"blk.{layer}."
            for name in ["attn_q", "attn_k", "attn_v", "attn_output"]:
                shapes[blk + name] = (WIDTH, WIDTH)
            shapes |= {blk + "attn_norm": (WIDTH,), blk + "ffn_norm": (WIDTH,), blk + "ffn_down": (WIDTH, INNER)}
            shapes |= {blk + "ffn_gate": (INNER, WIDTH), blk + "ffn_up": (INNER, WIDTH)}
        self.weights = torch.nn.ParameterDict()
        for name, shape in shapes.items():
            value = torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * shape[1] ** -0.5
            self.weights[name.replace(".", "/")] = torch.nn.Parameter(value)

    def named(self):
        return {name.replace("/", "."): weight for name, weight in self.weights.items()}

    def forward(self, tokens, padding):
        w = self.named()
        x = F.embedding(tokens, w["token_embd"])
        size = WIDTH // HEADS
        angles = torch.arange(x.shape[1])[:, None] * BASE ** (-torch.arange(0, size, 2) / size)
        cos, sin = angles.cos(), angles.sin()

        def heads(y):
            return y.unflatten(-1, (HEADS, size)).transpose(1, 2)

        def rotate(y):  # neighbours are pairs
            a, b = y[..., ::2], y[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

        seen = ~padding[:, None, None, :]
        for layer in range(LAYERS):
            blk = f"blk.{layer}."
            y = norm(x, w[blk + "attn_norm"])
            q, k, v = (heads(y @ w[blk + name].T) for name in ["attn_q", "attn_k", "attn_v"])
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=seen)
            x = x + y.transpose(1, 2).flatten(-2) @ w[blk + "attn_output"].T
            y = norm(x, w[blk + "ffn_norm"])
            y = F.silu(y @ w[blk + "ffn_gate"].T) * (y @ w[blk + "ffn_up"].T)
            x = x + y @ w[blk + "ffn_down"].T
        return norm(x, w["output_norm"]) @ w["output"].T


def loss_of(network, draw, rows):
    """Cross-entropy of masked tokens, a uniformly distributed share of each canvas."""
    tokens, canvas, padding = batch(draw, rows)
    masked = canvas & (torch.rand(tokens.shape) < torch.rand(rows, 1))
    logits = network(tokens.masked_fill(masked, MASK), padding)
    return F.cross_entropy(logits[masked], tokens[masked])


def export(network, path):
    writer = GGUFWriter(path, "llada")
    writer.add_name("counting")
    writer.add_bool("diffusion.shift_logits", False)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(i) for i in range(len(TOKENS))])
    types = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * 2
    writer.add_token_types(types)
    writer.add_token_merges(["▁ ▁"])
    for name, token in [("bos", BOS), ("eos", EOS), ("unknown", 3), ("padding", 0), ("mask", MASK)]:
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_bool("tokenizer.ggml.add_space_prefix", False)
    for name, weight in network.named().items():
        weight = weight.detach().numpy()
        writer.add_tensor(name + ".weight", weight if weight.ndim == 1 else weight.astype("float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=8, help="processor time")
    parser.add_argument("--rows", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    draw = random.Random(1)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)
    step, mean = 0, 0.0
    while (share := time.process_time() / (60 * args.minutes)) < 1:
        rate = 4e-3 * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(network, draw, args.rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        mean += 0.02 * (loss.item() - mean)
        step += 1
        if step % 200 == 0:
            print(f"step {step}, {100 * share:.0f} %, loss {mean:.4f}", flush=True)
    export(network, args.out)


if __name__ == "__main__":
    main()
