"""What a training step sees: drawn examples as tensors."""

import random
from typing import NamedTuple

import torch

import canvas_tasks
import network
import tasks
import tokenizer as tk
import words

STEP = 16  # prefixes are padded to multiples of this, and batched by length
LENGTHS = {32: 0.72, 28: 0.04, 24: 0.04, 20: 0.04, 16: 0.16}  # of a canvas
TYPED = ((0.12, dict()), (0.08, dict(unmarked=False)), (0.06, dict(lower=False)))  # shares of prompts as people type them
CONTINUED = 0.15  # the share of examples that come later in a chat of other questions
SPANS = 0.12  # the share of canvases of which only some spans are free
MISTAKES = 0.4  # the share of canvases that show words of the right kind in wrong places
UNEDITED = 0.5  # the share of edits of which the canvas shows the text as it was
HELD_OUT = 8  # tokens after a gap that an engine frees to score the gap's length
LOSS_MEMORY = 0.98


class Row(NamedTuple):
    """An example and one canvas of its answer."""

    task: str
    prompt: int  # tokens of the prompt
    prefix: list  # the prompt, and the answer before the canvas
    canvas: list  # the right tokens
    shown: list  # the same with mistakes
    free: list  # which positions are to be found; the others are fixed
    open: bool  # whether several answers are right
    unedited: bool  # whether `shown` is the text that the prompt asks to change


class Rows:
    """Makes rows of examples."""

    def __init__(self, tokenizer, r):
        self.tokenizer, self.r = tokenizer, r
        self.mates = {}
        for kind in words.KINDS:
            for start in ("", " "):
                ids = [tokenizer.encode(start + word, add_special_tokens=False).ids for word in kind]
                known = [one for one, in (i for i in ids if len(i) == 1)]
                self.mates.update({one: known for one in known if len(known) > 1})

    def row(self, example):
        """A row of an example: a canvas of its answer, or one that begins at its gap."""
        r = self.r
        size = r.choices(list(LENGTHS), list(LENGTHS.values()))[0]
        prompt = tk.prompt_ids(self.tokenizer, example.messages)
        answer = tk.answer_ids(self.tokenizer, example.answer, size) + [tk.PAD] * size
        gap = self.gap(example) if r.random() < 0.8 else None
        if gap:
            begin, end = gap
            start = max(0, begin - (r.randint(0, 4) if r.random() < 0.3 else 0))
            free = self.freed(begin - start, end - start, size) if r.random() < 0.7 else [True] * size
        else:
            start = r.randrange(0, len(answer) - size, size)
            free = [True] * size
            if r.random() < SPANS and example.gap is None:
                free = self.spans(size - answer[start : start + size].count(tk.PAD), size)
        canvas = answer[start : start + size]
        several = canvas_tasks.is_open(example.task, example.key)
        shown = canvas if several else self.mistaken(canvas)
        original = canvas_tasks.original(example)
        unedited = original is not None and r.random() < UNEDITED
        if unedited:
            shown = (tk.answer_ids(self.tokenizer, original, size) + [tk.PAD] * (start + size))[start : start + size]
        return Row(example.task, len(prompt), prompt + answer[:start], canvas, shown, free, several, unedited)

    def gap(self, example):
        """The gap's tokens (begin, end), of an example that has one."""
        if example.gap is None:
            return None
        begin, end = example.gap
        spans = self.tokenizer.encode(example.answer, add_special_tokens=False).offsets
        inside = [i for i, (a, b) in enumerate(spans) if a < end and b > begin]
        return (inside[0], inside[-1] + 1) if inside else None

    def freed(self, begin, end, size):
        """A canvas whose gap is free: at times also the tokens that touch it, or the first ones after it."""
        wider = int(self.r.random() < 0.3)
        after = self.r.randint(1, HELD_OUT) if self.r.random() < 0.35 else wider
        return [begin - wider <= i < end + after for i in range(size)]

    def spans(self, length, size):
        """A canvas with up to three free spans among its first `length` tokens and their end."""
        free = [False] * size
        for _ in range(self.r.randint(1, 3)):
            begin = self.r.randrange(min(size, length + 1))
            end = begin + self.r.choice([1, 1, 2, 3, self.r.randint(1, canvas_tasks.LONGEST_GAP)])
            free[begin:end] = [True] * len(free[begin:end])
        return free

    def mistaken(self, canvas):
        """The canvas, at times with one or two words replaced by others of their kind."""
        places = [i for i, token in enumerate(canvas) if token in self.mates]
        if not places or self.r.random() > MISTAKES:
            return canvas
        shown = list(canvas)
        for i in self.r.choices(places, k=self.r.randint(1, 2)):
            shown[i] = self.r.choice(self.mates[canvas[i]])
        return shown


class Batches:
    """Draws examples, harder tasks more often, and batches their rows by the lengths of prefix and canvas."""

    def __init__(self, tokenizer, size, seed):
        self.size, self.r = size, random.Random(seed)
        self.rows = Rows(tokenizer, self.r)
        self.waiting = {}
        self.loss = dict.fromkeys(tasks.TASKS, 1.0)

    def state(self):
        return self.r.getstate(), self.waiting, self.loss

    def restore(self, state):
        random_state, self.waiting, self.loss = state
        self.r.setstate(random_state)

    def weights(self):
        """How often each task is drawn. One whose answers are open is hard for ever: its weight stays."""
        known = {task: loss for task, loss in self.loss.items() if task not in canvas_tasks.OPEN}
        mean = sum(known.values()) / len(known)
        return [tasks.WEIGHTS[t] * min(3.0, max(0.3, (known.get(t, mean) / mean) ** 0.5)) for t in tasks.TASKS]

    def example(self, weights):
        example = tasks.draw(self.r, self.r.choices(list(tasks.TASKS), weights)[0])
        at = self.r.random()
        for share, how in TYPED:
            if 0 <= at < share:
                example = tasks.typed(example, **how)
            at -= share
        return tasks.continued(self.r, example) if self.r.random() < CONTINUED else example

    def next(self):
        """Tasks; texts [B, T] of prefix and canvas, padded on the right; the prefixes' lengths [B] and the prompts' [B];
        canvases [B, C], the same with mistakes [B, C], their free positions [B, C], and which rows are open [B] and which
        show the text to edit [B]."""
        weights = self.weights()
        while True:
            row = self.rows.row(self.example(weights))
            rows = self.waiting.setdefault((-(-len(row.prefix) // STEP) * STEP, len(row.canvas)), [])
            rows.append(row)
            if len(rows) == self.size:
                texts = [row.prefix + [token for token in row.canvas if token != tk.PAD] for row in rows]
                size = max(map(len, texts))
                batch = (
                    [row.task for row in rows],
                    torch.tensor([text + [tk.PAD] * (size - len(text)) for text in texts]),
                    torch.tensor([len(row.prefix) for row in rows]),
                    torch.tensor([row.prompt for row in rows]),
                    torch.tensor([row.canvas for row in rows]),
                    torch.tensor([row.shown for row in rows]),
                    torch.tensor([row.free for row in rows]),
                    torch.tensor([row.open for row in rows]),
                    torch.tensor([row.unedited for row in rows]),
                )
                rows.clear()
                return batch

    def learn(self, drawn, losses, whole):
        """Remembers the losses of rows whose whole canvas was free."""
        for task, loss, counts in zip(drawn, losses.tolist(), whole.tolist()):
            if counts:
                self.loss[task] = LOSS_MEMORY * self.loss[task] + (1 - LOSS_MEMORY) * loss
