#!/usr/bin/env python3
"""Puts small faults into the engine, one at a time, and reports which of them the tests notice.

    mutants.py [--check] [--only REGEX] [LIST]

LIST (tools/mutants.txt) holds the faults and the tests that should notice them; it explains its format. A fault that no
longer applies, or does not build, is an error. Everything happens in a copy of the checkout below target/mutants.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "target" / "mutants"
CARGO = ["cargo", "test", "--package", "llama-diffusion", "--locked", "--config", "profile.dev.debug=0", "--quiet"]
BUILD_SECONDS = 1800
# A fault may make a loop endless.
TEST_SECONDS = 240
LEAST_PERCENT = 90


class ListError(Exception):
    """The list cannot be used; the message names the line."""


@dataclass
class Fault:
    line: int
    tests: list[list[str]]
    old: list[str]
    new: list[str]
    file: Path | None = None

    def __str__(self) -> str:
        return f"{self.file}: {' | '.join(self.old)} -> {' | '.join(self.new) or 'nothing'}"


def read_list(path: Path) -> list[Fault]:
    faults: list[Fault] = []
    tests: list[list[str]] = []
    fault: Fault | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("["):
            tests = [part.split() for part in line.strip("[]").split(";")]
            fault = None
        elif line.startswith("- "):
            if fault is None or fault.new:
                fault = Fault(number, tests, [], [])
                faults.append(fault)
            fault.old.append(line[2:].strip())
        elif line.startswith("+ ") and fault is not None:
            fault.new.append(line[2:].strip())
        elif not line.strip():
            fault = None
        elif not line.startswith("#"):
            raise ListError(f"{path}: line {number}: '{line}' is neither tests, a fault nor a comment")
    return faults


def production(text: str) -> list[str]:
    """The lines of a source file before its tests, without indentation."""
    return [line.strip() for line in text.split("#[cfg(test)]\nmod tests {")[0].splitlines()]


def locate(faults: list[Fault], root: Path) -> None:
    """Finds the one place of each fault."""
    sources = {path.relative_to(root): path for path in sorted((root / "src").rglob("*.rs"))}
    lines = {name: production(path.read_text(encoding="utf-8")) for name, path in sources.items()}
    for fault in faults:
        places = [
            name
            for name, text in lines.items()
            for start in range(len(text))
            if text[start : start + len(fault.old)] == fault.old
        ]
        if len(places) != 1:
            found = ", ".join(map(str, places)) or "nowhere"
            raise ListError(f"line {fault.line}: '{' | '.join(fault.old)}' is not in one place of src: {found}")
        fault.file = places[0]


def mutate(fault: Fault, text: str) -> str:
    lines, stripped = text.splitlines(), production(text)
    count = len(fault.old)
    start = next(i for i in range(len(stripped)) if stripped[i : i + count] == fault.old)
    lines[start : start + count] = fault.new
    return "\n".join(lines) + "\n"


def copy_checkout(to: Path) -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        source, target = ROOT / name, to / name
        content = source.read_bytes()
        if target.is_file() and target.read_bytes() == content:
            continue  # Cargo goes by the time of a file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        shutil.copymode(source, target)
    kept = set(names)
    for path in [path for path in to.rglob("*") if path.is_file()]:
        if str(path.relative_to(to)) not in kept:
            path.unlink()


def run(command: list[str], seconds: int) -> tuple[bool, str]:
    """Whether a command succeeds in time, and what it printed."""
    environment = os.environ | {"CARGO_TARGET_DIR": str(SCRATCH / "build"), "RUST_BACKTRACE": "0"}
    process = subprocess.Popen(
        command,
        cwd=SCRATCH / "tree",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=seconds)[0]
        return process.returncode == 0, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return False, process.communicate()[0] + f"\nno end after {seconds} s"


def target_of(test: list[str]) -> list[str]:
    return test[:1] if test[0] == "--lib" else test[:2]


def failing(tests: list[list[str]], fault: str) -> str | None:
    """The first of the tests that fails, or none. Each is built when those before it passed."""
    for test in tests:
        target = target_of(test)
        built, output = run([*CARGO, "--no-run", *target], BUILD_SECONDS)
        if not built:
            raise ListError(f"{fault} does not build:\n{output}")
        passed, output = run([*CARGO, *target, "--", *test[len(target) :]], TEST_SECONDS)
        if not passed:
            found = re.search(r"^---- (\S+) stdout ----|^test (\S+) has been running", output, re.M)
            return (found and (found[1] or found[2])) or output.strip().splitlines()[-1]
    return None


def try_out(faults: list[Fault]) -> int:
    copy_checkout(SCRATCH / "tree")
    everything = [list(test) for test in {tuple(test): None for fault in faults for test in fault.tests}]
    if failed := failing(everything, "the checkout"):
        raise ListError(f"the tests fail without a fault: {failed}")
    unnoticed = []
    for number, fault in enumerate(faults, 1):
        path, start = SCRATCH / "tree" / fault.file, time.monotonic()
        original = path.read_text(encoding="utf-8")
        path.write_text(mutate(fault, original), encoding="utf-8")
        try:
            by = failing(fault.tests, f"line {fault.line}: {fault}")
        finally:
            path.write_text(original, encoding="utf-8")
        if by is None:
            unnoticed.append(fault)
        said = f"noticed by {by}" if by else "UNNOTICED"
        print(f"{number} of {len(faults)}, {time.monotonic() - start:.0f} s: {fault}: {said}", flush=True)
    percent = 100 * (len(faults) - len(unnoticed)) / len(faults)
    print(f"{len(faults) - len(unnoticed)} of {len(faults)} faults were noticed: {percent:.1f} %")
    for fault in unnoticed:
        print(f"unnoticed: line {fault.line}: {fault}")
    return 0 if percent >= LEAST_PERCENT else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Report which small faults the tests notice.")
    parser.add_argument("list", nargs="?", type=Path, default=ROOT / "tools" / "mutants.txt", metavar="LIST")
    parser.add_argument("--check", action="store_true", help="only look whether every fault still applies")
    parser.add_argument("--only", metavar="REGEX", help="faults whose file or text matches")
    args = parser.parse_args()
    try:
        faults = read_list(args.list)
        locate(faults, ROOT)
        chosen = [fault for fault in faults if re.search(args.only or "", str(fault))]
        if not chosen:
            raise ListError(f"no fault matches '{args.only}'" if args.only else f"{args.list} has no faults")
        if args.check:
            print(f"{len(chosen)} faults apply")
            return 0
        return try_out(chosen)
    except (ListError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
