"""The command-line tool, as the evaluations run it: one thread, one process for each answer."""

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tokenizer as tk


@dataclass(frozen=True)
class Answer:
    text: str
    tokens_per_forward: float
    steps: int | None = None  # known of the tool alone


@dataclass(frozen=True)
class Tool:
    """llama-diffusion-cli with a model, a GGUF file."""

    cli: str
    model: Path

    def run(self, *flags, lines=""):
        """What it writes to the standard output, and to the standard error output."""
        command = [self.cli, "-m", self.model, "-t", "1", *map(str, flags)]
        done = subprocess.run(command, input=lines, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{self.cli} {' '.join(map(str, flags))}: exit status {done.returncode}\n{done.stderr}")
        return done.stdout, done.stderr

    def answer(self, messages, seed, *flags):
        """The answer to a conversation."""
        out, log = self.run("--raw", "--no-escape", "-p", tk.render(messages), "-s", seed, *flags)
        return Answer(out.removesuffix("\n"), float(found(r"([\d.]+) tok per forward", log)), steps_of(log))

    def with_file(self, flag, text, *flags):
        """A run with a text in a file, which `flag` names."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            return self.run(flag, file.name, *flags)

    def edit(self, instruction, text, strength, seed, *flags):
        """The edited text, and the steps that it took."""
        flags = ("--instruction", instruction, "--strength", strength, "-s", seed, *flags)
        out, log = self.with_file("--edit", text, *flags)
        return out, steps_of(log)

    def rewrite(self, prompt, text, strength, seed):
        """The answer to a prompt on canvases that begin as a text, and the steps that it took."""
        flags = ("--no-escape", "-p", prompt, "--strength", strength, "-s", seed)
        out, log = self.with_file("--edit", text, *flags)
        return out, steps_of(log)

    def fill(self, messages, form):
        """A filled form: the tool's answer, of which `form` is the request."""
        flags = ("--raw", "--no-escape", "-p", tk.render(messages))
        return json.loads(self.with_file("--form", json.dumps(form, ensure_ascii=False), *flags)[0])

    def infill(self, requests):
        """The answers to requests of `--infill-json`."""
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        return [json.loads(line) for line in self.run("--infill-json", lines=lines)[0].splitlines()]

    def scores(self, messages, text):
        """The denoiser's check of an answer that begins with `text`: the tool's lines of `--logprobs` for it."""
        with tempfile.TemporaryDirectory() as folder:
            scores = Path(folder) / "scores.jsonl"
            flags = ("--raw", "--no-escape", "-p", tk.render(messages), "--logprobs", scores, "--top-logprobs", 1)
            self.with_file("--template", text, *flags)
            lines = [json.loads(line) for line in scores.read_text().splitlines()]
        length, known = 0, []
        for line in lines:
            if length < len(text.encode()):
                known.append(line)
                length += len(line["bytes"])
        return known


def found(pattern, log):
    match = re.search(pattern, log)
    if match is None:
        raise SystemExit(f"nothing like {pattern!r} in the tool's summary:\n{log}")
    return match[1]


def steps_of(log):
    return int(found(r"\((\d+) steps over", log))
