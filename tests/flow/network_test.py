"""Router and workers on different hosts: handoffs over tcp, broken links, and the proof that the handoff
hides behind the prefill. Hosts are network namespaces, so this needs root."""
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from baton import MODEL, PATIENT, SLOW, SMALL, Process, Server, main, over_rdma, together
from handoff_test import compare, outcome, requests
from network import Network, skip_unless_possible

WORKERS_PORT = 7001
TRANSFER_PORT = 7100
SMALL_SIZE = ["--ctx", "512", "--kv-bytes", "16M"]
HOSTS = ["router", "prefill0", "prefill1", "decode0", "decode1"]


class Cluster(Server):
    """The router on the first host, a worker on each that is named prefillN or decodeN.

    options: of all workers; more: {host: further ones}. A worker listens on all its addresses and
    advertises the one of its data link. Without a cluster key (a file) they trust the network."""

    def __init__(self, net, binary, model, workers, options, more=None, router=PATIENT, cluster_key=None):
        super().__init__(binary, model, *options)
        self.net, self.workers, self.more, self.router = net, workers, more or {}, router
        self.access = ["--cluster-key", cluster_key] if cluster_key else ["--trust-network"]
        self.children = {}

    def __enter__(self):
        self.net.enter("router")
        self.process = Process("router", [
            self.binary, "router", "--port", str(self.port), "--workers",
            f"{self.net.address('router', 'control')}:{WORKERS_PORT}", *self.access,
            "--expect-workers", str(len(self.workers)), "--log-level", "debug", *self.router,
            self.model])
        self.process.wait_for('event="listening"')
        for host in self.workers:
            self.start(host)
        self.process.wait_for('event="ready"')
        return self

    def start(self, host):
        advertised = f"{self.net.address(host)}:{TRANSFER_PORT}"
        self.children[host] = self.net.start(host, [
            self.binary, host.rstrip("0123456789"), "--name", host, "--router",
            f"{self.net.address('router', 'control')}:{WORKERS_PORT}",
            "--transfer", f"unix:/tmp/{self.net.prefix}{host}.sock",
            "--transfer-tcp", f"0.0.0.0:{TRANSFER_PORT}", "--transfer-advertise", advertised,
            *self.access, "--log-level", "debug", *self.options, *self.more.get(host, []),
            self.model])

    def __exit__(self, kind, *_):
        if kind is not None:
            sys.stderr.write(self.process.log()[-20000:])
            for child in self.children.values():
                sys.stderr.write(f"---- {child.name}\n{child.log()[-8000:]}\n")
        try:
            if kind is None:
                for child in self.children.values():
                    self.net.stop(child)
        finally:
            code = self.process.stop()
            self.process.discard()
        if kind is None:
            assert code == 0, code

    def assert_same_workers(self):
        """Nobody died, and nobody was started again."""
        for child in self.children.values():
            assert child.process.poll() is None, child.log()[-4000:]

    def log_has(self, host, words):
        return words in self.children[host].log()


def equals_colocated(binary):
    """Disaggregated over a network equals colocated: M:N, bound and advertised address differ."""
    bodies = requests(300, 512)
    with Server(binary, SMALL, *SMALL_SIZE, "--colocated", "1") as server:
        expected = [outcome(server.complete(**body)) for body in bodies]
    with Network(HOSTS) as net:
        more = {
            # The port is not needed when it is the one that is bound.
            "decode0": ["--transfer-advertise", net.address("decode0")],
            "prefill1": ["--transfer-tcp", f"[::]:{TRANSFER_PORT}", "--transfer-advertise",
                         f"[{net.address('prefill1', v6=True)}]:{TRANSFER_PORT}"]}
        with Cluster(net, binary, SMALL, HOSTS[1:], SMALL_SIZE, more) as server:
            for host in HOSTS[1:]:
                net.throttle(host, 20e6)
            compare("2+2 hosts", bodies, expected,
                    [outcome(server.complete(**body)) for body in bodies])
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare("2+2 hosts, all at once", bodies, expected, loaded)
            server.wait_until(lambda: server.sum("baton_handoffs_total", carrier="tcp") >=
                              2 * (len(bodies) - 3), 3, "a handoff for each request")
            assert server.sum("baton_handoffs_total", carrier="shm") == 0
            for host in ("prefill0", "prefill1"):
                server.wait_until(lambda h=host: server.sum("baton_worker_tokens_total", worker=h,
                                                            kind="prefill") > 0, 3, f"work of {host}")
            server.assert_all_free()
            server.assert_same_workers()


def every_carrier(binary):
    """A prefill and a decode worker on different hosts, over tcp and, where UCX is, over rdma, each without a
    cluster key and with one: the same tokens, and all by that carrier."""
    bodies = requests(300, 512)[::2]
    with Server(binary, SMALL, *SMALL_SIZE, "--colocated", "1") as server:
        expected = [outcome(server.complete(**body)) for body in bodies]
    ways = [["--carrier", "tcp"]]
    rdma = over_rdma(binary)
    if rdma:  # over UCX's tcp, on the data link
        ways.append([*rdma[:-1], rdma[-1] + "@data"])
    with Network(["router", "prefill0", "decode0"]) as net, tempfile.TemporaryDirectory() as folder:
        key = os.path.join(folder, "key")
        subprocess.run([binary, "key", "--out", key], check=True)
        for way in ways:
            for access in (None, key):
                carrier = way[1]
                name = f"{carrier} between hosts{' with a key' if access else ''}"
                with Cluster(net, binary, SMALL, ["prefill0", "decode0"], [*SMALL_SIZE, *way],
                             cluster_key=access) as server:
                    compare(name, bodies, expected,
                            together([lambda b=b: outcome(server.complete(**b)) for b in bodies]))
                    server.wait_until(lambda c=carrier: server.sum("baton_handoffs_total", carrier=c) >=
                                      len(bodies) - 3, 3, f"{name}: a handoff for each request")
                    assert server.sum("baton_handoffs_total") == server.sum("baton_handoffs_total",
                                                                            carrier=carrier), name
                    server.assert_all_free()
                    server.assert_same_workers()


def body_of(tokens, **more):
    dice = random.Random(tokens)
    return dict({"prompt": [dice.randrange(3, 300) for _ in range(tokens)], "max_tokens": 8,
                 "ignore_eos": True, "temperature": 0, "logprobs": 1}, **more)


def goes_on(server, body, want, words, most_s):
    """The handoff fails, and the request has the wanted answer all the same, within the time; a line
    of the router's log says why, with all words in it."""
    before = len(server.process.log())
    start = time.monotonic()
    assert outcome(server.complete(**body)) == want
    took = time.monotonic() - start
    assert took < most_s, f"the answer came after {took:.1f} s"
    said = [line for line in server.process.log()[before:].splitlines() if "attempt failed" in line]
    assert any(all(word in line for word in words) for line in said), (words, said)


def link_cut(binary):
    """The data link goes down in mid-transfer, and in mid-prefill: the request goes on in bounded time,
    the workers live, their blocks come back, and so do handoffs when the link does."""
    with Network(["router", "prefill0", "decode0"]) as net:
        with Cluster(net, binary, SMALL, ["prefill0", "decode0"], SMALL_SIZE) as server:
            body = body_of(480)
            want = outcome(server.complete(**body_of(480, cache_salt="x")))
            short = outcome(server.complete(**body_of(100, cache_salt="x")))
            net.throttle("prefill0", 40e3)  # 180 KiB: four seconds and a half
            pid = server.children["decode0"].pid

            def cut():
                time.sleep(1)
                net.cut("prefill0")

            together([lambda: goes_on(server, body, want, ["prefill0", "nothing was heard"],
                                      1 + 3 + 3 * SLOW), cut])
            server.assert_same_workers()
            server.assert_all_free(5)
            # While it is down: connecting fails, by name, in the time that connecting may take.
            goes_on(server, body_of(100), short, ["prefill0", net.address("prefill0")], 3 + 3 * SLOW)
            net.join("prefill0")
            net.throttle("prefill0", None)
            handed = server.sum("baton_handoffs_total", carrier="tcp")
            assert outcome(server.complete(**body_of(480, cache_salt="y"))) == want
            server.wait_until(lambda: server.sum("baton_handoffs_total", carrier="tcp") > handed, 3,
                              "a handoff over the link that is back")
            assert server.children["decode0"].pid == pid
            server.assert_all_free(5)

        # The prefill takes longer than both sides need to see that the other is gone.
        with Cluster(net, binary, SMALL, ["prefill0", "decode0"], SMALL_SIZE,
                     {"prefill0": ["--step-delay", "700ms", "--prefill-chunk", "32"]}) as server:
            def cut_early():
                time.sleep(1.5)
                net.cut("decode0")

            together([lambda: goes_on(server, body_of(480), want, ["nothing was heard"],
                                      1.5 + 3 + 4 * SLOW), cut_early])
            net.join("decode0")
            server.assert_all_free(5)
            # Nothing holds on to the worker: it has room for all its blocks again, and drains.
            assert server.complete(**body_of(40))["usage"]["completion_tokens"] == 8


def host_cut(binary):
    """A whole host is cut off: the router sends its requests elsewhere; it comes back by itself."""
    with Network(HOSTS) as net:
        with Cluster(net, binary, SMALL, HOSTS[1:], SMALL_SIZE,
                     {h: ["--step-delay", "150ms", "--prefill-chunk", "32"]
                      for h in ("prefill0", "prefill1")},
                     router=["--silence", f"{SLOW}s"]) as server:
            body = body_of(300)
            want = outcome(server.complete(**body_of(300, cache_salt="x")))

            def cut():
                time.sleep(0.7)
                net.cut("prefill0")
                net.cut("prefill0", "control")

            answers = together([lambda: outcome(server.complete(**body))] * 4 + [cut])[:4]
            assert answers == [want] * 4
            server.process.wait_for('event="worker lost" worker=prefill0')
            assert server.call("GET", "/health")["prefill_workers"] == 1
            net.join("prefill0")
            net.join("prefill0", "control")
            server.wait_until(lambda: server.call("GET", "/health")["prefill_workers"] == 2, 20,
                              "the worker is back")
            together([lambda: server.complete(**body)] * 4)
            server.assert_all_free(5)
            server.assert_same_workers()


def wrong_address(binary):
    """An address where nobody is, and one where another worker is: each is named, and the request is
    computed where it is decoded."""
    with Server(binary, SMALL, *SMALL_SIZE, "--colocated", "1") as server:
        want = outcome(server.complete(**body_of(100)))
    with Network(["router", "prefill0", "prefill1", "decode0"]) as net:
        more = {"prefill0": ["--transfer-advertise", f"10.201.2.99:{TRANSFER_PORT}"]}
        with Cluster(net, binary, SMALL, ["prefill0", "decode0"], SMALL_SIZE, more) as server:
            goes_on(server, body_of(100), want, ["10.201.2.99"], 3 + 3 * SLOW)
            server.assert_all_free(5)
            server.assert_same_workers()
        more = {"prefill0": ["--transfer-advertise", f"{net.address('decode0')}:{TRANSFER_PORT}"]}
        with Cluster(net, binary, SMALL, ["prefill0", "decode0"], SMALL_SIZE, more) as server:
            goes_on(server, body_of(100), want, ["incarnation"], 3 + 3 * SLOW)
            server.assert_all_free(5)
            server.assert_same_workers()


# ---- the overlap

def timed_prefill(server, prompt):
    """Seconds of prefill, of the handoff, and of what of it was exposed; and the handoff's bytes."""
    names = {"prefill": "baton_request_prefill_time_seconds_sum", "handoff": "baton_handoff_seconds_sum",
             "exposed": "baton_handoff_exposed_seconds_sum", "bytes": "baton_handoff_bytes_total",
             "count": "baton_handoff_seconds_count"}
    before = {key: server.sum(name) for key, name in names.items()}
    server.complete(prompt=prompt, max_tokens=2, ignore_eos=True, temperature=0)
    server.wait_until(lambda: server.sum(names["count"]) == before["count"] + 1, 10, "the handoff")
    return {key: server.sum(name) - before[key] for key, name in names.items()}


def overlap(binary):
    """The link is so slow that moving the prompt's keys and values takes half as long as computing them:
    at most a tenth of that time is exposed. Offering only after the prefill exposes nearly all."""
    if SLOW == 1:
        model, vocabulary, tokens, token_bytes = MODEL, 40000, 1200, 23040
        options = ["--ctx", "2048", "--kv-bytes", "128M", "--prefill-chunk", "128"]
    else:  # a sanitizer would compute for half an hour; delayed steps are as good to hide behind
        model, vocabulary, tokens, token_bytes = SMALL, 300, 400, 384
        options = [*SMALL_SIZE, "--prefill-chunk", "16", "--step-delay", "100ms"]
    options += ["--prefix-cache-bytes", "0"]
    dice = random.Random(2)
    prompts = [[dice.randrange(100, vocabulary) for _ in range(tokens)] for _ in range(9)]
    with Network(["router", "prefill0", "decode0"]) as net:
        for when in ("early", "late"):
            cores = sorted(os.sched_getaffinity(0))
            more = {"prefill0": ["--offer", when, "--cpus", str(cores[0])],
                    "decode0": ["--cpus", str(cores[-1])]}
            with Cluster(net, binary, model, ["prefill0", "decode0"], options, more) as server:
                free = timed_prefill(server, prompts[0])
                for prompt in prompts[1:]:
                    rate = free["bytes"] / (free["prefill"] / 2)
                    net.throttle("prefill0", rate)
                    slow = timed_prefill(server, prompt)
                    net.throttle("prefill0", None)
                    transfer_s = slow["bytes"] / rate
                    ratio = transfer_s / slow["prefill"]
                    print(f"      {when}: prefill {slow['prefill']:.2f} s, transfer "
                          f"{slow['bytes'] / 1e6:.1f} MB at {rate / 1e6:.1f} MB/s = "
                          f"{transfer_s:.2f} s ({ratio:.2f} of the prefill), exposed "
                          f"{slow['exposed']:.3f} s ({slow['exposed'] / transfer_s:.1%})", flush=True)
                    assert slow["bytes"] >= tokens // 16 * 16 * token_bytes
                    # Another load on this machine than when the rate was chosen: choose again.
                    if 0.35 < ratio < 0.7:
                        break
                    free = slow
                else:
                    raise AssertionError("the machine's speed changes too much to say anything")
                if when == "early":
                    assert slow["exposed"] <= 0.1 * transfer_s, slow
                else:
                    assert slow["exposed"] > 0.8 * transfer_s, slow
                server.assert_all_free()


class Sniffer:
    """All packets that come to and go from a host, until the with block ends: .packets."""

    def __init__(self, net, host):
        net.enter(host)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        net.enter("router")
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.socket.settimeout(0.1)
        self.packets, self.over = [], False
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while True:
            try:
                self.packets.append(self.socket.recv(1 << 17))
            except TimeoutError:
                if self.over:
                    return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        time.sleep(0.2)
        self.over = True
        self.thread.join()
        self.socket.close()


def encrypted(binary):
    """What a listener in the network sees: without a cluster key the prompt's tokens and the keys and
    values; with it neither. The answers are the same."""
    body = body_of(400)
    tokens = struct.pack("<8I", *body["prompt"][100:108])
    hosts = ["router", "prefill0", "decode0"]

    def seen(net, cluster_key):
        with Cluster(net, binary, SMALL, hosts[1:], SMALL_SIZE, cluster_key=cluster_key) as server:
            with Sniffer(net, "prefill0") as sniffer:
                outcomes = outcome(server.complete(**body))
                server.wait_until(lambda: server.sum("baton_handoffs_total", carrier="tcp") == 1, 3,
                                  "one handoff over tcp")
        return outcomes, sniffer.packets

    with Network(hosts) as net, tempfile.TemporaryDirectory() as folder:
        key = os.path.join(folder, "key")
        subprocess.run([binary, "key", "--out", key], check=True)
        plain, first = seen(net, None)
        again, second = seen(net, None)
        sealed, third = seen(net, key)
        assert plain == again == sealed
        # Keys and values: what large packets of two plain runs have in common behind their headers, in
        # pieces without long runs. Headers, and greetings before there are keys, always look alike.
        large = [p[100:] for p in first if len(p) > 1000]
        first, second, third = (b"".join(packets) for packets in (first, second, third))
        pieces = [piece for p in large for piece in (p[at:at + 24] for at in range(0, len(p) - 24, 500))
                  if len(set(piece)) > 12 and piece in second]
        print(f"      {len(first)}, {len(second)}, {len(third)} bytes seen, "
              f"{len(pieces)} pieces known")
        assert len(pieces) > 20, len(pieces)
        assert tokens in first and tokens in second
        assert len(third) > 0.8 * len(first)
        assert tokens not in third
        assert not any(p in third for p in pieces)


def two_holders(binary):
    """Two hosts hold a prompt, and a third fetches a part of it from each; then one of the two is killed
    in the middle, and the other one gives its part as well: nothing is computed twice."""
    size = ["--ctx", "1024", "--kv-bytes", "64M", "--kv-dtype", "f32", "--block-tokens", "16",
            "--step-delay", "800ms"]
    dice = random.Random(7)
    prompt = [dice.randrange(3, 300) for _ in range(960)]
    bodies = [dict(prompt=[i, *prompt], max_tokens=2, temperature=0, logprobs=1) for i in (5, 6)]
    longer = [dict(b, prompt=b["prompt"] + [9] * 20) for b in bodies]
    with Server(binary, SMALL, *size[:-2], "--colocated", "1") as server:
        expected = [outcome(server.complete(**b)) for b in longer]
    with Network(HOSTS) as net:
        hosts = ["prefill0", "prefill1", "decode0"]
        with Cluster(net, binary, SMALL, hosts, size, router=[*PATIENT, "--place", "pull"]) as server:
            def timeline(answer):
                return subprocess.run([binary, "why", "--server", f"127.0.0.1:{server.port}", answer["id"]],
                                      capture_output=True, text=True, check=True).stdout

            for host in hosts:  # their rates are alike, and a part of 360 KiB takes three quarters of a second
                net.throttle(host, 5e5)
            for kills, body, more, want in zip((False, True), bodies, longer, expected):
                first = timeline(server.complete(**body))
                holder = re.search(r"chosen   prefill: (prefill\d)", first)[1]
                time.sleep(0.5)  # all have said what they hold
                child = server.children[holder]
                answers = []
                jobs = [lambda: answers.append(server.complete(**more))]
                if kills:
                    before = net.sent(holder)

                    def kill():
                        while net.sent(holder) < before + 64e3:
                            assert not answers, "nothing was fetched from " + holder
                            time.sleep(0.01)
                        child.process.kill()

                    jobs.append(kill)
                together(jobs)
                answer, = answers
                text = timeline(answer)
                assert outcome(answer) == want, text
                parts = re.findall(r"blocks (\d+) to (\d+) from (\S.*) by tcp: (\w+)", text)
                assert "peers 960, store 0, computed 21" in text, text
                if not kills:
                    assert {p[2:] for p in parts} == {(holder, "ok"), ("decode0", "ok")}, text
                    assert len(parts) == 2, text
                    continue
                assert len(parts) == 3 and [p[2:] for p in parts].count(("decode0", "ok")) == 2, text
                lost = next(p for p in parts if p[3] != "ok")
                assert lost[:2] in [p[:2] for p in parts if p[3] == "ok"], text
                assert server.sum("baton_failovers_total") == 0
            server.assert_all_free()
            net.processes.remove(child)  # it is dead, as it should be
            del server.children[holder]
            child.process.wait()
            child.discard()


if __name__ == "__main__":
    skip_unless_possible()
    main([equals_colocated, two_holders, every_carrier, encrypted, link_cut, host_cut, wrong_address, overlap], sys.argv)
