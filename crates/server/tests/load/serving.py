"""A server process, its resources, and requests to it. Only Python's standard library."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from urllib.parse import urlsplit


class Server:
    """A server on the demo model, or on the one that the flags name. It ends with the `with` block."""

    def __init__(self, binary, *flags):
        command = [binary, "--host", "127.0.0.1", "--port", "0", "--metrics", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"listening on (http://\S+)", line):
                self.address = urlsplit(found[1]).netloc
                break
        else:
            raise SystemExit(f"the server ended: {''.join(self.said)}")
        # Nobody waits for the rest, but it must not fill the pipe.
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()
        while self.status("GET", "/health") != 200:
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def connect(self, timeout=600):
        return http.client.HTTPConnection(self.address, timeout=timeout)

    def status(self, method, path):
        connection = self.connect()
        connection.request(method, path)
        status = connection.getresponse().status
        connection.close()
        return status

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def busy(self):
        """Slots in use."""
        return sum(slot["is_processing"] for slot in json.loads(self.get("/slots")))

    def metrics(self):
        """The values of /metrics by name and labels."""
        lines = (line for line in self.get("/metrics").splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def resources(self):
        """Resident bytes, open descriptors and threads."""
        root = f"/proc/{self.process.pid}"
        with open(f"{root}/status") as file:
            resident = int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) * 1024
        return resident, len(os.listdir(f"{root}/fd")), len(os.listdir(f"{root}/task"))

    def processor_time(self):
        """Nanoseconds of each thread, by its number."""
        root, times = f"/proc/{self.process.pid}/task", {}
        for thread in os.listdir(root):
            # It may end meanwhile.
            with contextlib.suppress(OSError), open(f"{root}/{thread}/schedstat") as file:
                times[thread] = int(file.read().split()[0])
        return times


def post(connection, path, body, headers=None):
    """The status and the JSON of an answer."""
    connection.request("POST", path, json.dumps(body), headers or {})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def events(response):
    """The events of a stream, as they come."""
    for line in response:
        if line.startswith(b"data: ") and line != b"data: [DONE]\n":
            yield json.loads(line[6:])


# What no answer ends with before its client hangs up.
NEVER = {"confidence_threshold": 0, "max_steps": 100_000}


def chat(*messages, **fields):
    """The body of a chat: the user's turn first."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    return {"messages": turns, **fields}


def endless(*messages, **fields):
    """A chat whose answer lasts until its client hangs up."""
    return chat(*messages, diffusion=dict(NEVER), **fields)


def percentile(values, percent):
    """The value that `percent` percent do not exceed."""
    values = sorted(values)
    return values[max(0, -(-len(values) * percent // 100) - 1)]
