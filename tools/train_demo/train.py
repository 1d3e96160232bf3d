"""Trains the demo model on drawn examples, for a given time.

    python train.py --out CHECKPOINT --minutes 95

Writes a Hugging Face checkpoint to --out, and next to it CHECKPOINT.state, from which the same command continues after a
stop (also one by SIGTERM). A larger --minutes then trains longer.
"""

import argparse
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import network
import tasks
import tokenizer as tk
from evaluate import answers
from optimizer import optimizers

BATCH = 32
ALL_NOISE = 0.25  # the share of first steps that are not all noise: noise levels are uniform up to its inverse
STEP = 16  # prefixes are padded to multiples of this, and batched by length
LR_MATRICES, LR_OTHERS = 5e-3, 3e-3
WARMUP = 100  # steps
DECAY = 0.7  # the last part of the time, in which the learning rates fall to zero
LOSS_MEMORY = 0.98


class Batches:
    """Draws examples, harder tasks more often, and batches them by prefix length."""

    def __init__(self, tokenizer, seed):
        self.tokenizer, self.r = tokenizer, random.Random(seed)
        self.waiting = {}
        self.loss = dict.fromkeys(tasks.TASKS, 1.0)

    def weights(self):
        mean = sum(self.loss.values()) / len(self.loss)
        return [tasks.WEIGHTS[t] * min(3.0, max(0.3, (self.loss[t] / mean) ** 0.5)) for t in tasks.TASKS]

    def next(self):
        """Tasks, prefixes [B, P] padded on the right, their lengths [B], canvases [B, C]."""
        weights = self.weights()
        while True:
            example = tasks.draw(self.r, self.r.choices(list(tasks.TASKS), weights)[0])
            prompt = tk.prompt_ids(self.tokenizer, example.messages)
            answer = tk.answer_ids(self.tokenizer, example.answer, network.CANVAS)
            start = self.r.randrange(0, len(answer), network.CANVAS)
            prefix = prompt + answer[:start]
            rows = self.waiting.setdefault(-(-len(prefix) // STEP) * STEP, [])
            rows.append((example.task, prefix, answer[start : start + network.CANVAS]))
            if len(rows) == BATCH:
                size = max(len(prefix) for _, prefix, _ in rows)
                batch = (
                    [task for task, _, _ in rows],
                    torch.tensor([prefix + [tk.PAD] * (size - len(prefix)) for _, prefix, _ in rows]),
                    torch.tensor([len(prefix) for _, prefix, _ in rows]),
                    torch.tensor([canvas for _, _, canvas in rows]),
                )
                rows.clear()
                return batch

    def learn(self, drawn, losses):
        for task, loss in zip(drawn, losses.tolist()):
            self.loss[task] = LOSS_MEMORY * self.loss[task] + (1 - LOSS_MEMORY) * loss


def loss_of(model, prefix, lengths, canvas, dtype=torch.float32):
    """Cross-entropy of each row [B]: of a first denoising step, and for half of the rows of a later one.

    A first step has no self-conditioning and, for most rows, nothing but noise. A later one has the first one's logits,
    and a part of the canvas revealed: for one row the clean tokens, for the next what the first step thinks likeliest.
    """
    rows, half = len(canvas), len(canvas) // 2

    def noised(clean, level):
        return torch.where(torch.rand(clean.shape) < level, torch.randint(0, tk.VOCAB, clean.shape), clean)

    run = network.Pass(model, dtype)
    cache = run.encode(prefix)
    first = run.decode(noised(canvas, torch.rand(rows, 1) / ALL_NOISE), cache, lengths)
    losses = cross_entropy(first, canvas)
    seen = first[:half].detach()
    signal = seen / torch.empty(half, 1, 1).uniform_(0.4, 0.8)  # the sampler's temperatures
    shown = torch.where(torch.rand(half, 1) < 0.5, canvas[:half], seen.argmax(-1))
    later = run.decode(
        noised(shown, torch.rand(half, 1)), [(k[:half], v[:half]) for k, v in cache], lengths[:half], signal
    )
    return torch.cat((losses[:half] + cross_entropy(later, canvas[:half]), losses[half:]))


def cross_entropy(logits, canvas):
    return F.cross_entropy(logits.flatten(0, 1), canvas.flatten(), reduction="none").view(canvas.shape).mean(1)


def backward(loss_of, model, params, workers, shares, *batch):
    """Adds up the gradients of the mean loss in the parameters. Returns the losses [B].

    Each worker takes a share of the rows on one thread: torch's own threads meet after every operation, and these
    operations are too small for that.
    """

    def share(rows):
        losses = loss_of(model, *rows)
        return losses.detach(), torch.autograd.grad(losses.sum() / len(batch[0]), params, allow_unused=True)

    parts = list(workers.map(share, zip(*(part.chunk(shares) for part in batch))))
    for p, *found in zip(params, *(gradients for _, gradients in parts)):
        found = [g for g in found if g is not None]
        p.grad = sum(found[1:], found[0]) if found else None
    return torch.cat([losses for losses, _ in parts])


def rate(step, part):
    """The factor of the learning rates: a warm-up in steps, then constant, then linear to zero in time."""
    return min(1.0, (step + 1) / WARMUP) * min(1.0, max(0.0, (1 - part) / DECAY))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=95, help="time to train, stops and evaluations left out")
    parser.add_argument("--start", type=Path, help="checkpoint to start from, perhaps of another vocabulary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16: for CPUs that have it")
    parser.add_argument("--steps", type=int, help="stop after this many steps (for a test)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(args.threads, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = args.out / "tokenizer.json"
    if vocabulary.exists():  # not learned again: a checkpoint is nothing without its own
        tokenizer = Tokenizer.from_file(str(vocabulary))
    else:
        tokenizer = tk.train()
        tk.save(tokenizer, args.out)
    model = network.build()
    if args.start:
        network.start_from(model, args.start, tokenizer)
    params = network.trained(model)
    print("parameters", sum(p.numel() for p in params.values()), flush=True)
    opts = optimizers(params, LR_MATRICES, LR_OTHERS)
    base = [opt.param_groups[0]["lr"] for opt in opts]
    batches = Batches(tokenizer, seed=1)
    step, spent = 0, 0.0
    state_path = args.out.with_name(args.out.name + ".state")
    if state_path.exists():
        state = torch.load(state_path, weights_only=False)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["optimizers"]):
            opt.load_state_dict(saved)
        batches.r, batches.waiting, batches.loss = state["batches"]
        torch.set_rng_state(state["torch"])
        step, spent = state["step"], state["spent"]
        print(f"going on at step {step}, minute {spent / 60:.1f}", flush=True)

    def save():
        model.save_pretrained(args.out)
        state = dict(
            model=model.state_dict(), optimizers=[opt.state_dict() for opt in opts],
            batches=(batches.r, batches.waiting, batches.loss), torch=torch.get_rng_state(), step=step, spent=spent,
        )
        torch.save(state, state_path.with_suffix(".part"))
        os.replace(state_path.with_suffix(".part"), state_path)

    loss = partial(loss_of, dtype=torch.bfloat16 if args.bfloat16 else torch.float32)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    saved = evaluated = spent
    while spent < args.minutes * 60 and not stopped and step != args.steps:
        begin = time.monotonic()
        for opt, lr in zip(opts, base):
            opt.param_groups[0]["lr"] = lr * rate(step, spent / (args.minutes * 60))
        drawn, prefix, lengths, canvas = batches.next()
        losses = backward(loss, model, list(params.values()), workers, args.threads, prefix, lengths, canvas)
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        batches.learn(drawn, losses)
        step += 1
        spent += time.monotonic() - begin
        if step % 50 == 0:
            by_task = " ".join(f"{task} {loss:.3f}" for task, loss in batches.loss.items())
            print(f"step {step} minute {spent / 60:.1f} loss {losses.mean():.3f} {by_task}", flush=True)
        if spent - saved > 300:
            save()
            saved = spent
        if spent - evaluated > 900:
            evaluated = spent
            model.eval()
            r = random.Random(step)
            asked = [tasks.draw(r, task, held=task != "talk") for task in tasks.TASKS for _ in range(3)]
            got = answers(model, tokenizer, asked)
            right = [a.text == d.answer for d, a in zip(asked, got)]
            speed = sum(a.tokens_per_forward for a in got) / len(got)
            wrong = [(d.messages[-1][1], a.text, d.answer) for d, a, ok in zip(asked, got, right) if not ok]
            print(f"evaluation: {sum(right)} of {len(right)}, {speed:.2f} tokens per forward, wrong: {wrong}", flush=True)
            model.train()
    model.eval()
    save()
    print(f"end: step {step}, minute {spent / 60:.1f}", flush=True)


if __name__ == "__main__":
    main()
