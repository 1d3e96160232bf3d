#!/usr/bin/env python3
"""Mixed requests for minutes, some of which are malformed, hang up or read slowly. Each answer must be that of the same
prompt and seed computed alone; memory, descriptors and threads must not grow.

    crates/server/tests/load/soak.py target/release/llama-diffusion-server --minutes 10 --streams 8
"""

import argparse
import json
import random
import statistics
import threading
import time
from collections import Counter

from serving import Server, chat, endless, events, post

# The model is sure of all answers. Where it wavers between two tokens, the last bit decides, and that depends on the
# passes in which a prompt was encoded: on what was cached.
QUESTIONS = [
    "What is the capital of Norway?",
    "Tell a story about Grace and a white owl.",
    "Count backwards from 16 to 8.",
    "Anna from Lima is 42 years old. Write that as JSON.",
    "Name the next three months after May.",
    "Put in order, smallest first: 37, 24, 34",
]
DUCK = "I have a gray duck. It is in the park."
RECALLED = [[DUCK, "That is nice.", "What animal do I have?", None, "Where is my duck?"]]
GAPS = [("def add(a, b):\n    return ", "\n"), ("The capital of Norway is ", ".")]
MALFORMED = [{"messages": 3}, {"messages": []}, {"messages": [{"role": "user", "content": "Hi"}], "n": -1}, [], {}]
SEEDS = range(2)


def expect(status, answer):
    if status != 200:
        raise AssertionError(f"{status}: {answer}")
    return answer


def short(connection, question, seed):
    answer = expect(*post(connection, "/v1/chat/completions", chat(question, seed=seed)))
    choice = answer["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], answer["diffusion"]["steps"]


def streamed(connection, question, seed, read_slowly=False):
    body = chat(question, seed=seed, stream=True)
    if read_slowly:
        body["diffusion"] = {"drafts": "full", "min_interval_ms": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    text, finish, steps = "", None, None
    for event in events(response):
        choice = event["choices"][0]
        text += choice["delta"].get("content") or ""
        finish = choice["finish_reason"] or finish
        if event.get("diffusion", {}).get("event") == "end":
            steps = event["diffusion"]["steps"]
        if read_slowly:
            time.sleep(0.05)
    return text, finish, steps


def recalled(connection, turns, seed):
    history = list(turns)
    history[3] = reply(connection, history[:3], seed)
    return [*history, reply(connection, history, seed)]


def reply(connection, history, seed):
    answer = expect(*post(connection, "/v1/chat/completions", chat(*history, seed=seed)))
    return answer["choices"][0]["message"]["content"]


def infill(connection, gap, seed):
    body = {"input_prefix": gap[0], "input_suffix": gap[1], "n_predict": 24, "seed": seed}
    return expect(*post(connection, "/infill", body))["content"]


def response(connection, question, seed):
    answer = expect(*post(connection, "/v1/responses", {"input": question, "seed": seed}))
    return answer["output"][-1]["content"][0]["text"]


def message(connection, question, seed):
    body = chat(question, seed=seed, max_tokens=128)
    return expect(*post(connection, "/v1/messages", body))["content"][-1]["text"]


# How often, what, and about what: the answers of these are known.
KNOWN = [
    (30, short, QUESTIONS),
    (30, streamed, QUESTIONS),
    (15, recalled, RECALLED),
    (10, infill, GAPS),
    (3, response, QUESTIONS),
    (2, message, QUESTIONS),
]


class Soak:
    """What all streams share."""

    def __init__(self, server):
        self.server = server
        self.counts = Counter()
        self.wrong = []
        self.is_over = threading.Event()
        connection = server.connect()
        self.expected = {
            (kind, index, seed): kind(connection, subject, seed)
            for _, kind, subjects in KNOWN
            for index, subject in enumerate(subjects)
            for seed in SEEDS
        }
        connection.close()

    def fill(self):
        """Fills all slots, and what is kept of earlier prompts: memory that is taken once is no growth."""
        props = json.loads(self.server.get("/props"))
        context = props["default_generation_settings"]["n_ctx"]
        connection = self.server.connect()
        _, answer = post(connection, "/tokenize", {"content": "a b c d"})
        for token in answer["tokens"]:
            for slot in range(props["total_slots"]):
                prompt = [token] * (context * 7 // 8)
                body = {"prompt": prompt, "id_slot": slot, "n_predict": 0}
                expect(*post(connection, "/completion", body))
        connection.close()

    def stream(self, number):
        """Requests until the time is over."""
        chance = random.Random(number)
        connection = self.server.connect()
        choices = [*KNOWN, (5, self.hang_up, None), (4, self.malformed, None), (1, self.slow, None)]
        weights = [weight for weight, _, _ in choices]
        while not self.is_over.is_set():
            _, kind, subjects = chance.choices(choices, weights)[0]
            try:
                if subjects is None:
                    kind(connection, chance)
                else:
                    index, seed = chance.randrange(len(subjects)), chance.choice(SEEDS)
                    self.compare((kind, index, seed), kind(connection, subjects[index], seed))
                self.counts[kind.__name__] += 1
            except Exception as error:  # of whatever kind: the soak goes on and fails at its end
                self.wrong.append(f"{kind.__name__}: {error!r}")
                connection.close()
                connection = self.server.connect()
        connection.close()

    def compare(self, key, answer):
        if answer != self.expected[key]:
            self.wrong.append(f"{key[0].__name__} {key[1:]}: {answer!r} instead of {self.expected[key]!r}")

    def hang_up(self, _, chance):
        connection = self.server.connect()
        body = endless(chance.choice(QUESTIONS), stream=chance.random() < 0.5)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        time.sleep(chance.uniform(0, 0.5))
        connection.close()

    def malformed(self, connection, chance):
        body = chance.choice(MALFORMED)
        status, answer = post(connection, "/v1/chat/completions", body)
        assert status == 400 and answer["error"]["message"], (status, answer)

    def slow(self, connection, chance):
        index, seed = chance.randrange(len(QUESTIONS)), chance.choice(SEEDS)
        answer = streamed(connection, QUESTIONS[index], seed, read_slowly=True)
        self.compare((streamed, index, seed), answer)


def slope(samples):
    """Bytes a request, over the last 80 % of the samples."""
    samples = samples[len(samples) // 5 :]
    requests = [requests for requests, _ in samples]
    if len(set(requests)) < 2:
        return float("nan")
    return statistics.linear_regression(requests, [resident for _, resident in samples]).slope


def settled(server):
    """Descriptors and threads before the soak. The connections of the start close a moment later: they must not hide
    a descriptor that is lost."""
    samples = []
    for _ in range(10):
        samples.append(server.resources()[1:])
        time.sleep(0.1)
    return [min(values) for values in zip(*samples)]


def returned(server, before, patience=60):
    """Descriptors and threads once they are those from before, or as they are in the end."""
    deadline = time.monotonic() + patience
    while True:
        now = server.resources()[1:]
        if (now[0] <= before[0] and now[1] <= before[1]) or time.monotonic() > deadline:
            return now
        time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="a built llama-diffusion-server")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--flags", default="-np 4 --cache-ram 8", help="of the server")
    args = parser.parse_args()
    with Server(args.server, *args.flags.split()) as server:
        before = settled(server)
        soak = Soak(server)
        soak.fill()
        streams = [threading.Thread(target=soak.stream, args=(number,)) for number in range(args.streams)]
        for stream in streams:
            stream.start()
        samples, last, begin = [], {}, time.monotonic()
        while time.monotonic() < begin + args.minutes * 60:
            time.sleep(1)
            metrics = server.metrics()
            falling = [name for name in last if "_total" in name and metrics[name] < last[name]]
            soak.wrong.extend(f"{name} fell" for name in falling)
            last = metrics
            samples.append((sum(soak.counts.values()), server.resources()[0]))
        soak.is_over.set()
        for stream in streams:
            stream.join()
        while server.busy():
            time.sleep(0.1)
        after = returned(server, before)
        growth = slope(samples)
        for name, count in soak.counts.most_common():
            print(f"{name:14} {count}")
        print(f"{'all':14} {sum(soak.counts.values())} in {time.monotonic() - begin:.0f} s, {len(soak.wrong)} wrong")
        first, last = samples[0][1] >> 10, samples[-1][1] >> 10
        print(f"resident       {first} KiB, in the end {last} KiB: {growth:.0f} bytes a request")
        print(f"descriptors    {before[0]}, in the end {after[0]}")
        print(f"threads        {before[1]}, in the end {after[1]}")
        for wrong in soak.wrong[:20]:
            print(f"wrong: {wrong}")
        is_good = not soak.wrong and growth < 1024 and after[0] <= before[0] and after[1] <= before[1]
    raise SystemExit(0 if is_good and server.process.returncode == 0 else 1)


if __name__ == "__main__":
    main()
