"""Cases of work on the canvas, in combinations that the demo model's training never showed: what evaluate_canvas.py scores.
Writes some of them, one JSON object per line, for tests/engine/canvas_quality.rs.

    python canvas_cases.py --out ../../tests/quality/canvas.jsonl
"""

import argparse
import json
import random
import re
from pathlib import Path

import canvas_tasks
import tasks
import words

COUNTS = {"gap": 100, "layout": 50, "lines": 100, "taste": 150}  # of each kind of layout


def gaps(r, count):
    """Gaps that something after them decides, and nothing before them: what is before, in, and after them."""
    while count:
        template, facts, key = canvas_tasks.document(r)
        if tasks.is_held(key):
            text, spans = canvas_tasks.filled(template, facts)
            start, end, decided_later = canvas_tasks.gap_in(r, template, text, spans)
            if decided_later:
                yield text[:start], text[start:end], text[end:]
                count -= 1


def layouts(r, count, held):
    """Examples of JSON by a schema, of layouts that training showed or not: each with its layout {field: type}."""
    for _ in range(count):
        draw = tasks.draw(r, "schema", held=held)
        yield draw, json.loads(re.search(r"\{.*\}", draw.messages[0][1])[0])


def json_schema(layout):
    """The JSON Schema of a layout {field: type}, as prompts of `schema` give it."""
    properties = {field: dict(type=kind) for field, kind in layout.items()}
    return dict(type="object", properties=properties, required=list(layout), additionalProperties=False)


def edits(r, count, task):
    """Edits that the instruction determines, of the task `edit` or `lines`: instruction, text, and edited text."""
    while count:
        draw = tasks.draw(r, task, held=True)
        instruction, _, text = draw.messages[0][1].partition(": ")
        if not canvas_tasks.is_open(task, draw.key):
            yield instruction, text, draw.answer
            count -= 1


def tastes(r, count):
    """One-word questions: the prompt, its choices, and the share of the answers that each of them has."""
    asked = [(name, what, like) for name in words.NAMES for what in canvas_tasks.TASTES for like in canvas_tasks.LIKES]
    for name, what, like in r.sample(asked, min(count, len(asked))):
        choices, weights = canvas_tasks.TASTES[what], canvas_tasks.taste(name, what)
        yield like.format(name=name, what=what), choices, [weights.get(choice, 0.0) for choice in choices]


def cases():
    r = random.Random(7)
    for before, gap, after in gaps(r, COUNTS["gap"]):
        yield dict(task="gap", before=before, gap=gap, after=after)
    for held in (False, True):
        for draw, layout in layouts(r, COUNTS["layout"], held):
            yield dict(task="layout", prompt=draw.messages[0][1], schema=json_schema(layout), answer=draw.answer)
    for instruction, text, answer in edits(r, COUNTS["lines"], "lines"):
        yield dict(task="lines", instruction=instruction, text=text, answer=answer)
    for prompt, choices, shares in tastes(r, COUNTS["taste"]):
        yield dict(task="taste", prompt=prompt, choices=choices, shares=shares)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases()))


if __name__ == "__main__":
    main()
