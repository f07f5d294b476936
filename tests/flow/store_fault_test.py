"""With a store: who dies in each phase of a request, what that costs, and that nobody sees it."""
import os
import signal
import subprocess
import sys
import tempfile
import time

from baton import SLOW, SMALL, SMALL_MODELS, Redis, Server, free_port, main, together
from failover_test import KINDS, STEPS, body_of, check_same, failovers, streamed, whole, workers_are_back
from fault_test import BODIES, NO_CACHE, matrix
from handoff_test import stores_are_up
from store_test import Store, run

BLOCK = 16
OTHER = os.path.join(SMALL_MODELS, "llama-q4_0.gguf")


def all_back(server, prefill, decode):
    workers_are_back(server, prefill, decode)
    stores_are_up(server)


def by_store(way):
    return ["--store", "64M", "--handoff", way]


def prefill_killed_in_every_phase(binary):
    matrix(binary, "prefill-0", *by_store("store"), back=all_back)


def decode_killed_in_every_phase(binary):
    matrix(binary, "decode-0", *by_store("store"), back=all_back)


def store_killed_in_every_phase(binary):
    for way in ("store", "both"):
        matrix(binary, "store", *by_store(way), back=all_back)


def store_stopped_in_every_phase(binary):
    """In make chaos alone: each of these waits takes its time."""
    if "BATON_CHAOS" not in os.environ:
        print("skip  store_stopped_in_every_phase: make chaos does it")
        return
    for way in ("store", "both"):
        matrix(binary, "store", *by_store(way), back=all_back, number=signal.SIGSTOP)


def store_stopped(binary):
    """SIGSTOP: whoever waits for the store goes on without it within its deadlines, the next ones do not
    wait, and it is used again when it runs again."""
    with Server(binary, SMALL, *STEPS, *by_store("store")) as server:
        stores_are_up(server)
        want = whole(server, BODIES["greedy"])
        stopped = server.pid_of("store")
        os.kill(stopped, signal.SIGSTOP)
        for most_s in (3 + 4, 4, 4):
            start = time.monotonic()
            assert whole(server, BODIES["greedy"]).said() == want.said()
            assert time.monotonic() - start < most_s * SLOW
        server.assert_all_free(8)
        os.kill(stopped, signal.SIGCONT)
        before = server.sum("baton_handoffs_total", carrier="store")

        def used():
            assert whole(server, BODIES["greedy"]).said() == want.said()
            return server.sum("baton_handoffs_total", carrier="store") > before
        server.wait_until(used, 15, "a handoff by the store that is back")


def redis_killed(binary):
    """The same of a store that is a real Redis: it dies under load and comes back empty."""
    bodies = [dict(b, cache_salt=str(i)) for i in range(3) for b in BODIES.values()]
    with Redis() as redis, Server(binary, SMALL, *STEPS, "--store", redis.address, "--handoff",
                                  "store") as server:
        stores_are_up(server)
        want = [whole(server, b).said() for b in bodies]
        assert server.sum("baton_handoffs_total", carrier="store") >= len(bodies)

        def kill():
            time.sleep(0.3)
            redis.kill()

        got = together([lambda b=b: whole(server, b) for b in bodies] + [kill])[:-1]
        assert [a.said() for a in got] == want
        assert [whole(server, b).said() for b in bodies] == want
        server.assert_all_free(8)
        redis.start_again()
        stores_are_up(server)
        before = server.sum("baton_handoffs_total", carrier="store")
        assert [whole(server, b).said() for b in bodies] == want
        assert server.sum("baton_handoffs_total", carrier="store") > before
        server.assert_all_free()


def stores_of_no_use(binary):
    """A Redis that asks for a password, is no cluster, is full, is slow, or does not answer; a store of
    another block size, model or cluster key; none at all: workers start, the log names it, and every
    request has its tokens, whatever the way of handing over."""
    def asked(address, way, cause, *options, stopped=None, full=False):
        with Server(binary, SMALL, *STEPS, "--store", address, "--handoff", way, *options) as server:
            if stopped is not None:
                stores_are_up(server)
                os.kill(stopped, signal.SIGSTOP)
            start = time.monotonic()
            got = together([lambda b=dict(b, cache_salt=str(i)): whole(server, b)
                            for i in range(2) for b in BODIES.values()])
            assert time.monotonic() - start < 12 * SLOW, (address, way)
            assert [a.said() for a in got] == want * 2, (address, way)
            if stopped is not None:
                os.kill(stopped, signal.SIGCONT)
            server.process.wait_for(rf'event="store[^"]*" [^\n]*{cause}', 10)
            if full:
                server.wait_until(lambda: server.sum("baton_worker_save_blocks_total",
                                                     result="dropped") > 0, 5, "what it did not take")
            server.assert_all_free(8)

    with Server(binary, SMALL, *STEPS, "--colocated", "1") as server:
        want = [whole(server, b).said() for b in BODIES.values()]
    with Store(binary, "--memory-bytes", "4M") as store:
        with Server(binary, SMALL, *STEPS, "--block-tokens", "32", "--store", store.address) as server:
            stores_are_up(server)
            assert whole(server, BODIES["greedy"]).error is None
        asked(store.address, "store", "the peer refused: block tokens: ours are 32")
    with Store(binary, "--memory-bytes", "4M") as store:
        with Server(binary, OTHER, *STEPS, "--store", store.address) as server:
            stores_are_up(server)
        asked(store.address, "both", "the peer refused: model fingerprint")
    with tempfile.TemporaryDirectory(prefix="baton-test-") as folder:
        keys = [f"{folder}/ours", f"{folder}/theirs"]
        for key in keys:
            assert run(binary, "key", "--out", key)[0] == 0
        with Store(binary, "--memory-bytes", "4M", "--cluster-key", keys[0]) as store:
            asked(store.address, "store", "key", "--cluster-key", keys[1])
            asked(store.address, "both", "key")
    with Redis("--requirepass", "sesame") as redis:
        asked(redis.address, "store", "NOAUTH Authentication required")
    with Redis("--maxmemory", "100kb", "--maxmemory-policy", "noeviction") as redis:
        asked(redis.address.replace("redis:", "redis-cluster:"), "both", "is no cluster that serves")
        for way in ("both", "store"):
            asked(redis.address, way, "has no memory left", full=True)
    with Redis() as redis:
        asked(redis.address, "store", "has answered nothing for", stopped=redis.process.pid)
    asked(f"127.0.0.1:{free_port()}", "store", "cannot connect: Connection refused")


def redis_slow(binary):
    """Each answer takes it 0.4 s, which is longer than what it has would take to compute: it is given up
    for that request, and the next one; the handoff by it waits for it. Under a sanitizer computing takes
    longer too; after 3 s of silence nobody would wait."""
    pause_ms = 400 if SLOW == 1 else 1500
    with Redis() as redis, Server(binary, SMALL, *STEPS, *NO_CACHE, "--store", redis.address, "--handoff",
                                  "store") as server:
        stores_are_up(server)
        want = {k: whole(server, b).said() for k, b in BODIES.items()}
        over = []

        def slow():
            while not over:
                subprocess.run(["redis-cli", "-p", str(redis.port), "CLIENT", "PAUSE", str(pause_ms)], check=True,
                               stdout=subprocess.DEVNULL, timeout=30)

        def ask():
            try:
                for kind, body in list(BODIES.items()) * 2:
                    start = time.monotonic()
                    assert whole(server, body).said() == want[kind], kind
                    assert time.monotonic() - start < 8 * SLOW
            finally:
                over.append(True)
        together([slow, ask])
        server.process.wait_for(r'event="blocks not fetched" from=store [^\n]*status="timeout"', 10)
        server.assert_all_free(8)


def recomputed(server):
    """By those who went on: a worker that is back has begun to count anew."""
    return server.sum("baton_recomputed_tokens_total")


def only_what_nobody_had_is_recomputed(binary):
    """kill -9 of decode workers in mid-stream: each sequence computes again at most what a block lacks,
    and one block that nobody had acknowledged. Without store and holders it is all of it."""
    kinds = ("greedy", "sampled", "several", "logprobs")
    for options, most in ((by_store("both"), BLOCK - 1 + BLOCK), (by_store("store"), BLOCK - 1 + BLOCK),
                          ([], None)):
        with Server(binary, SMALL, *STEPS, *options, "--decode-workers", "2",
                    "--prefix-cache-bytes", "0") as server:
            want = {k: whole(server, body_of(k, 200)) for k in kinds}
            if options:
                stores_are_up(server)
            base = recomputed(server)
            sequences = sum(KINDS[k].get("n", 1) for k in kinds)

            def kill():
                server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") >=
                                  sequences, 10, "all run")
                time.sleep(1)
                os.kill(server.pid_of("decode-0"), signal.SIGKILL)

            got = together([lambda k=k: streamed(server, body_of(k, 200)) for k in kinds] + [kill])[:-1]
            check_same(dict(zip(kinds, got)), want)
            failed_over = failovers(server, "decode")
            assert failed_over > 0
            server.assert_all_free()
            again = recomputed(server) - base
            resumed = server.sum("baton_resumed_tokens_total", source="store")
            if most is None:
                assert again > 3 * (BLOCK - 1 + BLOCK), again
            else:
                assert again <= sequences * most, (options, again, failed_over)
                assert resumed > 0
            print(f"      {options}: {failed_over:.0f} requests, {again:.0f} tokens recomputed")


if __name__ == "__main__":
    main([prefill_killed_in_every_phase, decode_killed_in_every_phase, store_killed_in_every_phase,
          store_stopped_in_every_phase, store_stopped, redis_killed, redis_slow, stores_of_no_use, only_what_nobody_had_is_recomputed], sys.argv)
