#!/usr/bin/env python3
"""What the server promises under load: each bar with what was measured. Where they can, bars count tokens and steps or
take turns, so that other load on the machine does not matter; times mean something on an idle machine only.

    crates/server/tests/load/bars.py target/release/llama-diffusion-server [-m MODEL] [BAR ...]

-m is for intrusion alone, whose result depends on the length of canvases; the other bars are written for the demo
model.
"""

import argparse
import contextlib
import http.client
import json
import random
import socket
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from serving import NEVER, Server, chat, endless, events, percentile, post

CHAT = "/v1/chat/completions"
QUESTION = "Tell a story about Grace and a white owl."
# 1,426 tokens of the demo model, whose context has 2,048.
LONG = "Anna from Lima is 42 years old. Write that as JSON. " * 95
LENGTHY = {"type": "string", "pattern": "^[a-z ]{500}$"}
STEPS = "llamacpp:n_decode_total"
READ = "llamacpp:prompt_tokens_total"


def open_stream(server, body, path=CHAT):
    connection = server.connect()
    connection.request("POST", path, json.dumps({**body, "stream": True}))
    return connection, connection.getresponse()


def wait(server, condition, patience=120):
    """Waits for something that the server shows."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the server never gets there")
        time.sleep(0.001)


def cancelled(server, hang_up, is_gone):
    """Steps and milliseconds until the server shows that somebody is gone."""
    before = server.metrics()[STEPS]
    start = time.monotonic()
    hang_up()
    wait(server, is_gone)
    took = time.monotonic() - start
    return server.metrics()[STEPS] - before, took * 1e3


def spread(values):
    return f"p50 {percentile(values, 50):.1f} p95 {percentile(values, 95):.1f} max {max(values):.1f}"


def together(count, work):
    """Runs work(number) in as many threads, and waits for all. What one of them raises is raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def costs(server, streams, level):
    """Nanoseconds of the server's threads for so many streams of five answers each."""
    before = server.processor_time()

    def stream(number):
        connection = server.connect()
        for seed in range(5):
            body = chat(QUESTION, seed=5 * number + seed, stream=True, cache_prompt=False, diffusion={"drafts": level})
            connection.request("POST", CHAT, json.dumps(body))
            connection.getresponse().read()

    together(streams, stream)
    return [time - before.get(thread, 0) for thread, time in server.processor_time().items()]


def overhead(binary):
    """The engine's share of the server's processor time >= 0.95."""
    with Server(binary, "-np", "1", "-t", "1") as server:
        rounds = [costs(server, 1, "off") for _ in range(12)]
    # One thread computes.
    shares = [max(spent) / sum(spent) for spent in rounds]
    times = [sum(spent) for spent in rounds]
    print(f"overhead: the engine takes {statistics.median(shares):.3f} of the processor time, "
          f"{statistics.median(times) / 5e6:.1f} ms an answer")


def drafts(binary):
    """Drafts of tokens cost <= 5 % of the server's processor time, with one stream and with eight."""
    for slots, streams in [(1, 1), (4, 8)]:
        with Server(binary, "-np", str(slots), "-t", "1") as server:
            costs(server, streams, "tokens")
            pairs = [[sum(costs(server, streams, level)) for level in ("tokens", "off")] for _ in range(12)]
        ratios = [with_drafts / without for with_drafts, without in pairs]
        print(f"drafts of tokens, streams: {streams}: {statistics.median(ratios):.3f} times the processor time "
              f"({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)")


def cancel(binary):
    """504 times: a slot is free <= 2 steps + 50 ms after its client has hung up, denoising, prefilling or queued, and
    the answers to another client do not change."""
    rounds, clients = 21, 8
    with Server(binary, "-np", str(clients + 1), "-t", "1") as server:
        slots = lambda: json.loads(server.get("/slots"))
        limits = lambda: [slot["diffusion"] and slot["diffusion"]["max_steps"] for slot in slots()]
        waiting = lambda: server.metrics()["llamacpp:requests_deferred"]
        results, after = {"denoising": [], "prefilling": [], "queued": []}, []
        is_over, answers = threading.Event(), []

        def ask(connection, seed):
            status, answer = post(connection, CHAT, chat(QUESTION, seed=seed, id_slot=clients))
            assert status == 200, answer
            return answer["choices"][0]["message"]["content"], answer["diffusion"]["steps"]

        def witness():
            connection = server.connect()
            while not is_over.is_set():
                seed = len(answers) % len(alone)
                answers.append(ask(connection, seed) == alone[seed])

        def hang_up(state, connections, is_gone):
            """One client after the other, 0.1 to 2 s from now; is_gone(n) is asked about the nth of them."""
            start = time.monotonic()
            moments = sorted(random.uniform(0.1, 2) for _ in connections)
            for number, (connection, moment) in enumerate(zip(connections, moments)):
                time.sleep(max(0, start + moment - time.monotonic()))
                results[state].append(cancelled(server, connection.close, lambda: is_gone(number)))

        alone = [ask(server.connect(), seed) for seed in range(5)]
        beside = threading.Thread(target=witness)
        beside.start()
        for _ in range(rounds):
            running = [open_stream(server, endless(QUESTION, id_slot=slot))[0] for slot in range(clients)]
            wait(server, lambda: limits()[:clients] == [NEVER["max_steps"]] * clients)
            hang_up("denoising", running, lambda number: not slots()[number]["is_processing"])
            for _ in range(clients):
                # It is encoded at once: there is no time for a pause.
                reading = server.connect()
                reading.request("POST", CHAT, json.dumps(endless(LONG, cache_prompt=False, id_slot=0)))
                wait(server, lambda: slots()[0]["is_processing"])
                read = slots()[0]["n_prompt_tokens_processed"]
                is_gone = lambda: not slots()[0]["is_processing"]
                results["prefilling"].append(cancelled(server, reading.close, is_gone))
                after.append(slots()[0]["n_prompt_tokens_processed"] - read)
            # With all slots taken, the witness waits as well. The others who wait leave first.
            running = [open_stream(server, endless(QUESTION))[0] for _ in range(clients + 1)]
            wait(server, lambda: limits() == [NEVER["max_steps"]] * (clients + 1) and waiting() == 1)
            queued = [server.connect() for _ in range(clients)]
            for connection in queued:
                connection.request("POST", CHAT, json.dumps(endless(QUESTION)))
            wait(server, lambda: waiting() == clients + 1)
            hang_up("queued", queued, lambda number: waiting() == clients - number)
            for connection in running:
                connection.close()
            # The witness may have got the slot of another one, for one answer.
            wait(server, lambda: [slot["is_processing"] for slot in slots()] == [False] * clients + [True])
        is_over.set()
        beside.join()
    for name, pairs in results.items():
        steps, times = [steps for steps, _ in pairs], [ms for _, ms in pairs]
        print(f"cancel, {name}: steps {spread(steps)}; ms {spread(times)}; {len(pairs)} times")
    print(f"cancel, prefilling: tokens read afterwards {spread(after)}")
    print(f"cancel: {len(answers)} answers to another client, {answers.count(False)} of them not as alone")


def prefix(binary):
    """10 turns; the next prompt leaves out most of each answer, as thoughts: tokens read <= new tokens + one pass."""
    one_pass = 256
    with Server(binary, "-np", "2", "-t", "1") as server:
        connection, history, earlier = server.connect(), [], 0
        hits = asked = 0
        for turn in range(10):
            history.append(f"Count from {turn + 1} to {turn + 7}.")
            # An answer of many canvases, of which the history keeps a few words.
            body = chat(*history, seed=turn, max_tokens=480, diffusion={"max_steps": 1}, json_schema=LENGTHY)
            status, answer = post(connection, CHAT, body)
            assert status == 200, answer
            usage = answer["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            prompt = usage["prompt_tokens"]
            read, new = prompt - cached, prompt - earlier
            verdict = "" if read <= new + one_pass else " TOO MANY"
            print(f"prefix, turn {turn + 1}: prompt {prompt}, answer {usage['completion_tokens']}, new {new}, "
                  f"read {read}{verdict}")
            if turn:
                hits, asked = hits + cached, asked + earlier
            earlier = prompt
            history.append(f"I counted from {turn + 1} to {turn + 7} as you wished.")
        print(f"prefix: {hits} of {asked} old tokens found, {hits / asked:.3f}")


def intrusion(binary, model=None):
    """A long prompt joins four running answers: a step <= 2.2 times as long, no stall of more than 2 passes.
    With -m by a model whose context has 10,240 tokens."""
    ratios, stalls = [], []
    flags, prompt = ("-c", "10240"), LONG
    if model:
        flags, prompt = ("-m", model, "-c", "51200"), "A word. " * 1000
    with Server(binary, "-np", "5", "-t", "1", *flags) as server:
        body = {"prompt": QUESTION, "diffusion": {**NEVER, "drafts": "text", "min_interval_ms": 0}}
        arrivals, open_ = [], []

        def read(response, arrivals):
            # Until it is hung up.
            with contextlib.suppress(http.client.HTTPException, OSError):
                for event in events(response):
                    if event.get("diffusion", {}).get("event") == "draft":
                        arrivals.append(time.monotonic())

        for number in range(4):
            connection, response = open_stream(server, {**body, "seed": number}, "/completion")
            open_.append(connection)
            threading.Thread(target=read, args=(response, arrivals if number == 0 else [])).start()
        wait(server, lambda: len(arrivals) > 40)
        connection = server.connect()
        for _ in range(8):
            time.sleep(0.5)
            begin = time.monotonic()
            status, answer = post(connection, "/completion", {"prompt": prompt, "n_predict": 0, "cache_prompt": False})
            end = time.monotonic()
            assert status == 200, answer
            time.sleep(end - begin)
            between = lambda low, high: [
                b - a for a, b in zip(arrivals, arrivals[1:]) if low <= a and b <= high
            ]
            alone = between(begin - (end - begin), begin) + between(end, 2 * end - begin)
            beside = between(begin, end)
            if alone and beside:
                ratios.append(statistics.median(beside) / statistics.median(alone))
                stalls.append(max(beside) / statistics.median(beside))
        for connection in open_:
            connection.sock.shutdown(socket.SHUT_RDWR)
    print(f"intrusion: a step takes {statistics.median(ratios):.2f} times as long (median of {len(ratios)}, "
          f"{min(ratios):.2f} to {max(ratios):.2f}); the longest is {statistics.median(stalls):.2f} times the median")


def choices(binary):
    """n=4 reads the prompt once; >= 1.5 times as fast as four requests where the prompt dominates."""
    with Server(binary, "-np", "4", "-t", "1", "-c", "8192") as server:
        fields = {"cache_prompt": False, "max_tokens": 8, "diffusion": {"max_steps": 2}}
        ratios, reads = [], []
        for _ in range(5):
            before, start = server.metrics()[READ], time.monotonic()
            status, answer = post(server.connect(), CHAT, chat(LONG, n=4, **{**fields, "cache_prompt": True}))
            assert status == 200, answer
            at_once = time.monotonic() - start
            reads.append((server.metrics()[READ] - before) / answer["usage"]["prompt_tokens"])
            for slot in range(4):
                server.status("POST", f"/slots/{slot}?action=erase")
            start = time.monotonic()
            ask = lambda _: post(server.connect(), CHAT, chat(LONG, **fields))
            together(4, ask)
            ratios.append((time.monotonic() - start) / at_once)
            for slot in range(4):
                server.status("POST", f"/slots/{slot}?action=erase")
        print(f"n=4: {statistics.median(ratios):.2f} times as fast as four requests; "
              f"the prompt is read {max(reads):.2f} times")


def overload(binary):
    """10 times as many clients as places: all finish, as fast as beside as many clients as places, refusals are
    fast, memory does not grow."""
    with Server(binary, "-np", "2", "--queue", "2", "-t", "1") as server:
        post(server.connect(), CHAT, chat(QUESTION))
        times, done, refusals = [], [], []

        def client(number, requests=2):
            for _ in range(requests):
                while True:
                    start, connection = time.monotonic(), server.connect()
                    connection.request("POST", CHAT, json.dumps(chat(QUESTION, seed=number)))
                    response = connection.getresponse()
                    text = response.read()
                    connection.close()
                    if response.status == 200:
                        times.append((time.monotonic() - start) * 1e3)
                        done.append(json.loads(text)["choices"][0]["message"]["content"])
                        break
                    assert response.status == 503, text
                    refusals.append((time.monotonic() - start) * 1e3)
                    time.sleep(int(response.headers["Retry-After"]))

        together(4, lambda number: client(number, 20))
        alone, before = list(times), server.resources()
        for seen in (times, done, refusals):
            seen.clear()
        together(40, client)
        wait(server, lambda: server.busy() == 0)
        after = server.resources()
        print(f"overload: {len(done)} of 80 requests of 40 clients answered on 4 places, {len(refusals)} refusals in "
              f"p50 {percentile(refusals, 50):.1f} p95 {percentile(refusals, 95):.1f} ms, accepted ones "
              f"p50 {percentile(times, 50) / percentile(alone, 50):.2f} p95 "
              f"{percentile(times, 95) / percentile(alone, 95):.2f} times as long as beside 4 clients, "
              f"resident {before[0] >> 10} to {after[0] >> 10} KiB")


def fairness(binary):
    """One key floods, another asks one by one: the quiet one's p95 <= 2 times as without the flood."""
    with Server(binary, "-np", "1", "--api-key", "loud,quiet", "-t", "1") as server:
        key = lambda name: {"Authorization": f"Bearer {name}"}
        is_over = threading.Event()

        def flood():
            connection = server.connect()
            while not is_over.is_set():
                post(connection, CHAT, chat(QUESTION), key("loud"))

        def ask(count):
            connection, times = server.connect(), []
            for seed in range(count):
                start = time.monotonic()
                status, answer = post(connection, CHAT, chat(QUESTION, seed=seed), key("quiet"))
                assert status == 200, answer
                times.append(time.monotonic() - start)
            return percentile(times, 50), percentile(times, 95)

        ask(3)
        alone = ask(20)
        floods = [threading.Thread(target=flood) for _ in range(16)]
        for thread in floods:
            thread.start()
        time.sleep(1)
        beside = ask(20)
        is_over.set()
        for thread in floods:
            thread.join()
        ratios = [with_flood / without for with_flood, without in zip(beside, alone)]
        print(f"fairness: beside 16 streams of another key p50 {ratios[0]:.2f}, p95 {ratios[1]:.2f} times alone")


def connections(binary):
    """1,000 idle connections: <= 48 KiB each; an answer beside them; all descriptors come back."""
    with Server(binary, "-t", "1") as server:
        post(server.connect(), CHAT, chat(QUESTION))
        time.sleep(0.5)
        before, idle = server.resources(), []
        for _ in range(1000):
            connection = server.connect()
            connection.request("GET", "/health")
            connection.getresponse().read()
            idle.append(connection)
        during = server.resources()
        for connection in idle:
            connection.close()
        wait(server, lambda: server.resources()[1] <= before[1])
        after = server.resources()
        print(f"connections: 1,000 idle ones take {(during[0] - before[0]) / 1024 / 1000:.1f} KiB each; "
              f"descriptors {before[1]}, {during[1]}, {after[1]}")


def reader(binary):
    """A client that asks for drafts and never reads: resident <= 4 MiB more, the others go on."""
    with Server(binary, "-np", "2", "-t", "1") as server:
        post(server.connect(), CHAT, chat(QUESTION))
        before = server.resources()
        body = endless(QUESTION, stream=True)
        body["diffusion"].update(drafts="full", min_interval_ms=0)
        silent = server.connect()
        silent.request("POST", CHAT, json.dumps(body))
        done, end = 0, time.monotonic() + 15
        while time.monotonic() < end:
            status, _ = post(server.connect(), CHAT, chat(QUESTION, seed=done))
            assert status == 200
            done += 1
        during, metrics = server.resources(), server.metrics()
        silent.close()
        wait(server, lambda: server.busy() == 0)
        print(f"reader: {(during[0] - before[0]) / 2**20:.1f} MiB more beside a client that never reads, which took "
              f"{metrics['llama_diffusion_drafts_sent_total']:.0f} drafts and lost "
              f"{metrics['llama_diffusion_drafts_coalesced_total']:.0f}; {done} other answers meanwhile")


BARS = [overhead, drafts, cancel, prefix, intrusion, choices, overload, fairness, connections, reader]


def main():
    list_ = "\n".join(f"{bar.__name__:12} {bar.__doc__}" for bar in BARS)
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=list_, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server")
    parser.add_argument("bars", nargs="*", metavar="BAR")
    parser.add_argument("-m", dest="model")
    args = parser.parse_intermixed_args()
    names = args.bars or [bar.__name__ for bar in BARS]
    if unknown := set(names) - {bar.__name__ for bar in BARS}:
        parser.error(f"no such bar: {', '.join(sorted(unknown))}")
    for bar in BARS:
        if bar.__name__ in names:
            bar(args.server, args.model) if bar is intrusion else bar(args.server)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
