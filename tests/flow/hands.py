"""Routers and workers that are started one by one, with a cluster key.

    with Hands(binary, routers=2, decode=2) as hands:
        hands.doors[1].complete(...)          # a Server, as far as requests go
        hands.kill("decode-a")
"""
import os
import signal
import subprocess
import sys
import tempfile

from baton import SMALL, Process, Server, ctl, free_port

SIZE = ["--ctx", "512", "--kv-bytes", "8M"]


class Hands:
    def __init__(self, binary, routers=1, prefill=1, decode=1, options=("--step-delay", "20ms"),
                 router_options=("--silence", "10s"), options_of=None):
        """options: of every worker; options_of: {name: more options of that one}"""
        self.binary, self.options, self.router_options = binary, options, router_options
        self.options_of = options_of or {}
        self.doors = [Server(binary, SMALL) for _ in range(routers)]
        self.workers_at = [f"127.0.0.1:{free_port()}" for _ in range(routers)]
        self.workers = [f"prefill-{c}" for c in "abcd"[:prefill]] + \
                       [f"decode-{c}" for c in "abcd"[:decode]]
        self.processes = {}

    def __enter__(self):
        try:
            return self.begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.key = os.path.join(self.folder.name, "key")
        subprocess.run([self.binary, "key", "--out", self.key], check=True)
        for i in range(len(self.doors)):
            self.start_router(i)
        for name in self.workers:
            self.start_worker(name)
        for i in range(len(self.doors)):
            self.processes[f"router-{i}"].wait_for(r'event="ready"')
        return self

    def start(self, name, *words):
        if name in self.processes:
            self.processes[name].discard()
        self.processes[name] = Process(name, [self.binary, *words, "--cluster-key", self.key, SMALL])

    def start_router(self, number):
        self.start(f"router-{number}", "router", "--port", str(self.doors[number].port),
                   "--workers", self.workers_at[number], "--expect-workers",
                   str(len(self.workers)), *self.router_options)

    def start_worker(self, name):
        self.start(name, name.split("-")[0], "--name", name, "--router", ",".join(self.workers_at),
                   *SIZE, "--threads", "1", *self.options, *self.options_of.get(name, ()))

    def pid(self, name):
        return self.processes[name].pid

    def kill(self, name, number=signal.SIGKILL):
        os.kill(self.pid(name), number)
        if number == signal.SIGKILL:
            self.processes[name].process.wait()

    def ctl(self, *words, router=0, fails=False, key=True):
        return ctl(self.binary, self.workers_at[router], *words, fails=fails,
                   key=self.key if key is True else key)

    def status(self, router=0):
        """{name: worker}"""
        return {w["worker"]: w for w in self.ctl("status", router=router)["workers"]}

    def __exit__(self, kind, *_):
        wrong = []
        for name, process in list(self.processes.items())[::-1]:
            if kind is not None:
                sys.stderr.write(f"---- {name}\n{process.log()[-6000:]}\n")
                process.process.kill()
                process.process.wait()
            elif process.process.poll() is None:
                process.stop()
            if "Sanitizer" in process.log() or "Assertion" in process.log():
                wrong.append(process.log()[-8000:])
            process.discard()
        self.folder.cleanup()
        assert kind is not None or not wrong, wrong[0]
