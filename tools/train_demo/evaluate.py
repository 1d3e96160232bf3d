"""Scores of the demo model on combinations that its training never showed.

    python evaluate.py transformers CHECKPOINT --out PROMPTS.jsonl
    python evaluate.py engine MODEL.gguf --prompts PROMPTS.jsonl --cli llama-diffusion-cli

The first draws 200 prompts, has transformers answer them, and writes prompts, right answers and transformers' answers,
one JSON object a line. The second has the command-line tool answer the same prompts. Both print the share of answers
that are right to the letter, and tokens per decoder forward.
"""

import argparse
import json
import random
from pathlib import Path

import tasks
import tokenizer as tk
from tool import Answer, Tool

PROMPTS = 200
ROOM = 256  # tokens of the longest answer, the engine's default
EASY = ("facts", "days", "lists", "json", "code")


def held_back(count=PROMPTS, seed=2026):
    """Draws of every task of questions in turn, none twice."""
    r = random.Random(seed)
    seen, found = set(), []
    while len(found) < count:
        draw = tasks.draw(r, tasks.QUESTIONS[len(found) % len(tasks.QUESTIONS)].__name__, held=True)
        if draw.messages not in seen:
            seen.add(draw.messages)
            found.append(draw)
    return found


def answers(model, tokenizer, draws, seed=0):
    """The answers of transformers' own generation in the order of `draws`, prompts of one length in one batch."""
    import torch

    torch.manual_seed(seed)
    batches = {}
    for i, draw in enumerate(draws):
        ids = tk.prompt_ids(tokenizer, draw.messages)
        batches.setdefault(len(ids), []).append((i, ids))
    found = [None] * len(draws)
    for length, rows in batches.items():
        out = model.generate(torch.tensor([ids for _, ids in rows]), max_new_tokens=ROOM)
        for (i, _), ids, speed in zip(rows, out.sequences.tolist(), out.tokens_per_forward.tolist()):
            ids = ids[length:]
            ids = ids[: ids.index(tk.END_TURN)] if tk.END_TURN in ids else ids
            found[i] = Answer(tokenizer.decode(ids, skip_special_tokens=True), speed)
    return found


def report(names, right, found):
    """Prints right answers and tokens per forward of each task, of the easy ones, and of all."""
    groups = {task: [i for i, name in enumerate(names) if name == task] for task in tasks.TASKS}
    groups["easy"] = [i for i, name in enumerate(names) if name in EASY]
    groups["all"] = list(range(len(names)))
    for group, rows in groups.items():
        if rows:
            exact = sum(right[i] for i in rows)
            speed = sum(found[i].tokens_per_forward for i in rows) / len(rows)
            print(f"{group:12} {exact:4}/{len(rows):<4} {100 * exact / len(rows):6.1f} %  {speed:6.2f} tokens per forward")


def with_transformers(args):
    import torch
    from tokenizers import Tokenizer
    from transformers import DiffusionGemmaForBlockDiffusion

    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(args.checkpoint).eval()
    draws = held_back()
    runs = [answers(model, tokenizer, draws, seed) for seed in args.seeds]
    lines = [
        dict(
            task=draw.task, messages=[dict(role=role, content=text) for role, text in draw.messages],
            tokens=tk.prompt_ids(tokenizer, draw.messages), answer=draw.answer,
            transformers=dict(
                answers=[run[i].text for run in runs],
                tokens_per_forward=[round(run[i].tokens_per_forward, 3) for run in runs],
            ),
        )
        for i, draw in enumerate(draws)
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    names = [draw.task for draw in draws] * len(runs)
    wanted = [draw.answer for draw in draws] * len(runs)
    found = [answer for run in runs for answer in run]
    report(names, [answer.text == right for answer, right in zip(found, wanted)], found)


def with_engine(args):
    lines = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    names, right, found = [], [], []
    tool = Tool(args.cli, args.model)
    for seed in args.seeds:
        for line in lines:
            messages = [(message["role"], message["content"]) for message in line["messages"]]
            answer = tool.answer(messages, seed)
            names.append(line["task"])
            right.append(answer.text == line["answer"])
            found.append(answer)
            if args.wrong and not right[-1]:
                print(json.dumps([messages[-1][1], answer.text, line["answer"]]))
    report(names, right, found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ways = parser.add_subparsers(required=True)
    way = ways.add_parser("transformers", help="draw the prompts, answer them, write both")
    way.add_argument("checkpoint", type=Path)
    way.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    way.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    way.set_defaults(run=with_transformers)
    way = ways.add_parser("engine", help="answer the same prompts with the command-line tool")
    way.add_argument("model", type=Path, help="GGUF file")
    way.add_argument("--prompts", type=Path, required=True, help="JSON lines that `transformers` wrote")
    way.add_argument("--cli", required=True, help="llama-diffusion-cli")
    way.add_argument("--seeds", type=int, nargs="+", default=[1])
    way.add_argument("--wrong", action="store_true", help="print question, wrong answer and right answer")
    way.set_defaults(run=with_engine)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
