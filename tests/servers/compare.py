"""Runs real MCP servers directly over stdio and through Outlast, and compares what they list and answer.

    compare.py LIST OUTLAST CACHE TABLE [NAME...]

LIST: the servers, one JSON object each: `name`, `from` ("npm" or "pypi"), `package`, `version`, `bin` (its program), and
where they are needed `args`, `env`, `with` (further packages), `call` ({"tool", "arguments"}; else the first tool that
takes no arguments). In `args`, `env` and `call`, {place} is the directory in which the server runs. OUTLAST: the program. CACHE:
where servers are installed. TABLE: what is written. Exit code 0 when every server that starts by itself lists and answers
the same through Outlast.
"""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

REVISION = "2025-11-25"
# What Outlast declares to a server when it lists its tools for everybody.
CAPABILITIES = {"roots": {}, "sampling": {}, "elicitation": {"form": {}, "url": {}}}
START = 120
CALL = 90
INSTALL = 900
AT_ONCE = int(os.environ.get("OUTLAST_SERVERS_AT_ONCE", "2"))
# Kept of the environment, as Outlast does.
KEPT = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TERM", "SHELL")


class Broken(Exception):
    """What a server did that is no answer."""


def environment(more):
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(("LC_", "XDG_"))}
    return {**kept, **more}


def make_place(path):
    """A directory with something to read: files, a table, a repository of git."""
    os.makedirs(path)
    with open(os.path.join(path, "hello.txt"), "w") as file:
        file.write("hello\nworld\n")
    with open(os.path.join(path, "table.csv"), "w") as file:
        file.write("a,b\n1,2\n")
    with open(os.path.join(path, "main.py"), "w") as file:
        file.write("def main():\n    return 1\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", path]
    when = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    for args in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(git + args, check=True, env={**os.environ, **when})


def installed(server, cache):
    """The directory of a server in the cache, installed on first use."""
    version = server.get("version") or "latest"
    home = os.path.join(cache, re.sub(r"[^A-Za-z0-9.-]+", "_", f"{server['package']}@{version}").strip("_"))
    done = os.path.join(home, ".installed")
    if os.path.exists(done):
        return home
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home)
    if server["from"] == "npm":
        wanted = server["package"] + (f"@{server['version']}" if server.get("version") else "")
        # Without scripts: what they fetch beyond the registry is not needed to list tools.
        steps = [["npm", "install", "--prefix", home, "--ignore-scripts", "--no-audit", "--no-fund", wanted, *server.get("with", [])]]
    else:
        wanted = server["package"] + (f"=={server['version']}" if server.get("version") else "")
        uv = shutil.which("uv", path=os.pathsep.join([os.path.join(cache, "uv", "bin"), os.environ.get("PATH", "")]))
        venv = os.path.join(home, "venv")
        if uv:
            steps = [[uv, "venv", "-q", venv], [uv, "pip", "install", "-q", "--python", venv, wanted, *server.get("with", [])]]
        else:
            steps = [[sys.executable, "-m", "venv", venv], [os.path.join(venv, "bin", "pip"), "install", "-q", wanted, *server.get("with", [])]]
    for step in steps:
        ran = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALL)
        if ran.returncode != 0:
            raise Broken("not installed: " + ran.stdout.decode(errors="replace").strip()[-200:])
    open(done, "w").close()
    return home


def launch_of(server, home, place):
    """Command, arguments and environment of a server."""
    below = ("node_modules", ".bin") if server["from"] == "npm" else ("venv", "bin")
    fill = lambda text: text.replace("{place}", place)
    command = os.path.join(home, *below, server["bin"])
    if not os.path.exists(command):
        raise Broken(f"it has no program {server['bin']}")
    env = {name: fill(value) for name, value in server.get("env", {}).items()}
    return command, [fill(arg) for arg in server.get("args", [])], env


class Direct:
    """A server on its own stdin and stdout."""

    def __init__(self, command, args, env, place):
        self.process = subprocess.Popen(
            [command, *args], cwd=place, env=environment(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )
        self.lines, self.errors, self.next = queue.Queue(), [], 0
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def send(self, message):
        try:
            self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Broken(self.last_words()) from error

    def last_words(self):
        time.sleep(0.2)
        said = b"".join(self.errors[-4:]).decode(errors="replace").strip()
        return "it ended: " + (said[-200:] or "without a word")

    def ask(self, method, params, within):
        self.next += 1
        self.send({"id": self.next, "method": method, "params": params})
        end = time.monotonic() + within
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise Broken(f"no answer to {method} in {within} s") from None
            if line is None:
                raise Broken(self.last_words())
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if not isinstance(message, dict):
                continue
            if "method" in message and "id" in message:
                answer_question(self.send, message)
            elif message.get("id") == self.next:
                return message

    def open(self):
        said = self.ask("initialize", hello(), START)
        if "result" not in said:
            raise Broken(f"initialize: {said.get('error')}")
        self.send({"method": "notifications/initialized"})

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(3)
        except (OSError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass
        self.process.wait()


def hello():
    return {"protocolVersion": REVISION, "capabilities": CAPABILITIES, "clientInfo": {"name": "compare", "version": "1"}}


def answer_question(send, message):
    """Roots there are none, and nobody is there to answer anything else."""
    if message["method"] == "ping":
        send({"id": message["id"], "result": {}})
    elif message["method"] == "roots/list":
        send({"id": message["id"], "result": {"roots": []}})
    else:
        send({"id": message["id"], "error": {"code": -32601, "message": "nobody can be asked"}})


class Through:
    """The same server behind Outlast, over HTTP."""

    def __init__(self, outlast, command, args, env, place, home):
        quote = json.dumps
        table = ", ".join(f"{name} = {quote(value)}" for name, value in env.items())
        self.home = home
        config = os.path.join(home, "config.toml")
        with open(config, "w") as file:
            file.write(
                "[tools]\ncode = false\n[servers.s]\n"
                f"command = {quote(command)}\nargs = {quote(args)}\ncwd = {quote(place)}\nenv = {{ {table} }}\n"
                f"start_timeout_seconds = {START}\n"
            )
        self.process = subprocess.Popen(
            [outlast, "serve", "--config", config, "--ephemeral", "--listen", "127.0.0.1:0", "--admin-listen", "",
             "--data-dir", os.path.join(home, "data")],
            env=environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        self.errors, self.session, self.next = [], None, 0
        found = queue.Queue()
        threading.Thread(target=self.follow, args=(found,), daemon=True).start()
        try:
            self.url = found.get(timeout=60)
        except queue.Empty:
            raise Broken("Outlast did not start") from None

    def follow(self, found):
        for line in self.process.stderr:
            self.errors.append(line)
            where = re.search(rb"serves MCP at (http://[^\s\"]+)", line)
            if where:
                found.put(where.group(1).decode())

    def post(self, message, within):
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self.session:
            headers["Mcp-Session-Id"] = self.session
            headers["MCP-Protocol-Version"] = REVISION
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        request = urllib.request.Request(self.url, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=within) as answer:
            self.session = answer.headers.get("Mcp-Session-Id") or self.session
            if "event-stream" not in (answer.headers.get("Content-Type") or ""):
                text = answer.read()
                return json.loads(text) if text else None
            for line in answer:
                if line.startswith(b"data:") and line[5:].strip():
                    said = json.loads(line[5:])
                    if "method" in said and "id" in said:
                        answer_question(lambda message: self.post(message, within), said)
                    elif said.get("id") == message.get("id"):
                        return said
        raise Broken("the stream ended without an answer")

    def ask(self, method, params, within):
        self.next += 1
        try:
            return self.post({"id": self.next, "method": method, "params": params}, within)
        except OSError as error:
            detail = error.read().decode(errors="replace")[:200] if hasattr(error, "read") else ""
            raise Broken(f"{method}: {error} {detail}") from error

    def open(self):
        said = self.ask("initialize", hello(), START)
        if "result" not in said:
            raise Broken(f"initialize: {said.get('error')}")
        self.post({"method": "notifications/initialized"}, 30)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def list_tools(peer):
    tools, cursor = [], None
    while True:
        said = peer.ask("tools/list", {"cursor": cursor} if cursor else {}, START)
        if "result" not in said:
            raise Broken(f"tools/list: {said.get('error')}")
        tools += said["result"]["tools"]
        cursor = said["result"].get("nextCursor")
        if not cursor:
            return tools


def call_of(server, tools):
    if "call" in server:
        return server["call"]
    bare = [tool for tool in tools if not tool.get("inputSchema", {}).get("required")]
    return {"tool": (bare or tools)[0]["name"], "arguments": {}}


def answer_of(said):
    """What of an answer counts: without its id, and without what Outlast adds to it."""
    answer = said.get("result", {"error": said.get("error")})
    if isinstance(answer, dict) and isinstance(answer.get("_meta"), dict):
        answer["_meta"] = {key: value for key, value in answer["_meta"].items() if not key.startswith("outlast/")}
        if not answer["_meta"]:
            del answer["_meta"]
    return answer


def masked(value):
    """Times, ids and addresses differ between two runs of any server."""
    text = json.dumps(value, sort_keys=True)
    text = re.sub(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}", "#", text)
    text = re.sub(r"(?i)\b(mon|tues?|wed(nes)?|thu(rs)?|fri|sat(ur)?|sun)(day)?\b", "#", text)
    return re.sub(r"[0-9a-f]*[0-9][0-9a-f.:]*", "#", text)


def shape(value):
    """The kinds of an answer's parts."""
    if not isinstance(value, dict):
        return type(value).__name__
    content = value.get("content")
    kinds = [block.get("type") for block in content if isinstance(block, dict)] if isinstance(content, list) else None
    return (value.get("isError") is True, "error" in value and "content" not in value, kinds)


def compare(server, outlast, cache):
    """One row of the table."""
    row = {"server": server["name"], "package": f"{server['package']} {server.get('version', '')}", "tools": "", "list": "", "call": "", "answer": "", "note": ""}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="outlast-servers-") as scratch:
        try:
            home = installed(server, cache)
            answers = []
            for way in ("direct", "through"):
                # Each in the same directory, made anew: paths are in answers.
                place = os.path.join(scratch, "place")
                shutil.rmtree(place, ignore_errors=True)
                make_place(place)
                command, args, env = launch_of(server, home, place)
                if way == "direct":
                    peer = Direct(command, args, env, place)
                else:
                    peer = Through(outlast, command, args, env, place, scratch)
                try:
                    peer.open()
                    tools = list_tools(peer)
                    call = json.loads(json.dumps(call_of(server, tools)).replace("{place}", place))
                    said = peer.ask("tools/call", {"name": call["tool"], "arguments": call.get("arguments", {})}, CALL)
                    answers.append((tools, answer_of(said)))
                except Broken as broken:
                    if way == "through":
                        row["note"] = f"through Outlast: {broken}"
                        row["list"] = row["answer"] = "NO"
                        return row
                    raise
                finally:
                    peer.close()
            (direct_tools, direct), (through_tools, through) = answers
            row["tools"] = str(len(direct_tools))
            row["call"] = call["tool"]
            row["list"] = "same" if direct_tools == through_tools else "NO"
            if row["list"] == "NO":
                sort = lambda tools: sorted(json.dumps(tool, sort_keys=True) for tool in tools)
                if sort(direct_tools) == sort(through_tools):
                    row["list"] = "same, in another order"
            if direct == through:
                row["answer"] = "same"
            elif masked(direct) == masked(through):
                row["answer"] = "same but for times and ids"
            elif shape(direct) == shape(through):
                row["answer"] = "same form"
                row["note"] = f"{json.dumps(direct)[:60]} / {json.dumps(through)[:60]}"
            else:
                row["answer"] = "NO"
                row["note"] = f"{json.dumps(direct)[:90]} / {json.dumps(through)[:90]}"
            failed = direct.get("isError") or ("error" in direct and "content" not in direct)
            row["call"] += " (an error)" if failed else ""
        except (Broken, subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            row["note"] = f"does not run by itself: {error}"
        finally:
            row["seconds"] = round(time.monotonic() - began)
    return row


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")[:220]


def main():
    names, outlast, cache, table = sys.argv[1:5]
    with open(names) as file:
        servers = json.load(file)
    if sys.argv[5:]:
        servers = [server for server in servers if server["name"] in sys.argv[5:]]
    os.makedirs(cache, exist_ok=True)

    def one(server):
        row = compare(server, outlast, cache)
        print("{server:28} {tools:>4} list: {list:8} answer: {answer:28} {seconds:4} s  {note}".format(**{k: cell(v)[:90] for k, v in row.items()}), flush=True)
        return row

    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(one, servers))
    ran = [row for row in rows if not row["note"].startswith("does not run")]
    well = [row for row in ran if row["list"].startswith("same") and row["answer"].startswith("same")]
    total = f"{len(well)} of the {len(ran)} servers that run by themselves list the same tools and answer the same through Outlast; {len(rows)} were tried."
    print(total)
    lines = [
        "# Real servers behind Outlast",
        "",
        "What `scripts/servers.sh` printed the last time: each server is run directly over stdio and through Outlast, and",
        "what it lists and answers is compared. \"(an error)\": the call has an error for an answer both times, because the",
        "service behind the server cannot be reached without a network or an account.",
        "",
        f"**{total}**",
        "",
        "| server | package | tools | list | call | answer | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append("| " + " | ".join(cell(row[key]) for key in ("server", "package", "tools", "list", "call", "answer", "note")) + " |")
    with open(table, "w") as file:
        file.write("\n".join(lines) + "\n")
    return 0 if len(well) == len(ran) and ran else 1


if __name__ == "__main__":
    sys.exit(main())
