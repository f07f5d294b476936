"""A `baton serve` for a measurement, and what its clients see. Used by the other scripts here."""
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..")
BATON = os.path.join(ROOT, "build/release/baton")
MODEL = os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Served:
    """with Served(["--prefill-workers", "2"]) as server: ..."""

    def __init__(self, options, baton=BATON, model=MODEL):
        self.port = free_port()
        # Nobody is to be taken for dead because others use the cores.
        self.command = [baton, "serve", "--port", str(self.port), "--silence", "20s", *options, model]

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.url("/health"), timeout=1) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        self.log.seek(0)
        raise SystemExit(f"not ready: {' '.join(self.command)}\n{self.log.read().decode()[-4000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def metrics(self):
        """{series without labels: sum over all of its labels}"""
        sums = {}
        with urllib.request.urlopen(self.url("/metrics"), timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                found = re.match(r"([a-z_]+)(?:\{([^}]*)\})? ([0-9.eE+-]+)$", line)
                if found:
                    name, labels, value = found.groups()
                    sums[name] = sums.get(name, 0) + float(value)
                    if labels:
                        sums[f"{name}{{{labels}}}"] = float(value)
        return sums

    def child(self, name):
        """Process id of a child, by its subcommand."""
        for line in subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
                                   capture_output=True, text=True, check=True).stdout.splitlines():
            pid, args = line.strip().split(None, 1)
            if args.split()[1] == name:
                return int(pid)
        raise LookupError(name)

    def ask(self, tokens, max_tokens, heard=None, **more):
        """One stream: (seconds to the first token, times of all chunks with text, cached tokens).
        heard(chunks so far) is called with each of them."""
        body = dict({"prompt": tokens, "max_tokens": max_tokens, "temperature": 0,
                     "ignore_eos": True, "stream": True,
                     "stream_options": {"include_usage": True}}, **more)
        request = urllib.request.Request(self.url("/v1/completions"), json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        begun, times, usage = time.monotonic(), [], None
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                if chunk["choices"] and not chunk["choices"][0].get("finish_reason"):
                    times.append(time.monotonic())
                    if heard:
                        heard(len(times))
                usage = chunk.get("usage") or usage
        if not times:
            times = [time.monotonic()]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return times[0] - begun, times, cached


def cpu_seconds(pid):
    """Time on a core of all threads of a process, as the scheduler counts it (ns)."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total / 1e9


def together(calls):
    """Run all at once; their results in order."""
    results = [None] * len(calls)

    def run(i):
        try:
            results[i] = calls[i]()
        except Exception as problem:  # noqa: BLE001 - said below, when all have ended
            failures.append(f"request {i}: {problem}")
    failures = []
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"{len(failures)} of {len(calls)} failed; " + "; ".join(failures[:3]))
    return results


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]
