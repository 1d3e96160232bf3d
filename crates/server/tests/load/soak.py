#!/usr/bin/env python3
"""Mixed requests for minutes, some of which are malformed, hang up or read slowly. Each answer must be that of the same
prompt and seed computed alone; what /metrics counts must add up; memory, descriptors and threads must not grow.

    crates/server/tests/load/soak.py target/release/llama-diffusion-server --minutes 10 --streams 8
"""

import argparse
import contextlib
import http.client
import json
import random
import re
import statistics
import threading
import time
from collections import Counter

from serving import Server, chat, endless, events, post

# The model is sure of all answers. Where it wavers between two tokens, the last bit decides, and that depends on the
# passes in which a prompt was encoded: on what was cached.
STORY = "Tell a story about Grace and a white owl."
PERSON = "Anna from Lima is 42 years old. Write that as JSON."
CAPITAL = "What is the capital of Norway?"
QUESTIONS = [
    CAPITAL,
    STORY,
    "Count backwards from 16 to 8.",
    PERSON,
    "Name the next three months after May.",
    "Put in order, smallest first: 37, 24, 34",
]
DUCK = "I have a gray duck. It is in the park."
RECALLED = [[DUCK, "That is nice.", "What animal do I have?", None, "Where is my duck?"]]
GAPS = [("def add(a, b):\n    return ", "\n"), ("The capital of Norway is ", ".")]
EDITS = [
    ("Tom takes a red fox.", "Rewrite in the past tense"),
    ("Anna has a red bag.\nTom sees a red fox.", "Change red to blue"),
]
FORMS = [
    (CAPITAL, "The capital of Norway is ▢.", [["Oslo", "Rome"]]),
    (PERSON, '{\n  "name": "▢",\n  "age": ▢,\n  "city": "▢"\n}', [["Leo", "Anna"], ["42", "24"], ["Oslo", "Lima"]]),
]


def properties(**types):
    return {"type": "object", "properties": types, "required": list(types), "additionalProperties": False}


SCHEMAS = [
    (PERSON, properties(name={"type": "string"}, age={"type": "integer"}, city={"type": "string"})),
    (PERSON, properties(age={"type": "integer"}, city={"enum": ["Oslo", "Lima"]})),
]
CALLS = [
    (CAPITAL, [("find", properties(city={"const": "Oslo"}))]),
    (PERSON, [("person", properties(city={"enum": ["Oslo", "Lima"]}))]),
    (PERSON, [("person", properties(name={"enum": ["Anna", "Leo"]}, city={"enum": ["Oslo", "Lima"]}))]),
    ("Write a Python function that returns the larger of a and b.", [("max", properties()), ("min", properties())]),
]
MALFORMED = [{"messages": 3}, {"messages": []}, {"messages": [{"role": "user", "content": "Hi"}], "n": -1}, [], {}]
SEEDS = range(2)
CHAT = "/v1/chat/completions"


def ask(connection, path, body):
    status, answer = post(connection, path, body)
    if status != 200:
        raise AssertionError(f"{status}: {answer}")
    return answer


def choices(connection, *messages, **fields):
    """The message, the end and the steps of each answer to a chat."""
    answer = ask(connection, CHAT, chat(*messages, **fields))
    return [
        (choice["message"], choice["finish_reason"], choice.get("diffusion", answer["diffusion"])["steps"])
        for choice in answer["choices"]
    ]


def short(connection, question, seed):
    [(answer, finish, steps)] = choices(connection, question, seed=seed)
    return answer["content"], finish, steps


def several(connection, question, seed):
    """The answers to one request, with the seeds from this one on."""
    return [(answer["content"], *rest) for answer, *rest in choices(connection, question, seed=seed, n=3)]


def by_schema(connection, subject, seed):
    question, schema = subject
    format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return choices(connection, question, seed=seed, response_format=format_)


def called(connection, subject, seed):
    question, functions = subject
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in functions]
    [(answer, finish, steps)] = choices(connection, question, seed=seed, tools=tools, tool_choice="required")
    # Their ids are random.
    return [call["function"] for call in answer["tool_calls"]], finish, steps


def canvas(connection, question, seed):
    """The first tokens of a canvas that is read after a step, in vLLM's fields."""
    fields = {"diffusion_read_only": True, "diffusion_max_steps": 1, "logprobs": True, "max_tokens": 6}
    [(answer, finish, steps)] = choices(connection, question, seed=seed, **fields)
    return answer["content"], finish, steps


def begin(connection, question, seed, **diffusion):
    """The events of a stream."""
    body = chat(question, seed=seed, stream=True, diffusion=diffusion)
    connection.request("POST", CHAT, json.dumps(body))
    return events(connection.getresponse())


def received(stream, pause=0):
    """The text, the end and the steps of a streamed answer."""
    text, finish, steps = "", None, None
    for event in stream:
        choice = event["choices"][0]
        text += choice["delta"].get("content") or ""
        finish = choice["finish_reason"] or finish
        if event.get("diffusion", {}).get("event") == "end":
            steps = event["diffusion"]["steps"]
        time.sleep(pause)
    return text, finish, steps


def streamed(connection, question, seed):
    return received(begin(connection, question, seed))


def read_slowly(connection, question, seed):
    return received(begin(connection, question, seed, drafts="full", min_interval_ms=0), pause=0.05)


def followed(connection, question, seed):
    """A second client sees the drafts of an answer, which takes long enough for it to come in time."""
    stream = begin(connection, question, seed, confidence_threshold=0, max_steps=40)
    path = f"/diffusion/drafts/{next(stream)['id']}?min_interval_ms=0"
    second = http.client.HTTPConnection(connection.host, connection.port, timeout=connection.timeout)
    with contextlib.closing(second):
        second.request("GET", path)
        drafts = second.getresponse()
        assert drafts.status == 200, drafts.read()
        seen = list(events(drafts))
    text, finish, steps = received(stream)
    # The last draft of each canvas is its text.
    last = {event["block"]: event["text"] for event in seen if event.get("event") == "draft"}
    assert ("".join(last.values()), seen[-1].get("steps")) == (text, steps), f"{seen[-1]} and {last} of {text!r}"
    return text, finish, steps


def recalled(connection, turns, seed):
    history = list(turns)
    history[3] = reply(connection, history[:3], seed)
    return [*history, reply(connection, history, seed)]


def reply(connection, history, seed):
    [(answer, _, _)] = choices(connection, *history, seed=seed)
    return answer["content"]


def infill(connection, gap, seed):
    body = {"input_prefix": gap[0], "input_suffix": gap[1], "n_predict": 24, "seed": seed}
    return ask(connection, "/infill", body)["content"]


def completion(connection, question, seed):
    body = {"prompt": f"<|turn>user\n{question}<turn|>\n<|turn>model\n", "seed": seed}
    answer = ask(connection, "/v1/completions", body)
    return answer["choices"][0]["text"], answer["choices"][0]["finish_reason"], answer["diffusion"]["steps"]


def response(connection, question, seed):
    answer = ask(connection, "/v1/responses", {"input": question, "seed": seed})
    return answer["output"][-1]["content"][0]["text"]


def message(connection, question, seed):
    body = chat(question, seed=seed, max_tokens=128)
    return ask(connection, "/v1/messages", body)["content"][-1]["text"]


def edit(connection, subject, seed):
    text, instruction = subject
    answer = ask(connection, "/diffusion/edit", {"text": text, "instruction": instruction, "seed": seed})
    return answer["content"], answer["changes"], answer["diffusion"]["steps"]


def form(connection, subject, seed):
    question, text, blanks = subject
    blanks = [{"name": str(number), "choices": texts} for number, texts in enumerate(blanks)]
    answer = ask(connection, "/diffusion/fill", chat(question, form=text, blanks=blanks, seed=seed))
    return answer["text"], [blank["choice"] for blank in answer["blanks"]], answer["passes"]


# How often, what, and about what: the answers of these are known.
KNOWN = [
    (18, short, QUESTIONS),
    (18, streamed, QUESTIONS),
    (15, recalled, RECALLED),
    (10, infill, GAPS),
    (4, by_schema, SCHEMAS),
    (4, called, CALLS),
    (4, several, QUESTIONS),
    (4, completion, QUESTIONS),
    (4, edit, EDITS),
    (3, response, QUESTIONS),
    (2, message, QUESTIONS),
    (2, form, FORMS),
    (2, canvas, QUESTIONS),
    (2, followed, [STORY]),
]
# Answers to a request, where it is not one.
ANSWERS = {"recalled": 2, "several": 3}


class Soak:
    """What all streams share."""

    def __init__(self, server):
        self.server = server
        # The kinds of the requests that are done.
        self.done = []
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
        for token in ask(connection, "/tokenize", {"content": "a b c d"})["tokens"]:
            for slot in range(props["total_slots"]):
                prompt = [token] * (context * 7 // 8)
                body = {"prompt": prompt, "id_slot": slot, "n_predict": 0}
                ask(connection, "/completion", body)
        connection.close()

    def stream(self, number):
        """Requests until the time is over."""
        chance = random.Random(number)
        connection = self.server.connect()
        kinds = [*KNOWN, (5, self.hang_up, None), (4, self.malformed, None), (1, self.slow, None)]
        weights = [weight for weight, _, _ in kinds]
        while not self.is_over.is_set():
            _, kind, subjects = chance.choices(kinds, weights)[0]
            try:
                if subjects is None:
                    kind(connection, chance)
                else:
                    index, seed = chance.randrange(len(subjects)), chance.choice(SEEDS)
                    self.compare((kind, index, seed), kind(connection, subjects[index], seed))
                self.done.append(kind.__name__)
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
        connection.request("POST", CHAT, json.dumps(body))
        time.sleep(chance.uniform(0, 0.5))
        connection.close()

    def malformed(self, connection, chance):
        status, answer = post(connection, CHAT, chance.choice(MALFORMED))
        assert status == 400 and answer["error"]["message"], (status, answer)

    def slow(self, connection, chance):
        index, seed = chance.randrange(len(QUESTIONS)), chance.choice(SEEDS)
        answer = read_slowly(connection, QUESTIONS[index], seed)
        self.compare((streamed, index, seed), answer)


def grown(before, after, *parts):
    """What counters whose names have these parts have grown by. A labelled one appears when it is first counted."""
    return sum(after[name] - before.get(name, 0) for name in after if all(part in name for part in parts))


def adds_up(server, patience=10):
    """Whether all answers that have begun and not ended have a slot, each its own. It seems otherwise during a step in
    which one begins, as the slots are shown at its end."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        metrics = server.metrics()
        left = metrics["llama_diffusion_queue_seconds_count"] - metrics["llama_diffusion_request_seconds_count"]
        tasks = [slot["id_task"] for slot in json.loads(server.get("/slots")) if slot["is_processing"]]
        if left == metrics["llamacpp:requests_processing"] and len(tasks) == len(set(tasks)):
            return True
        time.sleep(0.01)
    return False


def miscounted(before, after, done):
    """What an idle server has counted otherwise than its clients."""
    answers = sum(ANSWERS.get(kind, 1) for kind in done if kind not in ("hang_up", "malformed"))
    requests = lambda finish: grown(before, after, "_requests_total", f'finish="{finish}"')
    answered = sum(map(requests, ("stop", "length", "tool_calls")))
    begun = grown(before, after, "_queue_seconds_count")
    cancelled = grown(before, after, "_cancelled_total")
    pairs = {
        "answers": (answered, answers),
        "errors": (requests("error"), done.count("malformed")),
        "answers that left their slots": (grown(before, after, "_request_seconds_count"), begun),
        "answers that were cancelled on a slot": (
            cancelled - grown(before, after, "_cancelled_total", "queued"), begun - answered
        ),
        "answers that were cancelled": (cancelled, requests("cancelled")),
    }
    return [f"{name}: {count:.0f} instead of {other:.0f}" for name, (count, other) in pairs.items() if count != other]


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
    parser.add_argument("--flags", default="-np 4 --cache-ram 8", help="of the server, which needs three slots")
    args = parser.parse_args()
    with Server(args.server, *args.flags.split()) as server:
        before = settled(server)
        soak = Soak(server)
        soak.fill()
        begin, first = time.monotonic(), server.metrics()
        streams = [threading.Thread(target=soak.stream, args=(number,)) for number in range(args.streams)]
        for stream in streams:
            stream.start()
        samples, last = [], first
        while time.monotonic() < begin + args.minutes * 60:
            time.sleep(1)
            metrics = server.metrics()
            counters = [name for name in last if re.search(r"_(total|count|sum|bucket)\b", name)]
            soak.wrong.extend(f"{name} fell" for name in counters if metrics[name] < last[name])
            if not adds_up(server):
                soak.wrong.append("there are slots without an answer, or answers without a slot")
            last = metrics
            samples.append((len(soak.done), server.resources()[0]))
        soak.is_over.set()
        for stream in streams:
            stream.join()
        deadline = time.monotonic() + 60
        while server.busy() and time.monotonic() < deadline:
            time.sleep(0.1)
        soak.wrong.extend(miscounted(first, server.metrics(), soak.done))
        after = returned(server, before)
        growth = slope(samples)
        for name, count in Counter(soak.done).most_common():
            print(f"{name:14} {count}")
        print(f"{'all':14} {len(soak.done)} in {time.monotonic() - begin:.0f} s, {len(soak.wrong)} wrong")
        resident = [size >> 10 for _, size in samples]
        print(f"resident       {resident[0]} KiB, in the end {resident[-1]} KiB: {growth:.0f} bytes a request")
        print(f"descriptors    {before[0]}, in the end {after[0]}")
        print(f"threads        {before[1]}, in the end {after[1]}")
        for wrong in soak.wrong[:20]:
            print(f"wrong: {wrong}")
        is_good = not soak.wrong and growth < 1024 and after[0] <= before[0] and after[1] <= before[1]
    raise SystemExit(0 if is_good and server.process.returncode == 0 else 1)


if __name__ == "__main__":
    main()
