"""Clients that leave at any moment, and processes that die: nothing leaks, and all blocks add up.

BATON_ABORTS=100000 in the environment aborts so many times (make soak ABORTS=100000), and BATON_SEED
repeats a run as far as the machine's own timing allows."""
import json
import os
import random
import signal
import socket
import sys
import threading
import time

from baton import SLOW, SMALL, Failed, Server, main
from handoff_test import stores_are_up
from store_test import Store, metrics_of
from failover_test import whole, workers_are_back

ABORTS = int(os.environ.get("BATON_ABORTS", "1000"))
SEED = int(os.environ.get("BATON_SEED", str(time.time_ns() % 1000000)))
CLIENTS = 16
REST_S = 1  # after the last client has gone
# Little room, so that sequences are preempted and requests wait for places too.
SIZE = ["--ctx", "512", "--kv-bytes", "230K", "--decode-batch", "8", "--prefill-chunk", "32"]
PROBE = {"prompt": list(range(5, 60)), "max_tokens": 20, "ignore_eos": True, "temperature": 0}


def in_use(worker):
    return (worker["blocks"]["referenced"] + worker["blocks"]["reserved"] +
            worker["blocks"]["swapped"] + worker["leases"] +
            worker["lendings"] + sum(worker["sequences"].values()))


def assert_at_rest(server, workers, within_s=REST_S):
    """referenced + reserved + swapped = 0 and free + cached = total, on every worker."""
    end = time.monotonic() + within_s * SLOW
    while True:
        status = server.ctl("status")
        there = [w for w in status["workers"] if w["state"] == "ready"]
        if len(there) == workers and status["requests"] == 0 and not any(map(in_use, there)):
            break
        assert time.monotonic() < end, status
        time.sleep(0.05)
    for w in there:
        assert w["adds_up"] and w["held"] == 0, w
        assert w["blocks"]["free"] + w["blocks"]["cached"] == w["blocks"]["total"], w


def body_of(chance):
    """Of any shape: short and long, n of 1 to 3, shared and own prefixes, streamed or whole."""
    prompt = list(range(5, 5 + 16 * chance.randrange(4)))
    prompt += [chance.randrange(5, 300) for _ in range(chance.randrange(1, 60))]
    return {"prompt": prompt, "max_tokens": chance.randrange(1, 120), "ignore_eos": True,
            "n": chance.choice([1, 1, 1, 2, 3]), "temperature": 1, "seed": chance.randrange(1000),
            "stream": chance.random() < 0.8, "priority": chance.randrange(3)}


def abort(port, chance):
    """One request that its client leaves: with half of it sent, while it waits, in the middle of its
    answer. Returns what was read."""
    body = json.dumps(body_of(chance)).encode()
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    read = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            if chance.random() < 0.05:
                s.sendall((head + body)[:chance.randrange(1, len(head + body))])
                return read
            s.sendall(head + body)
            end = time.monotonic() + chance.choice([0, 0.002, 0.01, 0.03, 0.1, 0.3]) * chance.random() * SLOW
            while (left := end - time.monotonic()) > 0:
                s.settimeout(left)
                got = s.recv(65536)
                if not got:
                    break
                read += got
            if chance.random() < 0.5:  # a reset instead of an end
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    except OSError:
        pass
    return read


class Leavers:
    """CLIENTS threads that abort, until there were count of them or it is ended."""

    def __init__(self, server, count):
        self.server, self.count, self.over = server, count, False
        self.lock = threading.Lock()
        self.done, self.wrong = 0, []
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(CLIENTS)]

    def run(self, number):
        chance = random.Random(SEED * 1000 + number)
        while not self.over:
            with self.lock:
                if self.done >= self.count:
                    return
                self.done += 1
            read = abort(self.server.port, chance)
            if b'"error"' in read and b"no_workers" not in read:
                self.wrong.append(read[-400:])

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        for t in self.threads:
            t.join()


def aborts(binary):
    """So many requests whose clients leave; then all is as if they had never been there."""
    with Server(binary, SMALL, *SIZE, "--silence", "5s", "--step-delay", "1ms") as server:
        want = whole(server, PROBE).said()
        with Leavers(server, ABORTS) as leavers:
            pass
        assert_at_rest(server, 2)
        assert leavers.wrong == [], leavers.wrong[:3]
        assert server.sum("baton_failovers_total") == 0
        gone = server.sum("baton_http_clients_gone_total")
        print(f"      seed {SEED}: {leavers.done} aborts, {gone:.0f} with a request under way, "
              f"{server.sum('baton_num_preemptions_total'):.0f} preemptions", flush=True)
        assert gone > ABORTS / 10, "hardly a request was under way"
        assert whole(server, PROBE).said() == want


def aborts_by_store(binary):
    """The same where the store hands over, and gives back what it has: it lets go of all blocks too."""
    moving = ("baton_store_leases", "baton_store_adding_blocks", "baton_store_memory_pinned_blocks")
    with Store(binary, "--memory-bytes", "384K") as store:
        for way in ("store", "both"):
            with Server(binary, SMALL, *SIZE, "--silence", "5s", "--step-delay", "1ms", "--store",
                        store.address, "--handoff", way) as server:
                stores_are_up(server)
                want = whole(server, PROBE).said()
                with Leavers(server, max(ABORTS // 4, 200)) as leavers:
                    pass
                assert_at_rest(server, 2)
                end = time.monotonic() + REST_S * SLOW
                while any(metrics_of(store)[name] != 0 for name in moving):
                    assert time.monotonic() < end, metrics_of(store)
                    time.sleep(0.05)
                assert leavers.wrong == [], leavers.wrong[:3]
                assert server.sum("baton_failovers_total") == 0
                assert whole(server, PROBE).said() == want
        totals = metrics_of(store)
        assert totals["baton_store_sent_blocks_total"] > 0 < totals["baton_store_evicted_blocks_total"], totals
        assert totals["baton_store_checksum_failures_total"] == 0, totals


def aborts_and_deaths(binary):
    """The same while each kind of process is killed or stopped, one after the other."""
    with Server(binary, SMALL, *SIZE, "--step-delay", "3ms", "--silence", "1s", "--decode-workers",
                "2") as server:
        want = whole(server, PROBE).said()
        chance = random.Random(SEED)
        for name, number in [("decode-0", signal.SIGKILL), ("prefill-0", signal.SIGKILL),
                             ("decode-1", signal.SIGSTOP), ("prefill-0", signal.SIGSTOP),
                             ("router", signal.SIGKILL)]:
            with Leavers(server, 10**9) as leavers:
                time.sleep((0.3 + chance.random()) * SLOW)
                os.kill(server.pid_of(name), number)
                time.sleep((1.5 if number == signal.SIGSTOP else 0.3) * SLOW)
                if number == signal.SIGSTOP:
                    os.kill(server.pid_of(name), signal.SIGCONT)
                leavers.over = True
            assert leavers.wrong == [], (name, leavers.wrong[:3])

            def back():
                try:
                    workers_are_back(server, 1, 2)
                    return True
                except (OSError, Failed, AssertionError):
                    return False
            server.wait_until(back, 30, f"all after {name}")
            assert_at_rest(server, 3)
            assert whole(server, PROBE).said() == want, name


if __name__ == "__main__":
    main([aborts, aborts_by_store, aborts_and_deaths], sys.argv)
