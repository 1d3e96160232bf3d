"""Trains the demo model on drawn examples, for a given processor time.

    python train.py --out CHECKPOINT --minutes 95

Writes a Hugging Face checkpoint to --out, and next to it CHECKPOINT.state, from which the same command continues after a
stop (also one by SIGTERM). Another --minutes then trains longer, or lets the learning rates fall sooner.
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

import canvas_tasks
import network
import tasks
import tokenizer as tk
from evaluate import answers
from optimizer import optimizers
from rows import Batches

ALL_NOISE = 0.35  # the share of first steps that are not all noise: noise levels are uniform up to its inverse
CERTAIN = 30.0  # the logit of a known token, of those over the temperature
ENCODER_STEPS = 2  # one step in so many has the encoder's loss too, with weight 1: it doubles the encoder's work
PROMPT_SHARE = 0.05  # the share of a prompt's tokens that it counts
LR_MATRICES, LR_OTHERS = 5e-3, 3e-3
WARMUP = 100  # steps
DECAY = 0.7  # the last part of the time, in which the learning rates fall to zero


def loss_of(model, text, lengths, starts, canvas, shown, free, several, unedited, *, encoder=True, dtype=torch.float32):
    """Losses of each row [B, 2]: of denoising its canvas, and of the encoder's next tokens, 0 without `encoder`.

    Denoising is a first step, and for half of the rows a later one. A first step has no self-conditioning and, for most
    rows, nothing but noise. A later one has the first one's logits, and a part of the canvas revealed: for one row the
    tokens `shown`, for the next what the first step thinks likeliest. Where `several` answers are right, what is revealed is
    always the right one, and first steps have every level of noise, as they have where `unedited` texts are shown: so the
    denoiser keeps what a canvas holds. Fixed positions are always clean. See `Batches.next` for the tensors.
    """
    rows, half = len(canvas), len(canvas) // 2
    run = network.Pass(model, dtype)
    longest = int(lengths.max())
    if encoder:
        cache, states = run.encode(text, states=True)
        cache = [(k[:, :, :longest], v[:, :, :longest]) for k, v in cache]
        next_tokens = next_token_loss(run, states, text, starts)
    else:
        cache, next_tokens = run.encode(text[:, :longest]), torch.zeros(rows)

    def noised(tokens, level, free):
        tokens = torch.where(torch.rand(tokens.shape) < level, torch.randint(0, tk.VOCAB, tokens.shape), tokens)
        return torch.where(free, tokens, canvas[: len(tokens)])

    level = torch.rand(rows, 1) / torch.where((several | unedited).unsqueeze(1), 1.0, ALL_NOISE)
    first = run.decode(noised(shown, level, free), cache, lengths)
    losses = cross_entropy(first, canvas, free)
    seen = first[:half].detach()
    signal = seen / torch.empty(half, 1, 1).uniform_(0.4, 0.8)  # the sampler's temperatures
    certain = ~free[:half] & (torch.rand(half, 1) < 0.5)  # what is fixed is known, or left as the model thinks
    signal[certain] = CERTAIN * F.one_hot(canvas[:half][certain], tk.VOCAB).float()
    trusted = several[:half].unsqueeze(1) | (torch.rand(half, 1) < 0.5)
    revealed = torch.where(trusted, shown[:half], seen.argmax(-1))
    later = run.decode(
        noised(revealed, torch.rand(half, 1), free[:half]), [(k[:half], v[:half]) for k, v in cache], lengths[:half],
        signal,
    )
    losses = torch.cat((losses[:half] + cross_entropy(later, canvas[:half], free[:half]), losses[half:]))
    return torch.stack((losses, next_tokens), 1)


def cross_entropy(logits, canvas, free):
    """The sum over the free positions, divided by the canvas or, where few are free, by half of it. [B]"""
    losses = F.cross_entropy(logits.flatten(0, 1), canvas.flatten(), reduction="none").view(canvas.shape)
    return (losses * free).sum(1) / free.sum(1).clamp(min=canvas.shape[1] / 2)


def next_token_loss(run, states, text, starts):
    """Cross-entropy [B] of the clean text's tokens given those before each: the mean over the answer's, and over a few of
    the prompt's, most of which nothing determines."""
    after = text[:, 1:]
    answer = torch.arange(1, text.shape[1]) >= starts.unsqueeze(1)
    counted = (after != tk.PAD) & (answer | (torch.rand(after.shape) < PROMPT_SHARE))
    losses = F.cross_entropy(run.head(states[:, :-1][counted]), after[counted], reduction="none")
    sums = torch.zeros(len(text)).index_add(0, counted.nonzero()[:, 0], losses)
    return sums / counted.sum(1).clamp(min=1)


def backward(loss_of, model, params, workers, shares, *batch):
    """Adds up the gradients of the rows' mean loss in the parameters. Returns the losses, as `loss_of` gives them.

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
    parser.add_argument("--minutes", type=float, default=95, help="processor time of each thread, evaluations left out")
    parser.add_argument("--start", type=Path, help="checkpoint to start from, perhaps of another vocabulary")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates: less to refine a checkpoint")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where --minutes is wall time and a resumed run draws other noise")
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16: for CPUs that have it")
    parser.add_argument("--steps", type=int, help="stop after this many steps (for a test)")
    args = parser.parse_args()
    if args.device != "cpu" and args.threads != 1:
        parser.error("--threads is for the CPU")

    def prepare():  # both settings are each thread's own
        torch.set_num_threads(1)
        torch.set_default_device(args.device)

    prepare()
    workers = ThreadPoolExecutor(args.threads, initializer=prepare)
    clock = time.process_time if args.device == "cpu" else time.monotonic
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = args.out / "tokenizer.json"
    if vocabulary.exists():  # not learned again: a checkpoint is nothing without its own
        tokenizer = Tokenizer.from_file(str(vocabulary))
    else:
        if args.start:
            tokenizer = tk.extended(*tk.parts(Tokenizer.from_file(str(args.start / "tokenizer.json"))))
        else:
            tokenizer = tk.train()
        tk.save(tokenizer, args.out)
    model = network.build().to(args.device)
    if args.start:
        network.start_from(model, args.start, tokenizer)
    params = network.trained(model)
    print("parameters", sum(p.numel() for p in params.values()), flush=True)
    opts = optimizers(params, args.rate * LR_MATRICES, args.rate * LR_OTHERS)
    base = [opt.param_groups[0]["lr"] for opt in opts]
    batches = Batches(tokenizer, args.batch, seed=1)
    step, spent, next_token = 0, 0.0, 1.0
    state_path = args.out.with_name(args.out.name + ".state")
    if state_path.exists():
        state = torch.load(state_path, map_location=args.device, weights_only=False)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["optimizers"]):
            opt.load_state_dict(saved)
        batches.restore(state["batches"])
        torch.set_rng_state(state["torch"].cpu())
        step, spent = state["step"], state["spent"]
        print(f"going on at step {step}, minute {spent / 60:.1f}", flush=True)

    def save():
        model.save_pretrained(args.out)
        state = dict(
            model=model.state_dict(), optimizers=[opt.state_dict() for opt in opts],
            batches=batches.state(), torch=torch.get_rng_state(), step=step, spent=spent,
        )
        torch.save(state, state_path.with_suffix(".part"))
        os.replace(state_path.with_suffix(".part"), state_path)

    loss = partial(loss_of, dtype=torch.bfloat16 if args.bfloat16 else torch.float32)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    saved, evaluated = time.monotonic(), spent
    while spent < args.minutes * 60 and not stopped and step != args.steps:
        begin = clock()
        for opt, lr in zip(opts, base):
            opt.param_groups[0]["lr"] = lr * rate(step, spent / (args.minutes * 60))
        drawn, *batch = batches.next()
        encoder = step % ENCODER_STEPS == 0
        losses = backward(partial(loss, encoder=encoder), model, list(params.values()), workers, args.threads, *batch)
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        batches.learn(drawn, losses[:, 0], batch[-3].all(1))
        step += 1
        spent += (clock() - begin) / args.threads
        if encoder:
            next_token = 0.98 * next_token + 0.02 * losses[:, 1].mean().item()
        if step % 50 == 0:
            by_task = " ".join(f"{task} {loss:.3f}" for task, loss in batches.loss.items())
            print(f"step {step} minute {spent / 60:.1f} next token {next_token:.3f} {by_task}", flush=True)
        if time.monotonic() - saved > 300:
            save()
            saved = time.monotonic()
        if spent - evaluated > 900:
            evaluated = spent
            model.eval()
            r = random.Random(step)
            determined = [task for task in tasks.TASKS if task not in canvas_tasks.OPEN]
            asked = [tasks.draw(r, task, held=task != "talk") for task in determined for _ in range(3)]
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
