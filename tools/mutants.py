#!/usr/bin/env python3
"""Puts small faults into the engine, one at a time, and reports which of them the tests notice.

    mutants.py [--check] [--only REGEX] [LIST]

LIST (tools/mutants.txt) holds the faults and the tests that should notice them; it explains its format. A fault that no
longer applies, or does not build, is an error. Everything happens in a copy of the checkout below target/mutants. All
faults are built at once: a function that has some holds a variant of its body for each of them, and an environment
variable selects the fault.
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
# Optimized, because each test runs many times; with the checks of the dev profile.
PROFILE = ["--config", "profile.dev.debug=0", "--config", "profile.dev.opt-level=1"]
CARGO = ["cargo", "test", "--package", "llama-diffusion", "--locked", *PROFILE, "--quiet"]
BUILD_SECONDS = 1800
# A fault may make a loop endless.
TEST_SECONDS = 240
LEAST_PERCENT = 90
SELECTED = "LLAMA_DIFFUSION_FAULT"
# Appended to lib.rs.
SELECTOR = f"""
pub(crate) fn selected_fault() -> usize {{
    static SELECTED: std::sync::LazyLock<usize> = std::sync::LazyLock::new(|| {{
        std::env::var("{SELECTED}").map_or(0, |number| number.parse().unwrap())
    }});
    *SELECTED
}}
"""


class ListError(Exception):
    """The list cannot be used; the message names the line."""


@dataclass
class Fault:
    line: int
    tests: list[list[str]]
    old: list[str]
    new: list[str]
    number: int = 0
    file: Path | None = None
    # Where the old lines begin in the file, from 0.
    start: int = 0

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
    for number, fault in enumerate(faults, 1):
        fault.number = number
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
            (name, start)
            for name, text in lines.items()
            for start in range(len(text))
            if text[start : start + len(fault.old)] == fault.old
        ]
        if len(places) != 1:
            found = ", ".join(str(name) for name, _ in places) or "nowhere"
            raise ListError(f"line {fault.line}: '{' | '.join(fault.old)}' is not in one place of src: {found}")
        fault.file, fault.start = places[0]


@dataclass(frozen=True)
class Body:
    """The lines of a function between its braces."""

    first: int
    end: int


FUNCTION = re.compile(r"\s*(pub(\([a-z:]+\))? )?(const )?(unsafe )?fn \w")


def body_of(fault: Fault, lines: list[str]) -> Body:
    """The body of the innermost function with what the fault changes. The source is formatted."""
    same = len(os.path.commonprefix([fault.old, fault.new]))
    first, last = fault.start + min(same, len(fault.old) - 1), fault.start + len(fault.old) - 1
    for at in range(first - 1, -1, -1):
        if not FUNCTION.match(lines[at]):
            continue
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        opening = next(i for i in range(at, len(lines)) if re.match(rf"{indent}\S.*\{{$|{indent}\{{$", lines[i]))
        closing = lines.index(indent + "}", opening)
        if closing <= last:
            continue
        signature = " ".join(lines[at : opening + 1])
        if "-> impl " in signature or "const fn" in signature:
            raise ListError(f"line {fault.line}: {fault}: the function cannot have several bodies")
        return Body(opening + 1, closing)
    raise ListError(f"line {fault.line}: {fault}: is not in a function")


def with_faults(faults: list[Fault], text: str) -> str:
    """A source file with a choice between the bodies of each function that has faults."""
    lines = text.splitlines()
    bodies: dict[Body, list[Fault]] = {}
    for fault in faults:
        bodies.setdefault(body_of(fault, lines), []).append(fault)
    for body, members in sorted(bodies.items(), key=lambda item: item[0].first, reverse=True):
        variants = ["match crate::selected_fault() {"]
        for fault in members:
            same = len(os.path.commonprefix([fault.old, fault.new]))
            changed, after = fault.start + same, fault.start + len(fault.old)
            variants += [f"{fault.number} => {{", *lines[body.first : changed], *fault.new[same:]]
            variants += [*lines[after : body.end], "}"]
        variants += ["_ => {", *lines[body.first : body.end], "}", "}"]
        lines[body.first : body.end] = variants
    return "\n".join(lines) + "\n"


def copy_checkout(to: Path, faults: list[Fault]) -> None:
    """Copies the checkout, with all faults."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        source, target = ROOT / name, to / name
        content = source.read_bytes()
        if own := [fault for fault in faults if str(fault.file) == name]:
            content = with_faults(own, content.decode()).encode()
        if name == "src/lib.rs":
            content += SELECTOR.encode()
        if target.is_file() and target.read_bytes() == content:
            continue  # Cargo goes by the time of a file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        shutil.copymode(source, target)
    kept = set(names)
    for path in [path for path in to.rglob("*") if path.is_file()]:
        if str(path.relative_to(to)) not in kept:
            path.unlink()


def run(command: list[str], seconds: int, fault: int = 0) -> tuple[bool, str]:
    """Whether a command succeeds in time with a fault, and what it printed."""
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(SCRATCH / "build"),
        "RUST_BACKTRACE": "0",
        SELECTED: str(fault),
    }
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


def failing(tests: list[list[str]], fault: int = 0) -> str | None:
    """The first of the tests that fails, or none."""
    for test in tests:
        target = target_of(test)
        passed, output = run([*CARGO, *target, "--", *test[len(target) :]], TEST_SECONDS, fault)
        if not passed:
            found = re.search(r"^---- (\S+) stdout ----|^test (\S+) has been running", output, re.M)
            return (found and (found[1] or found[2])) or output.strip().splitlines()[-1]
    return None


def try_out(faults: list[Fault]) -> int:
    copy_checkout(SCRATCH / "tree", faults)
    tests = [list(test) for test in {tuple(test): None for fault in faults for test in fault.tests}]
    targets = [part for target in {tuple(target_of(test)): None for test in tests} for part in target]
    built, output = run([*CARGO, "--no-run", *targets], BUILD_SECONDS)
    if not built:
        raise ListError(f"the faults do not build:\n{output}")
    if failed := failing(tests):
        raise ListError(f"the tests fail without a fault: {failed}")
    unnoticed = []
    for fault in faults:
        start = time.monotonic()
        by = failing(fault.tests, fault.number)
        if by is None:
            unnoticed.append(fault)
        said = f"noticed by {by}" if by else "UNNOTICED"
        print(f"{fault.number}, {time.monotonic() - start:.0f} s: {fault}: {said}", flush=True)
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
        for fault in chosen:
            body_of(fault, (ROOT / fault.file).read_text(encoding="utf-8").splitlines())
        if args.check:
            print(f"{len(chosen)} faults apply")
            return 0
        return try_out(chosen)
    except (ListError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
