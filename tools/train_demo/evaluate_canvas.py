"""Scores of the demo model's work on the canvas, on combinations that its training never showed.

    python evaluate_canvas.py CHECKPOINT [--count 100] [--only infill ...]

Runs the forward pass of network.py: gaps with their length known and unknown, edits from a noised text, the probabilities
of one-word answers, and what the denoiser and the encoder think of a wrong word. Answers to prompts alone, in lower case
and on a short canvas too, are by transformers' generation.
"""

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F

import canvas_tasks
import network
import tasks
import tokenizer as tk
import words
from evaluate import answers, held_back
from rows import Rows
from train import CERTAIN

STEPS = 8
BOUND = 0.1  # of the entropies that one step accepts
MEMORY = 0.9  # of the running mean of probabilities, where few positions are free
FALSE_ALARMS = 0.02


def percent(right):
    return f"{100 * sum(right) / len(right):5.1f} % of {len(right)}"


class Runner:
    """A checkpoint's forward passes."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.run = network.Pass(model)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def logits(self, prefix, canvases, signal=None):
        """Logits [B, C, V] of canvases [B, C] after one prefix."""
        cache = self.run.encode(torch.tensor([prefix]))
        rows = len(canvases)
        cache = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in cache]
        return self.run.decode(canvases, cache, torch.full((rows,), len(prefix)), signal)

    def fill(self, prefix, canvas, free, start=None):
        """The canvas [C] with its free positions found in STEPS steps, from noise or from the tokens `start`.

        A step accepts the likeliest tokens of the positions whose entropies add up to BOUND, and none if there are none;
        probabilities are averaged over the steps."""
        noise = torch.randint(0, tk.VOCAB, canvas.shape)
        state = torch.where(free, noise if start is None else start, canvas)
        mean, signal = None, None
        for step in range(STEPS):
            temperature = 0.8 - 0.4 * step / STEPS
            logits = self.logits(prefix, state[None], signal)[0]
            p = (logits / temperature).softmax(-1)
            mean = p if mean is None else MEMORY * p + (1 - MEMORY) * mean
            entropy = -(mean * mean.clamp(min=1e-20).log()).sum(-1).masked_fill(~free, 0)
            order = entropy.argsort()
            accepted = torch.zeros_like(free)
            accepted[order] = entropy[order].cumsum(0) <= BOUND
            best = torch.where(free, mean.argmax(-1), canvas)
            if accepted.all():
                break
            state = torch.where(accepted, best, torch.randint(0, tk.VOCAB, canvas.shape))
            certain = CERTAIN * F.one_hot(canvas, tk.VOCAB)
            signal = torch.where(free[:, None], mean.clamp(min=1e-20).log(), certain)[None]
        return best


def gaps(runner, r, count):
    """Draws of `infill` with their gap's tokens, which a later word decides: prefix, gap, what follows."""
    maker = Rows(runner.tokenizer, r)
    while count:
        draw = tasks.draw(r, "infill", held=True)
        gap = maker.gap(draw)
        if gap is None or draw.gap[1] == len(draw.answer) or gap[1] - gap[0] > canvas_tasks.LONGEST_GAP:
            continue
        whole = runner.ids(draw.answer) + [tk.END_TURN]
        prefix = tk.prompt_ids(runner.tokenizer, draw.messages) + whole[: gap[0]]
        yield draw, prefix, whole[slice(*gap)], whole[gap[1] :]
        count -= 1


def padded(tokens, size=network.CANVAS):
    return torch.tensor((tokens + [tk.PAD] * size)[:size])


def infill(runner, r, count):
    known, length, both, alone = [], [], [], []
    for draw, prefix, gap, rest in gaps(runner, r, count):
        def found(size, prefix=prefix, gap=gap, rest=rest):
            free = torch.arange(network.CANVAS) < size
            return runner.fill(prefix, padded([0] * size + rest), free)[:size].tolist() == gap

        known.append(found(len(gap)))
        head = min(8, len(rest))
        scores = []
        canvases, sizes = [], list(range(1, min(canvas_tasks.LONGEST_GAP, network.CANVAS - head) + 1))
        for size in sizes:
            canvas = padded([0] * size + rest)
            hidden = torch.arange(network.CANVAS) < size + head
            canvases.append(torch.where(hidden, torch.randint(0, tk.VOCAB, canvas.shape), canvas))
        p = runner.logits(prefix, torch.stack(canvases)).log_softmax(-1)
        for row, size in enumerate(sizes):
            scores.append(sum(p[row, size + i, rest[i]].item() for i in range(head)) / head)
        best = sizes[scores.index(max(scores))]
        length.append(best == len(gap))
        both.append(length[-1] and known[-1])
        text = draw.answer[: draw.gap[0]]
        ids = tk.prompt_ids(runner.tokenizer, (("user", f"{canvas_tasks.FILL}\n{text}{canvas_tasks.GAP}"),))
        prefix = ids + prefix[len(tk.prompt_ids(runner.tokenizer, draw.messages)) :]
        free = torch.ones(network.CANVAS, dtype=torch.bool)
        alone.append(runner.fill(prefix, padded([]), free)[: len(gap)].tolist() == gap)
    print("gaps, length known:   ", percent(known))
    print("gaps, length found:   ", percent(length))
    print("gaps, found and right:", percent(both))
    print("gaps, prefix only:    ", percent(alone))


def edit(runner, r, count):
    """How often an open choice stays, by the share of the text that is noise; and determined changes, from noise."""
    openings = ("Add a color", "Change the color", "Say who", "Say where", "Write about", "Describe")
    for strength in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        kept = []
        while len(kept) < count:
            draw = tasks.draw(r, "edit", held=True)
            if draw.messages[0][1].startswith(openings):
                canvas = padded(runner.ids(draw.answer) + [tk.END_TURN])
                noise = torch.rand(canvas.shape) < strength
                start = torch.where(noise, torch.randint(0, tk.VOCAB, canvas.shape), canvas)
                prefix = tk.prompt_ids(runner.tokenizer, draw.messages)
                got = runner.fill(prefix, canvas, torch.ones_like(canvas, dtype=torch.bool), start)
                kept.append(torch.equal(got, canvas))
        print(f"edits, open choices kept at strength {strength}:", percent(kept))


def tastes(runner, r, count):
    """The expected calibration error of one-word answers, in tenths of confidence, from four draws of the noise."""
    asked = [(name, what, i) for name in words.NAMES for what in canvas_tasks.TASTES for i in range(len(canvas_tasks.LIKES))]
    bins, known = {}, []
    for name, what, i in r.sample(asked, min(count * 4, len(asked))):
        choices = {choice: runner.ids(choice) for choice in canvas_tasks.TASTES[what]}
        prompt = tk.prompt_ids(runner.tokenizer, (("user", canvas_tasks.LIKES[i].format(name=name, what=what)),))
        sums = dict.fromkeys(choices, 0.0)
        for size in {len(ids) for ids in choices.values()}:
            canvas = padded([0] * size + [tk.END_TURN]).repeat(4, 1)
            canvas[:, :size] = torch.randint(0, tk.VOCAB, (4, size))
            p = runner.logits(prompt, canvas).softmax(-1).mean(0)
            for choice, ids in choices.items():
                if len(ids) == size:
                    sums[choice] = torch.stack([p[place, one] for place, one in enumerate(ids)]).prod().item()
        best = max(sums, key=sums.get)
        confidence, right = sums[best] / sum(sums.values()), canvas_tasks.taste(name, what).get(best, 0.0)
        bins.setdefault(min(9, int(confidence * 10)), []).append((confidence, right))
        if len(canvas_tasks.taste(name, what)) == 1:
            known.append(right == 1)
    total = sum(map(len, bins.values()))
    error = sum(abs(sum(c for c, _ in rows) - sum(a for _, a in rows)) for rows in bins.values()) / total
    print(f"one-word answers: calibration error {error:.3f} of {total} questions; the facts among them:", percent(known))


def verify(runner, r, count):
    """One wrong word of the right kind in an answer: is it the one that denoiser or encoder doubt?"""
    maker = Rows(runner.tokenizer, r)
    scores = dict(denoiser=([], []), encoder=([], []))
    names = [task.__name__ for task in tasks.QUESTIONS if task.__name__ not in ("sudoku", "stories")]
    clean, done = [], 0
    while done < count:
        draw = tasks.draw(r, r.choice(names), held=True)
        answer = runner.ids(draw.answer) + [tk.END_TURN]
        places = [i for i, one in enumerate(answer) if one in maker.mates]
        if not places or len(answer) > network.CANVAS:
            continue
        done += 1
        wrong = list(answer)
        place = r.choice(places)
        wrong[place] = r.choice([one for one in maker.mates[answer[place]] if one != answer[place]])
        prefix = tk.prompt_ids(runner.tokenizer, draw.messages)
        p = runner.logits(prefix, padded(wrong)[None])[0].log_softmax(-1)
        denoiser = [p[i, one].item() for i, one in enumerate(wrong)]
        encoder = next_tokens(runner, prefix, wrong)
        clean += next_tokens(runner, prefix, answer)
        for name, found in (("denoiser", denoiser), ("encoder", encoder)):
            scores[name][0].append(found[place])
            # The encoder's doubts about what follows a wrong word are not false alarms.
            scores[name][1].extend(found[:place] if name == "encoder" else found[:place] + found[place + 1 :])
    for name, (bad, good) in scores.items():
        good.sort()
        limit = good[int(FALSE_ALARMS * len(good))]
        above = sum(sum(g > b for g in good) for b in bad) / (len(good) * len(bad))
        caught = percent([b < limit for b in bad])
        print(f"verify by the {name}: AUC {above:.3f}, caught at {FALSE_ALARMS:.0%} false alarms:", caught)
    print(f"encoder: mean log-probability of right answers {sum(clean) / len(clean):.3f}")


def next_tokens(runner, prefix, answer):
    """The encoder's log-probabilities of an answer's tokens."""
    _, states = runner.run.encode(torch.tensor([prefix + answer]), states=True)
    p = runner.run.head(states[0, len(prefix) - 1 : -1]).log_softmax(-1)
    return [p[i, one].item() for i, one in enumerate(answer)]


def prompts(runner, r, count):
    """Exact answers to prompts, by transformers."""
    def score(name, draws):
        got = answers(runner.model, runner.tokenizer, draws)
        print(f"{name}:", percent([a.text == d.answer for d, a in zip(draws, got)]))

    old = held_back(count)
    score("questions", old)
    lower = [tasks.typed(draw) for draw in old]
    score("questions in lower case, without the last mark", [b for a, b in zip(old, lower) if a != b])
    for task in ("schema", "numbers", "greetings", "why"):
        score(task, [tasks.draw(r, task, held=True) for _ in range(count // 2)])
    edits = [tasks.draw(r, "edit", held=True) for _ in range(2 * count)]
    score("edits that the prompt determines", [d for d in edits if " to " in d.messages[0][1].split(":")[0]])
    sky = tasks.Draw("why", (("user", "Why is the sky blue?"),), next(iter(canvas_tasks.REASONS.values())), "")
    score("why is the sky blue", [sky])
    runner.model.config.canvas_length = 16
    score("questions on a canvas of 16", old)
    runner.model.config.canvas_length = network.CANVAS


PARTS = dict(prompts=prompts, infill=infill, edit=edit, tastes=tastes, verify=verify)


def main():
    from tokenizers import Tokenizer
    from transformers import DiffusionGemmaForBlockDiffusion

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=100, help="prompts of a kind (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(args.checkpoint).eval()
    runner = Runner(model, tokenizer)
    with torch.no_grad():
        for part in args.only:
            PARTS[part](runner, random.Random(2026), args.count)


if __name__ == "__main__":
    main()
