"""baton ctl: what an operator sees of a running server, and changes in it."""
import os
import subprocess
import sys
import threading

from baton import SMALL, Failed, Server, main, together
from hands import SIZE, Hands

PATIENT = ["--silence", "10s"]  # nobody dies here; a busy machine may be silent for a second
SHARED = list(range(5, 85))  # five blocks, which every request begins with


def by_name(status):
    return {w["worker"]: w for w in status["workers"]}


def status_shows_workers(binary):
    with Server(binary, SMALL, *SIZE, *PATIENT, "--step-delay", "20ms", "--decode-workers", "2") as server:
        at_rest = server.ctl("status")
        workers = by_name(at_rest)
        assert set(workers) == {"prefill-0", "decode-0", "decode-1"}, workers
        assert [workers[n]["role"] for n in sorted(workers)] == ["decode", "decode", "prefill"]
        for w in workers.values():
            assert w["state"] == "ready" and w["adds_up"] and w["held"] == 0, w
            assert w["blocks"]["free"] == w["blocks"]["total"] > 0, w
            assert w["pid"] == server.pid_of(w["worker"])
        assert len({w["incarnation"] for w in workers.values()}) == 3
        assert at_rest["requests"] == 0

        busy = []

        def look():
            server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") >= 4)
            busy.append(server.ctl("status"))
        together([lambda: server.complete(prompt=SHARED, max_tokens=200, ignore_eos=True)] * 4 +
                 [look])
        assert busy[0]["requests"] == 4
        decoders = [w for w in busy[0]["workers"] if w["role"] == "decode"]
        assert sum(w["placed_sequences"] for w in decoders) == 4
        assert all(w["sequences"]["running"] > 0 and w["held"] > 0 for w in decoders), decoders
        server.assert_all_free()
        after = server.ctl("status")["workers"]
        assert all(w["held"] == 0 and w["adds_up"] for w in after), after
        assert all(w["blocks"]["free"] + w["blocks"]["cached"] == w["blocks"]["total"] for w in after)
        assert all(w["blocks"]["cached"] > 0 for w in after), after
        # For people: the same, in words.
        text = subprocess.run([binary, "ctl", "status", "--router", server.router_address()],
                              capture_output=True, text=True, check=True).stdout
        assert "nothing is referenced, reserved or swapped out; all blocks add up" in text, text


class Load:
    """Requests, one after the other in a few threads, until it is ended."""

    def __init__(self, server, want, threads=4):
        self.server, self.want, self.over = server, want, False
        self.wrong, self.count = [], 0
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(threads)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over = True
        for t in self.threads:
            t.join()

    def run(self, number):
        while not self.over:
            tail = number % len(self.want)
            try:
                got = self.server.complete(**body_of(tail))["choices"][0]["text"]
                if got != self.want[tail]:
                    self.wrong.append((tail, got, self.want[tail]))
            except (Failed, OSError) as problem:
                self.wrong.append(repr(problem))
            self.count += 1
            number += 1


def body_of(tail):
    return {"prompt": SHARED + [100 + tail] * (tail + 1), "max_tokens": 30, "ignore_eos": True,
            "temperature": 0.8, "seed": tail}


def role_changes_under_load(binary):
    """A prefill worker becomes a decode worker and comes back, a decode worker does both: no client
    sees anything, and the blocks are still there afterwards."""
    with Server(binary, SMALL, *SIZE, *PATIENT, "--step-delay", "5ms", "--prefill-workers", "2",
                "--decode-workers", "2") as server:
        want = [server.complete(**body_of(i))["choices"][0]["text"] for i in range(6)]
        incarnations = {n: w["incarnation"] for n, w in by_name(server.ctl("status")).items()}

        def told(worker, role, prefill, decode):
            server.ctl("role", worker, role)
            health = server.call("GET", "/health")
            assert (health["prefill_workers"], health["decode_workers"]) == (prefill, decode), health
            assert by_name(server.ctl("status"))[worker]["role"] == role
            before = load.count
            server.wait_until(lambda: load.count >= before + 12, 30, "requests after the change")

        with Load(server, want) as load:
            told("prefill-0", "decode", 1, 3)
            told("decode-0", "prefill", 2, 2)
            told("decode-1", "both", 3, 2)
            told("prefill-1", "decode", 2, 3)
            told("prefill-0", "prefill", 3, 2)
            told("decode-1", "decode", 2, 2)
            told("decode-0", "decode", 1, 3)
            told("prefill-1", "prefill", 2, 2)
        assert load.wrong == [], load.wrong[:3]
        server.assert_all_free()
        workers = by_name(server.ctl("status"))
        # The same processes, which never stopped being there.
        assert {n: w["incarnation"] for n, w in workers.items()} == incarnations
        assert server.process.log().count('event="started"') == 5, "a child was started again"

        # All prompts on one worker that has never been asked to compute one: what it decoded is
        # what it now finds.
        for name in ("prefill-0", "prefill-1", "decode-1"):
            server.ctl("role", name, "decode")
        server.ctl("role", "decode-0", "prefill")
        before = workers["decode-0"]["blocks"]["cached"]
        assert before > 0
        usage = server.complete(**body_of(2))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= len(SHARED), usage


def last_of_a_role(binary):
    """One worker of each role changes places with the other: requests that run come to their end."""
    with Server(binary, SMALL, *SIZE, *PATIENT, "--step-delay", "10ms") as server:
        want = [server.complete(**body_of(i))["choices"][0]["text"] for i in range(6)]
        with Load(server, want) as load:
            for _ in range(3):
                for first, second in (("decode", "prefill"), ("prefill", "decode")):
                    before = load.count
                    server.ctl("role", "prefill-0", first)
                    server.ctl("role", "decode-0", second)
                    server.wait_until(lambda: load.count >= before + 8, 30, "requests")
        assert load.wrong == [], load.wrong[:3]
        server.assert_all_free()


def drained_worker_leaves(binary):
    """Workers started by hand: one is drained while it answers, ends with 0 and stays away."""
    with Hands(binary, decode=2) as hands:
        door = hands.doors[0]
        body = {"prompt": SHARED, "max_tokens": 200, "ignore_eos": True, "temperature": 0}
        want = door.complete(**body)["choices"][0]["text"]

        def drain():
            door.wait_until(lambda: door.sum("baton_worker_sequences", state="running") >= 4)
            hands.ctl("drain", "decode-a")
            assert hands.status()["decode-a"]["state"] == "leaving"
            assert door.call("GET", "/health")["decode_workers"] == 1
        got = together([lambda: door.complete(**body)["choices"][0]["text"]] * 4 + [drain])[:4]
        assert got == [want] * 4
        assert hands.processes["decode-a"].process.wait(10) == 0
        assert set(hands.status()) == {"prefill-a", "decode-b"}
        assert door.sum("baton_failovers_total") == 0


def who_may_ask(binary):
    """Without the cluster key nobody is answered; a name that is not there is said."""
    with Hands(binary) as hands:
        assert "key" in hands.ctl("status", key=None, fails=True)
        other = os.path.join(hands.folder.name, "other")
        subprocess.run([binary, "key", "--out", other], check=True)
        assert "key" in hands.ctl("drain", "decode-a", key=other, fails=True)
        assert len(hands.status()) == 2
        problem = hands.ctl("role", "nobody", "decode", fails=True)
        assert "no worker nobody" in problem, problem
        problem = hands.ctl("role", "decode-a", "cook", fails=True)
        assert "prefill, decode or both" in problem, problem


if __name__ == "__main__":
    main([status_shows_workers, role_changes_under_load, last_of_a_role, drained_worker_leaves,
          who_may_ask], sys.argv)
