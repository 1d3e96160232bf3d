"""Scores of the demo model's work on the canvas, by the command-line tool, on combinations that its training never
showed. Tables in Markdown.

    python evaluate_canvas.py MODEL.gguf --cli llama-diffusion-cli [--only infill ...]
"""

import argparse
import json
import random
import re
from pathlib import Path

import canvas_cases
import canvas_tasks
import tasks
import words
from evaluate import held_back
from tool import Tool

MIN_LOGPROB = -1.0  # the threshold of `--verify` that its documentation proposes
ONE_CANVAS = 56  # characters of an answer that surely fits one
STRENGTHS = [tenth / 10 for tenth in range(11)]
SIZES = {"1 to 4": (1, 4), "5 to 8": (5, 8), "9 to 16": (9, 16), "17 and more": (17, 99), "all": (1, 99)}


def percent(right):
    return f"{100 * sum(right) / len(right):.1f} %" if right else "–"


def table(head, rows):
    """Prints a table in Markdown, its first column aligned to the left."""
    print(f"\n| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def infill(tool, r, count):
    """Gaps of unknown length, with the text after them and without."""
    drawn = list(canvas_cases.gaps(r, count))
    both = tool.infill(dict(input_prefix=a, input_suffix=b, seed=1) for a, _, b in drawn)
    alone = tool.infill(dict(input_prefix=a, seed=1) for a, _, _ in drawn)
    rows = []
    for (_, gap, _), given, not_given in zip(drawn, both, alone, strict=True):
        size = len(re.findall(r" ?\w+|\s|[^\w\s]", gap))
        spent = given["timings"]["prompt_ms"] + given["timings"]["predicted_ms"]
        rows.append((size, given["content"] == gap, not_given["content"].startswith(gap), spent))
    lines = []
    for name, (least, most) in SIZES.items():
        of_size = [row for row in rows if least <= row[0] <= most]
        mean = sum(row[3] for row in of_size) / max(1, len(of_size))
        exact = (percent([row[i] for row in of_size]) for i in (1, 2))
        lines.append((name, len(of_size), *exact, f"{mean:.0f}"))
    table(("words and marks in the gap", "gaps", "exact", "exact without the text after it", "ms"), lines)


def follows(text, layout):
    """Whether a text is JSON of a layout: its fields, in its order, of its types."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    kinds = dict(integer=int, string=str)
    return isinstance(value, dict) and list(value) == list(layout) and all(
        type(value[field]) is kinds[kind] for field, kind in layout.items()
    )


def schema(tool, r, count):
    """JSON by layouts that training showed, and by others, with the schema as a constraint and without."""
    lines = []
    for name, held in (("known", False), ("held back", True)):
        same, steps, valid, exact = [], ([], []), ([], []), ([], [])
        for draw, layout in canvas_cases.layouts(r, count, held):
            schema = json.dumps(canvas_cases.json_schema(layout))
            found = tool.answer(draw.messages, 1), tool.answer(draw.messages, 1, "-j", schema)
            for i, answer in enumerate(found):
                steps[i].append(answer.steps)
                valid[i].append(follows(answer.text, layout))
                exact[i].append(answer.text == draw.answer)
            same.append(found[0].text == found[1].text)
        ratio = f"{sum(steps[1]) / sum(steps[0]):.2f}"
        pairs = (f"{percent(without)}, {percent(within)}" for without, within in (exact, valid))
        lines.append((name, count, percent(same), ratio, *pairs))
    head = ("layouts", "prompts", "same answer", "steps with / without", "exact without, with", "valid without, with")
    table(head, lines)


def edit(tool, r, count):
    """Edits that the instruction determines."""
    edits = list(canvas_cases.edits(r, count, "edit"))
    lines = []
    for strength in STRENGTHS:
        found = [tool.edit(*edit[:2], strength, seed) for seed, edit in enumerate(edits)]
        right = [text == answer for (text, _), (_, _, answer) in zip(found, edits)]
        lines.append((strength, count, percent(right), f"{sum(steps for _, steps in found) / count:.1f}"))
    table(("strength", "edits", "followed", "steps"), lines)


def edit_lines(tool, r, count):
    """The same for texts of several lines, paragraphs or sentences, on canvases of both lengths."""
    edits = list(canvas_cases.edits(r, count, "lines"))
    lines = []
    for strength in STRENGTHS[::5]:
        for canvas in (32, 16):
            found = [tool.edit(*edit[:2], strength, seed, "--canvas", canvas) for seed, edit in enumerate(edits)]
            right = [text == answer for (text, _), (_, _, answer) in zip(found, edits)]
            lines.append((strength, canvas, count, percent(right), f"{sum(steps for _, steps in found) / count:.1f}"))
    table(("strength", "canvas", "edits of several lines", "followed", "steps"), lines)


CHOSEN = (words.COLORS, words.NAMES, words.PLACES)  # what edits leave open


def open_words(prompt, text):
    """The words of a text that its prompt leaves open, each with the number of those that fit as well as it does."""
    said = set(re.findall(r"\w+", prompt))
    kinds = {word: [other for other in kind if other not in said] for kind in CHOSEN for word in kind}
    return {word: len(kinds[word]) for word in re.findall(r"\w+", text) if word in kinds and word not in said}


def open_choices(tool, r, count):
    """Which of the words that a prompt leaves open stay as the canvas began with them, by the strength of the edit. The
    prompt does not hold the text."""
    edits = []
    while len(edits) < count:
        draw = tasks.draw(r, "edit", held=True)
        prompt = draw.messages[0][1]
        chosen = open_words(prompt, draw.answer)
        if canvas_tasks.is_open("edit", draw.key) and chosen and len(draw.answer) <= ONE_CANVAS:
            edits.append((prompt, draw.answer, chosen))
    number = sum(len(chosen) for _, _, chosen in edits)
    lines = []
    for strength in STRENGTHS:
        kept, steps = 0, 0
        for seed, (prompt, text, chosen) in enumerate(edits):
            found, taken = tool.rewrite(prompt, text, strength, seed)
            kept += len(chosen.keys() & set(re.findall(r"\w+", found)))
            steps += taken
        lines.append((strength, number, f"{100 * kept / number:.1f} %", f"{steps / len(edits):.1f}"))
    chance = sum(1 / fitting for _, _, chosen in edits for fitting in chosen.values()) / number
    lines.append(("chance", number, f"{100 * chance:.1f} %", "–"))
    table(("strength", "open words", "stayed", "steps"), lines)


def protect(tool, r, count):
    """Whether protected lines come back, whatever is edited around them."""
    kept = []
    for seed in range(5 * count):
        lines = [tasks.draw(r, "edit").answer.replace("\n", " ") for _ in range(r.randint(2, 4))]
        place = r.randrange(len(lines))
        odd = "".join(r.choice("abc \t\u00e9\u2603\U0001f999<|turn>{}\\\"") for _ in range(r.randint(0, 12)))
        lines[place] = f"{odd}{lines[place]}{odd}"
        text = "\n".join(lines)
        instruction = r.choice(["Rewrite in the past tense", "Write in upper case", f"Change {lines[0]} to {lines[-1]}"])
        edited, _ = tool.edit(instruction, text, 1, seed, "--protect", place + 1)
        with_ends = ("\n" if place else "") + lines[place] + ("\n" if place + 1 < len(lines) else "")
        kept.append(with_ends in edited)
    table(("edits at strength 1", "protected line kept byte for byte"), [(len(kept), percent(kept))])


def calibration_error(answers):
    """The expected calibration error of (confidence, how often it is right) pairs, in tenths of confidence."""
    tenths = {}
    for confidence, right in answers:
        tenths.setdefault(min(9, int(confidence * 10)), []).append(confidence - right)
    return sum(abs(sum(differences)) for differences in tenths.values()) / len(answers)


def tastes(tool, r, count):
    """One-word answers as forms with choices: half of them are facts, the others have frequencies."""
    groups = {"facts": [], "open": []}
    for prompt, choices, shares in canvas_cases.tastes(r, 2 * count):
        form = dict(form="▢", blanks=[dict(name="answer", choices=choices)], samples=4)
        blank = tool.fill((("user", prompt),), form)["blanks"][0]
        groups["facts" if 1.0 in shares else "open"].append((blank["probability"], shares[blank["choice"]]))
    groups["all"] = groups["facts"] + groups["open"]
    lines = []
    for name, answers in groups.items():
        confidence, right = (sum(values) / len(answers) for values in zip(*answers))
        error = f"{calibration_error(answers):.3f}"
        lines.append((name, len(answers), f"{confidence:.3f}", f"{right:.3f}", error))
    table(("questions", "number", "mean confidence", "right", "expected calibration error"), lines)


def mistaken(r, text):
    """A text with one word replaced by another of its kind, with the word's bytes (start, end) and what it was; None if
    it has no such word."""
    kinds = {word: kind for kind in reversed(words.KINDS) for word in kind}
    places = [match for match in re.finditer(r"\w+", text) if match[0] in kinds]
    if not places:
        return None
    place = r.choice(places)
    other = r.choice([word for word in kinds[place[0]] if word != place[0]])
    start = len(text[: place.start()].encode())
    return text[: place.start()] + other + text[place.end() :], (start, start + len(other.encode())), place[0]


def verify(tool, r, count):
    """Right answers, and the same with a wrong word: does the denoiser's check doubt it, and nothing else?"""
    alarms, caught, named = [], [], []
    while len(caught) < count:
        draw = tasks.draw(r, r.choice(tasks.QUESTIONS).__name__, held=True)
        wrong = mistaken(r, draw.answer)
        if wrong is None or draw.task == "sudoku" or len(draw.answer) > ONE_CANVAS:
            continue
        scores = tool.scores(draw.messages, draw.answer)
        alarms.append(any(score["logprob"] < MIN_LOGPROB for score in scores))
        text, (start, end), word = wrong
        at, doubted, proposed = 0, False, ""
        for score in tool.scores(draw.messages, text):
            if start < at + len(score["bytes"]) and at < end:
                doubted |= score["logprob"] < MIN_LOGPROB
                proposed += score["top_logprobs"][0]["token"]
            at += len(score["bytes"])
        caught.append(doubted)
        named.append(word in proposed)
    line = (count, percent(caught), percent(named), percent(alarms))
    table(("answers", "wrong word doubted", "right word likeliest there", "right answers doubted"), [line])


def prompts(tool, r, count):
    """Exact answers to other prompts than those of evaluate.py, and in other ways."""
    lines = []

    def score(name, draws, *flags):
        found = [tool.answer(draw.messages, 1, *flags) for draw in draws]
        lines.append((name, len(draws), percent([a.text == d.answer for a, d in zip(found, draws)])))

    old = held_back(count)
    score("questions", old)
    lower = [tasks.typed(draw) for draw in old]
    score("the same in lower case, without the last mark", [b for a, b in zip(old, lower) if a != b])
    score("the same on canvases of 16 tokens", old, "--canvas", 16)
    score("the same after one to three other questions", [tasks.continued(r, draw) for draw in old])
    for task in ("numbers", "greetings", "why"):
        score(task, [tasks.draw(r, task, held=True) for _ in range(count // 4)])
    sky = tasks.Draw("why", (("user", "Why is the sky blue?"),), next(iter(canvas_tasks.REASONS.values())), "")
    score("Why is the sky blue?", [sky])
    table(("prompts", "number", "exact"), lines)


PARTS = {
    "infill": infill, "schema": schema, "edit": edit, "lines": edit_lines, "open": open_choices, "protect": protect, "tastes": tastes,
    "verify": verify, "prompts": prompts,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--cli", required=True, help="llama-diffusion-cli")
    parser.add_argument("--count", type=int, default=200, help="prompts of a kind (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    args = parser.parse_args()
    for part in args.only:
        PARTS[part](Tool(args.cli, args.model), random.Random(2026), args.count)


if __name__ == "__main__":
    main()
