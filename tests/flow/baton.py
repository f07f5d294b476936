"""Starts real baton processes for the flow tests, and talks to them.

    with Server(binary, model, "--prefill-workers", "2") as server:
        text = server.complete(prompt=[1, 2, 3], max_tokens=8)["choices"][0]["text"]
"""
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL_MODELS = os.path.join(HERE, "..", "vectors", "models")
SMALL = os.path.join(SMALL_MODELS, "llama-q4_1-tied.gguf")
MODEL = os.path.join(os.environ.get("BATON_MODELS", os.path.join(HERE, "..", "..", "models")),
                     "SmolLM2-135M-Instruct.Q4_1.gguf")
# Sanitizers make everything slower; bounds that are the product's promises are not scaled.
SLOW = 10 if os.environ.get("BATON_SANITIZE") else 1
# Where nobody dies: on a busy machine the living may be silent for a second.
PATIENT = ["--silence", "10s"]


PORTS_GIVEN = set()


def free_port():
    """One that nobody listens on, and that was not given before: whoever got that may not listen yet."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in PORTS_GIVEN:
            PORTS_GIVEN.add(port)
            return port


def over_rdma(binary):
    """The options of carrier rdma without an RDMA device; None, and why is said: no UCX here."""
    with open(binary, "rb") as file:
        built = b"libucp.so.0" in file.read()
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, check=True).stdout
    if built and b"libucp.so.0" in known:
        return ["--carrier", "rdma", "--test-rdma-transports", "tcp"]
    print(f"      no carrier rdma: {'libucx0 is not installed' if built else 'built without UCX'}")
    return None


class Failed(Exception):
    """An HTTP answer that is not 200: .code, .body (parsed), .headers."""

    def __init__(self, code, body, headers):
        super().__init__(f"HTTP {code}: {body}")
        self.code, self.body, self.headers = code, body, headers


class Process:
    """One child whose output is kept in .log (a file name)."""

    def __init__(self, name, args):
        self.name = name
        self.file = tempfile.NamedTemporaryFile(prefix=f"baton-test-{name}-", suffix=".log",
                                                delete=False)
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.file,
                                        stderr=subprocess.STDOUT)

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        with open(self.file.name, errors="replace") as f:
            return f.read()

    def wait_for(self, pattern, timeout_s=60):
        end = time.monotonic() + timeout_s * SLOW
        while time.monotonic() < end:
            found = re.search(pattern, self.log())
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{self.name}: no {pattern!r} in its output:\n{self.log()[-4000:]}")

    def stop(self, timeout_s=20):
        """SIGTERM, then an exit within the time; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end:\n{self.log()[-4000:]}")
        finally:
            self.file.close()

    def discard(self):
        os.unlink(self.file.name)


class Redis:
    """A real redis-server that keeps nothing, until the with block ends."""

    def __init__(self, *options):
        self.port = free_port()
        self.address = f"redis://127.0.0.1:{self.port}"
        self.options = options

    def __enter__(self):
        self.process = Process("redis", ["redis-server", "--port", str(self.port), "--save", "",
                                         "--appendonly", "no", *self.options])
        self.process.wait_for("Ready to accept connections")
        return self

    def kill(self):
        self.process.process.kill()
        self.process.stop()

    def start_again(self):
        self.process.discard()
        self.__enter__()

    def __exit__(self, *_):
        self.process.stop()
        self.process.discard()


class RedisCluster:
    """Six real redis-servers that keep nothing, three masters and a replica of each, until the with block
    ends. .address names two of them."""

    def __init__(self):
        self.nodes = {}

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="baton-test-")
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        for port in [self.port() for _ in range(6)]:
            # The first one that a replica asks would else wait 5 s for others to ask.
            self.nodes[port] = Process(f"redis-{port}", [
                "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", self.folder.name, "--save", "",
                "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-config-file", f"{port}.conf",
                "--cluster-node-timeout", "1500", "--repl-diskless-sync-delay", "0"])
        self.address = "redis://" + ",".join(f"127.0.0.1:{port}" for port in list(self.nodes)[::5])
        for node in self.nodes.values():
            node.wait_for("Ready to accept connections")
        some = next(iter(self.nodes))
        self.cli(some, "--cluster", "create", *(f"127.0.0.1:{port}" for port in self.nodes), "--cluster-replicas",
                 "1", "--cluster-yes")
        self.wait_until(lambda: all("cluster_state:ok" in self.cli(port, "cluster", "info") for port in self.nodes),
                        "a cluster that serves")
        self.wait_until(self.is_replicated, "replicas")

    @staticmethod
    def port():
        """One that is free, and so is that of its bus; both below those of outgoing connections."""
        while True:
            port = random.randrange(12000, 22000)
            try:
                with socket.socket() as own, socket.socket() as bus:
                    own.bind(("127.0.0.1", port))
                    bus.bind(("127.0.0.1", port + 10000))
                return port
            except OSError:
                continue

    @staticmethod
    def cli(port, *words):
        return subprocess.run(["redis-cli", "-p", str(port), *words], check=True, capture_output=True, text=True,
                              timeout=60).stdout

    @staticmethod
    def wait_until(condition, what):
        end = time.monotonic() + 30 * SLOW
        while not condition():
            assert time.monotonic() < end, f"redis: no {what}"
            time.sleep(0.05)

    def replication(self, port):
        """{field: value} of INFO replication"""
        return dict(line.split(":", 1) for line in self.cli(port, "info", "replication").splitlines() if ":" in line)

    def masters(self):
        """{port: port of its replica, or None}"""
        told = {port: self.replication(port) for port, node in self.nodes.items() if node.process.poll() is None}
        return {port: next((other for other, r in told.items() if r["role"] == "slave" and
                            r["master_port"] == str(port)), None)
                for port, t in told.items() if t["role"] == "master"}

    def is_replicated(self):
        """Each of three masters has a replica, which has all that was written to it."""
        pairs = self.masters()
        return len(pairs) == 3 and all(
            replica is not None and self.replication(replica)["master_link_status"] == "up" and
            self.replication(replica)["slave_repl_offset"] == self.replication(port)["master_repl_offset"]
            for port, replica in pairs.items())

    def blocks(self, port):
        return self.cli(port, "keys", "baton:b:*").count("baton:b:")

    def gets(self, port):
        """How often it was asked for a block."""
        found = re.search(r"cmdstat_get:calls=(\d+)", self.cli(port, "info", "commandstats"))
        return int(found[1]) if found else 0

    def kill(self, port):
        self.nodes[port].process.kill()
        self.nodes[port].process.wait()

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.process.kill()
            node.stop()
            node.discard()
        self.folder.cleanup()


class Server:
    """baton serve with all its workers, until the with block ends."""

    def __init__(self, binary, model, *options, key=None):
        self.binary, self.model, self.options, self.key = binary, model, options, key
        self.port = free_port()

    def __enter__(self):
        # A live worker under a sanitizer, on a busy machine, has been silent for a second.
        patience = ["--silence", f"{SLOW}s"] if SLOW > 1 else []
        model = [] if self.model is None else [self.model]  # --dummy-weights needs none
        self.process = Process("serve", [self.binary, "serve", "--port", str(self.port),
                                         *patience, *self.options, *model])
        try:
            self.process.wait_for(r"ready: http://")
        except BaseException:
            self.process.process.kill()  # its children end with it
            raise
        return self

    def __exit__(self, kind, *_):
        code = self.process.stop()
        log = self.process.log()
        if kind is not None:
            sys.stderr.write(log[-20000:])
        self.process.discard()
        if kind is None:
            assert code == 0, f"serve ended with {code}:\n{log[-4000:]}"
            assert "Sanitizer" not in log, log[-8000:]

    def pid_of(self, name):
        """The process of a child such as decode-0, as the supervisor last started it."""
        found = re.findall(rf'event="started" child={name} pid=(\d+)', self.process.log())
        return int(found[-1])

    def ctl(self, *words, fails=False):
        """baton ctl; what it printed, of `status` as values."""
        return ctl(self.binary, self.router_address(), *words, fails=fails)

    def router_address(self):
        """Where its workers, and operators, connect."""
        return re.findall(r"workers=((?:unix:|127)\S+)", self.process.log())[-1].strip('"')

    # -- requests

    def request(self, method, path, body=None, headers=None, timeout_s=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s * SLOW)
        headers = dict(headers or {})
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        return connection, connection.getresponse()

    def call(self, method, path, body=None, **more):
        connection, answer = self.request(method, path, body, **more)
        data = answer.read()
        connection.close()
        if answer.getheader("Content-Type", "").startswith("application/json"):
            data = json.loads(data)
        if answer.status != 200:
            raise Failed(answer.status, data, dict(answer.getheaders()))
        return data

    def complete(self, **parameters):
        return self.call("POST", "/v1/completions", parameters)

    def chat(self, **parameters):
        return self.call("POST", "/v1/chat/completions", parameters)

    def stream(self, path="/v1/completions", **parameters):
        """Yields (seconds since the request, event) for each event, [DONE] as None."""
        start = time.monotonic()
        connection, answer = self.request("POST", path, dict(parameters, stream=True))
        if answer.status != 200:
            raise Failed(answer.status, json.loads(answer.read()), dict(answer.getheaders()))
        try:
            for line in answer:
                if line.startswith(b"data: "):
                    data = line[6:].strip()
                    now = time.monotonic() - start
                    yield now, None if data == b"[DONE]" else json.loads(data)
        finally:
            connection.close()

    def metrics(self):
        """{(name, (label, value), ...): number}"""
        _, answer = connection_answer = self.request("GET", "/metrics")
        text = answer.read().decode()
        connection_answer[0].close()
        values = {}
        for line in text.splitlines():
            found = re.match(r'^([a-z_0-9]+)(?:\{(.*)\})? (\S+)$', line)
            if found:
                labels = re.findall(r'(\w+)="([^"]*)"', found.group(2) or "")
                values[(found.group(1), *sorted(labels))] = float(found.group(3))
        return values

    def sum(self, name, **labels):
        """Sum of a metric's series that have these labels."""
        return sum(value for key, value in self.metrics().items()
                   if key[0] == name and set(labels.items()) <= set(key[1:]))

    def wait_until(self, condition, timeout_s=10, what="condition", looks=1):
        """looks: at least so many, where a short time may pass while this process is kept from looking."""
        end = time.monotonic() + timeout_s * SLOW
        while time.monotonic() < end or looks > 0:
            looks -= 1
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come true within {timeout_s} s")

    def kv_stat(self):
        """What `baton kv stat` says of the server's own store."""
        address = f"{os.path.dirname(self.router_address())}/store.sock"
        return subprocess.run([self.binary, "kv", "stat", "--store", address], check=True, capture_output=True,
                              text=True, timeout=30).stdout

    def assert_all_free(self, timeout_s=5, looks=1):
        """Every block of every worker is free or cached, and no handoff is open."""
        def free():
            values = self.metrics()
            return all(v == 0 for k, v in values.items()
                       if (k[0] == "baton_worker_blocks" and
                           not {("state", "referenced"), ("state", "reserved"),
                                ("state", "swapped")}.isdisjoint(k))
                       or k[0] in ("baton_worker_sequences", "baton_worker_leases",
                                   "baton_worker_lendings"))
        self.wait_until(free, timeout_s, "all blocks free", looks)


def ctl(binary, router, *words, fails=False, key=None):
    """baton ctl; what it printed, of `status` as values."""
    args = [binary, "ctl", words[0], "--router", router, *words[1:]]
    args += ["--json"] if words[0] == "status" else []
    args += ["--cluster-key", key] if key else []
    done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30 * SLOW, check=False)
    if fails:
        assert done.returncode != 0, done.stdout
        return done.stderr
    assert done.returncode == 0, (args, done.stderr)
    return json.loads(done.stdout) if words[0] == "status" else done.stdout


def together(functions):
    """Run all at once, each in a thread; their results in order, or the first exception."""
    results = [None] * len(functions)

    def run(i):
        try:
            results[i] = (True, functions[i]())
        except BaseException as problem:  # noqa: BLE001 - handed to the caller
            results[i] = (False, problem)
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for good, value in results:
        if not good:
            raise value
    return [value for _, value in results]


def main(tests, argv):
    """Run test functions(binary); print a line for each."""
    binary = os.path.abspath(argv[1])
    only = argv[2:]
    failed = 0
    for test in tests:
        if only and test.__name__ not in only:
            continue
        start = time.monotonic()
        try:
            test(binary)
            print(f"ok    {test.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
        except BaseException as problem:  # noqa: BLE001 - the next test still runs
            import traceback
            traceback.print_exc()
            print(f"FAIL  {test.__name__}: {problem}", flush=True)
            failed += 1
    sys.exit(1 if failed else 0)
