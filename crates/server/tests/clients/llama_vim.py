"""The plugin llama.vim in Neovim, as the README configures it. SERVER_URL is a server with the demo model, LLAMA_VIM the
folder of the plugin."""

import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NVIM = Path(__file__).with_name("neovim") / "bin" / "nvim"
PLUGIN = Path(os.environ["LLAMA_VIM"]).absolute()
README = Path(__file__).parents[4] / "README.md"
ADDRESS = "http://127.0.0.1:8080"
LINES = ["def add(a, b):", "    return ", "", "print(add(1, 2))"]
SECONDS = 30

pytestmark = [
    pytest.mark.skipif(not NVIM.exists(), reason="Neovim cannot be had"),
    pytest.mark.skipif(not (PLUGIN / "autoload" / "llama.vim").exists(), reason="llama.vim cannot be had from GitHub"),
    pytest.mark.skipif(not shutil.which("curl"), reason="curl, which llama.vim needs, is not installed"),
]


class Recorder(BaseHTTPRequestHandler):
    """Passes requests on to the server, and keeps them with their answers."""

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        connection = http.client.HTTPConnection(os.environ["SERVER_URL"].removeprefix("http://"))
        connection.request("POST", self.path, asked, {"Content-Type": self.headers["Content-Type"]})
        response = connection.getresponse()
        self.send_response(response.status)
        self.end_headers()
        answer = b""
        while piece := response.read1():
            answer += piece
            self.wfile.write(piece)
        connection.close()
        self.server.exchanges.append((self.path, json.loads(asked), response.status, answer.decode()))

    def log_message(self, *_):
        pass


class Editor:
    def __init__(self, folder, url):
        config = re.search(r"```vim\n(.*?)```", README.read_text(), re.DOTALL)[1]
        assert ADDRESS in config
        start = f"set runtimepath^={PLUGIN} shortmess+=F\n" + config.replace(ADDRESS, url)
        (folder / "init.vim").write_text(start)
        (folder / "add.py").write_text("\n".join(LINES) + "\n")
        self.folder = folder
        command = [NVIM, "--clean", "-n", "-u", "init.vim", "--headless", "--listen", "./socket", "add.py"]
        environment = {**os.environ, "XDG_STATE_HOME": str(folder)}
        quiet = {stream: subprocess.DEVNULL for stream in ["stdin", "stdout", "stderr"]}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, **quiet)

    def remote(self, *arguments):
        command = [NVIM, "--server", "./socket", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True, timeout=SECONDS)
        return done.stdout

    def type(self, keys):
        self.remote("--remote-send", keys)

    def value(self, expression):
        return json.loads(self.remote("--remote-expr", f"json_encode({expression})"))

    def lines(self):
        return self.value("getline(1, '$')")

    def virtual(self, namespace, highlight):
        """The virtual text that has the highlight, line by line."""
        space = f"nvim_create_namespace('{namespace}')"
        marks = self.value(f"nvim_buf_get_extmarks(0, {space}, 0, -1, {{'details': v:true}})")
        details = sorted((mark[3] for mark in marks), key=lambda it: "virt_lines" in it)
        lines = [line for it in details for line in [it.get("virt_text", []), *it.get("virt_lines", [])]]
        return [text for line in lines for text, name in line if name == highlight]


def until(condition, what):
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {SECONDS} seconds: {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def recorder():
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.exchanges = []
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def editor(recorder, tmp_path):
    editor = Editor(tmp_path, f"http://127.0.0.1:{recorder.server_port}")
    try:
        until((tmp_path / "socket").exists, "Neovim listens")
        until(lambda: editor.value("v:vim_did_enter"), "Neovim has started")
        yield editor
    finally:
        editor.process.kill()
        editor.process.wait()


def test_a_suggestion_is_shown_and_accepted(editor, recorder):
    until(lambda: recorder.exchanges, "a warm-up with the text of the file")
    path, asked, status, answer = recorder.exchanges.pop()
    assert (path, status, answer) == ("/infill", 200, "{}")
    assert asked["n_predict"] == 0 and asked["input_extra"][0]["text"] == "\n".join(LINES) + "\n"

    editor.type("2GA")
    shown = until(lambda: editor.virtual("vt_fim", "llama_hl_fim_hint"), "a suggestion")
    path, asked, status, answer = recorder.exchanges[0]
    assert (path, status) == ("/infill", 200)
    texts = [asked[name] for name in ["input_prefix", "prompt", "input_suffix"]]
    assert texts == [LINES[0] + "\n", LINES[1], "\n" + "\n".join(LINES[2:]) + "\n"]
    content = json.loads(answer)["content"]
    assert shown == content.rstrip("\n").split("\n")

    editor.type("<Tab>")
    accepted = [LINES[0], LINES[1] + shown[0], *shown[1:], *LINES[2:]]
    until(lambda: editor.lines() == accepted, f"the buffer is {accepted}")
    assert editor.value("execute('messages')") == ""


def test_an_instruction_changes_lines(editor, recorder):
    def chats():
        exchanges = [it[1:] for it in recorder.exchanges if it[0] == "/v1/chat/completions"]
        return {asked["stream"]: (status, answer) for asked, status, answer in exchanges}

    editor.type("ggVj\\lliAdd a comment.<CR>")
    ready = until(lambda: editor.virtual("vt_inst", "llama_hl_inst_virt_ready"), "an edit")
    until(lambda: len(chats()) == 2, "answers to a warm-up and to the instruction")
    assert [chats()[stream][0] for stream in [False, True]] == [200, 200]
    chunks = map(json.loads, re.findall("data: ({.*)", chats()[True][1]))
    edit = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).rstrip("\n").split("\n")
    assert ready[1:-1] == edit

    editor.type("<Tab>")
    until(lambda: editor.lines() == edit + LINES[2:], f"the lines are {edit}")
    assert editor.value("execute('messages')") == ""
