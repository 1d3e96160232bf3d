#!/usr/bin/env python3
"""Runs the tests that openai-python and anthropic-sdk-python have for themselves against the server: their requests
have every field that the protocols know, and their clients check the types of all answers.

    crates/server/tests/clients/sdk_suites.py target/release/llama-diffusion-server

It takes a minute, and a few more the first time, when it downloads the packages. Exit status: 1 if a test fails for
another reason than those of KNOWN. A test fails with the first field that is refused: what the server says to the
fields after it is not seen.
"""

import argparse
import ast
import collections
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import venv
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "load"))
from serving import Server  # noqa: E402

OPENAI, ANTHROPIC = "openai-3.57.0", "anthropic-2.14.0"
PACKAGES = [
    *(source.replace("-", "[aiohttp]==") for source in (OPENAI, ANTHROPIC)),
    "http-snapshot[httpx]==0.1.9",
    "inline-snapshot==0.36.1",
    "pytest==9.2.0",
    "pytest-asyncio==1.5.0",
    "pytest-xdist==3.8.0",
    "respx==0.23.1",
]

# Source package, what its client adds to the server's address, file, further arguments of pytest.
SUITES = [
    (OPENAI, "/v1", "chat/test_completions.py", ["-k", "create"]),
    (OPENAI, "/v1", "test_completions.py", ["-k", "create"]),
    (OPENAI, "/v1", "test_models.py", ["-k", "retrieve or list"]),
    (OPENAI, "/v1", "test_responses.py", ["-k", "create"]),
    (ANTHROPIC, "", "test_messages.py", ["-p", "tests._alias_httpx"]),
]

# The demo model has the name that test_models.py asks for (any other is 404, as from OpenAI), and a template that
# describes tools, as its own does not.
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{{ message.content }}\n{% endfor %}Answer:"
)
FLAGS = ["-a", "gpt-6-astra", "--chat-template", TEMPLATE, "-s", "7", "-t", "1"]

# Why a test may fail: how the server's message begins, and why the server is right.
KNOWN = {
    "audio: ": "the model reads and writes only text",
    "web_search_options: ": "the server searches nothing",
    "echo: ": "with logprobs it asks for those of the prompt, which has none; llama-server refuses it too",
    "conversation: ": "no conversations are kept; OpenAI refuses them together with previous_response_id too",
    "previous_response_id: there is no response": "it was never stored; OpenAI refuses it too",
    "container.skills: ": "the server runs no tools",
}


def install(cache):
    """The interpreter that has the packages. They are installed once for each list of versions."""
    python, installed = cache / "venv" / "bin" / "python", cache / "installed.txt"
    if installed.exists() and installed.read_text() == "\n".join(PACKAGES):
        return python
    venv.create(cache / "venv", clear=True, with_pip=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *PACKAGES], check=True)
    for source in (OPENAI, ANTHROPIC):
        name, version = source.split("-")
        wanted = ["--no-deps", "--no-binary", name, f"{name}=={version}"]
        subprocess.run([*pip, "download", "--dest", cache, *wanted], check=True)
        with tarfile.open(cache / f"{source}.tar.gz") as archive:
            # Without src: the installed client is tested.
            members = [member for member in archive if member.name.split("/")[1] != "src"]
            archive.extractall(cache, members, filter="data")
    installed.write_text("\n".join(PACKAGES))
    return python


def reason(failure):
    """What the server said, or else what the test says, in one line."""
    said = failure.get("message") or failure.text or ""
    # The client of OpenAI shows the message alone, that of Anthropic the whole body.
    if found := re.search(r"Error code: \d+ - (.*)", said, re.DOTALL):
        said = found[1]
        if said.startswith("{'type': 'error'"):
            said = ast.literal_eval(said)["error"]["message"]
    return " ".join(said.split())[:300]


def run(python, address, cache, suite):
    """The number of tests of a file, and the names of those that failed, by reason."""
    source, path, file, arguments = suite
    results = cache / "results.xml"
    results.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-o", "addopts=", "-n0", "-q", "--tb=line", f"--junitxml={results}", *arguments]
    done = subprocess.run(
        [*command, f"tests/api_resources/{file}"],
        cwd=cache / source,
        env={**os.environ, "TEST_API_BASE_URL": f"http://{address}{path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode not in (0, 1):  # passed, failed
        raise SystemExit(f"{source} {file}: pytest ended with {done.returncode}\n{done.stdout[-4000:]}")
    tests = list(xml.etree.ElementTree.parse(results).iter("testcase"))
    failed = collections.defaultdict(list)
    for test in tests:
        for outcome in test:
            if outcome.tag in ("failure", "error", "skipped"):
                failed[reason(outcome)].append(f"{test.get('classname').split('.')[-1]}.{test.get('name')}")
                break
    return len(tests), failed


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program", help="the server")
    arguments.add_argument("--cache", type=pathlib.Path, default=cache / "llama-diffusion-sdk-suites",
                           help="folder for the packages (default: %(default)s)")
    given = arguments.parse_args()
    cache = given.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    python = install(cache)
    unexpected = 0
    with Server(given.program, *FLAGS) as server:
        for suite in SUITES:
            total, failed = run(python, server.address, cache, suite)
            passed = total - sum(map(len, failed.values()))
            print(f"{suite[0]} {suite[2]}: {passed}/{total} passed", flush=True)
            for message, names in sorted(failed.items(), key=lambda group: -len(group[1])):
                why = next((why for start, why in KNOWN.items() if message.startswith(start)), None)
                print(f"  {len(names)} × {message}")
                print(f"      known: {why}" if why else f"      UNEXPECTED: {', '.join(names)}")
                unexpected += 0 if why else len(names)
    print(f"{unexpected} tests failed for unexpected reasons")
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
