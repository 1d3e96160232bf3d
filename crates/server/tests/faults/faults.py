#!/usr/bin/env python3
"""What the server does when things go wrong. Run by hand: faults.py PROGRAM [CASE]...

signals      SIGTERM at 100 random moments: every client has an answer or an error, and the server ends in time
descriptors  64 file descriptors: clients wait or are refused, and afterwards all is as before
disk         a full disk: saving a slot is an error, and leaves no file (needs the right to mount)
slow         slow headers, bodies and readers: chats are as fast as without them (needs slowhttptest)
"""

import concurrent.futures
import http.client
import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

LIMIT = 60  # seconds for anything
QUESTIONS = ["What is the capital of Norway?", "Count from 3 to 9.", "Tell a story about Grace and a white owl."]


class Server:
    """A server on the demo model."""

    def __init__(self, program, *flags, prefix=()):
        command = [*prefix, program, "--port", "0", "-s", "7", "-t", "1", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"listening on http://([\d.]+):(\d+)", line):
                self.address = (found[1], int(found[2]))
                break
        else:
            raise SystemExit("".join(self.log))
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def ready(self):
        start = time.monotonic()
        while self.ask("GET", "/health")[0] != 200:
            assert time.monotonic() - start < LIMIT, self.log
            time.sleep(0.02)
        return self

    def ask(self, method, path, body=None):
        """Status and body; raises what a client raises that has none."""
        connection = http.client.HTTPConnection(*self.address, timeout=LIMIT)
        try:
            connection.request(method, path, body and json.dumps(body))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def chat(self, question=QUESTIONS[0], stream=False):
        body = {"messages": [{"role": "user", "content": question}], "stream": stream}
        return self.ask("POST", "/v1/chat/completions", body)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)

    def open_files(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def outcome(server, number):
    """What a client of a server that ends gets."""
    stream = number % 2 == 1
    try:
        status, body = server.chat(QUESTIONS[number % 3], stream)
    except ConnectionRefusedError:
        return "refused"  # after the listener was closed
    except (ConnectionError, http.client.HTTPException) as error:
        return f"LOST: {type(error).__name__} {error}"
    if status != 200:
        json.loads(body)
        return f"{status}"
    if not stream:
        return "answer" if json.loads(body)["choices"] else "LOST: no choices"
    events = body.decode().strip().split("\n\n")
    if events[-1] == "data: [DONE]":
        return "stream"
    last = json.loads(events[-1].removeprefix("data: "))
    return "stream with an error" if "error" in last else f"LOST: ends with {events[-1][:80]!r}"


def signals(program, rounds=100):
    counts, times = {}, []
    chance = random.Random(7)
    for _ in range(rounds):
        server = Server(program, "-np", "2", "--queue", "4")
        if chance.random() < 0.9:
            server.ready()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(outcome, server, number) for number in range(8)]
            time.sleep(chance.random() * 0.6)
            start = time.monotonic()
            status = server.end()
            times.append(time.monotonic() - start)
            assert status == 0, (status, server.log)
            for client in clients:
                result = client.result()
                counts[result] = counts.get(result, 0) + 1
    print(f"signals: {rounds} ends, at most {max(times):.2f} s, clients: {counts}")
    assert max(times) < 5
    assert not any(result.startswith("LOST") for result in counts)


def descriptors(program):
    server = Server(program, prefix=("prlimit", "--nofile=64", "--")).ready()
    server.chat()
    time.sleep(0.5)
    before = server.open_files()
    idle = [socket.create_connection(server.address, timeout=LIMIT) for _ in range(200)]
    at_most = server.open_files()
    for connection in idle:
        connection.close()
    start = time.monotonic()
    status, _ = server.chat()
    waited = time.monotonic() - start
    time.sleep(1)
    after = server.open_files()
    print(f"descriptors: {before} before, {at_most} with 200 connections, {after} after; next chat {waited:.2f} s")
    assert status == 200 and at_most <= 64 and after <= before
    assert server.end() == 0


def disk(program):
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", directory], check=True)
        try:
            server = Server(program, "--slot-save-path", directory).ready()
            server.chat()
            status, body = server.ask("POST", "/slots/0?action=save", {"filename": "full"})
            left = list(pathlib.Path(directory).iterdir())
            message = json.loads(body)["error"]["message"]
            print(f"disk: {status} {message!r}, files left: {left}")
            assert status == 500 and not left
            assert server.chat()[0] == 200
            assert server.end() == 0
        finally:
            subprocess.run(["umount", directory], check=True)


def timed(server, seconds=8):
    """The times of chats, one after the other: long enough for an attacker to do all that it does."""
    times, end = [], time.monotonic() + seconds
    while (start := time.monotonic()) < end:
        assert server.chat()[0] == 200
        times.append(time.monotonic() - start)
    return times


def slow(program):
    server = Server(program).ready()
    base = f"http://{server.address[0]}:{server.address[1]}"
    timed(server, 1)
    time.sleep(1)
    before = server.open_files()
    attacks = {
        "header": ["-H", "-i", "5", "-u", f"{base}/health"],
        "body": ["-B", "-i", "5", "-s", "8192", "-t", "POST", "-u", f"{base}/tokenize"],
        "read": ["-X", "-w", "1", "-y", "8", "-n", "5", "-z", "1", "-k", "3", "-u", f"{base}/main.js"],
    }
    for name, attack in attacks.items():
        # In turn with each attack: other work on the machine changes from minute to minute.
        alone = timed(server)
        command = ["slowhttptest", *attack, "-c", "500", "-r", "200", "-l", "45", "-p", "5"]
        attacker = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(4)
        at_most = server.open_files()
        during = timed(server)
        attacker.wait(120)
        time.sleep(1)
        after = server.open_files()
        figures = [f"p50 {percentile(times, 0.5) * 1e3:.0f} ms, p95 {percentile(times, 0.95) * 1e3:.0f} ms"
                   for times in (alone, during)]
        print(f"slow: {name}: alone {figures[0]}; attacked {figures[1]};"
              f" {before} descriptors before, {at_most} meanwhile, {after} after")
        assert at_most > 400, "the attack does not hold its connections"
        assert after <= before
    assert server.end() == 0


CASES = {"signals": signals, "descriptors": descriptors, "disk": disk, "slow": slow}

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[2:] or CASES:
        CASES[name](sys.argv[1])
