"""The central store as a process: workers connect to it, operators ask it, others are refused."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from baton import SLOW, SMALL, Process, Redis, Server, free_port, main, over_rdma
from gather_test import WIDE, conversation, known_everywhere, reference, same, turn, why

SIZE = ["--ctx", "512", "--kv-bytes", "8M"]
BLOCK = 16


def run(binary, *args, timeout_s=30):
    done = subprocess.run([binary, *args], capture_output=True, text=True, timeout=timeout_s)
    return done.returncode, done.stdout, done.stderr


class Store:
    def __init__(self, binary, *options):
        self.folder = tempfile.mkdtemp(prefix="baton-test-")
        self.address, self.metrics_port = f"unix:{self.folder}/store.sock", free_port()
        self.process = Process("store", [binary, "store", "--listen", self.address, "--metrics-port",
                                         str(self.metrics_port), "--silence", f"{SLOW}s", *options])
        self.process.wait_for("store listens")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stop()
        self.process.discard()
        shutil.rmtree(self.folder)


def metrics_of(store):
    """{name: value}"""
    with urllib.request.urlopen(f"http://127.0.0.1:{store.metrics_port}/metrics", timeout=10) as got:
        return {line.split()[0]: float(line.split()[1]) for line in got.read().decode().splitlines()
                if not line.startswith("#")}


def operators_ask(binary):
    with Store(binary, "--memory-bytes", "16M") as store:
        code, out, _ = run(binary, "kv", "stat", "--store", store.address)
        assert code == 0 and re.search(r"keys +0", out), out
        code, out, _ = run(binary, "kv", "query", "--store", store.address, "ab" * 16)
        assert code == 0 and out == "0 of 1 leading keys are there\n", out
        assert run(binary, "kv", "query", "--store", store.address) == (0, "", "")
        code, out, _ = run(binary, "kv", "delete", "--store", store.address, "--all")
        assert code == 0 and out == "0 blocks deleted\n", out
        code, _, err = run(binary, "kv", "delete", "--store", store.address)
        assert code == 1 and "--tree" in err, err
        code, _, err = run(binary, "kv", "query", "--store", store.address, "xyz")
        assert code == 1 and "32 hexadecimal digits" in err, err
        code, _, err = run(binary, "kv", "export", "--store", store.address, f"{store.folder}/file")
        assert code == 1 and "no blocks yet" in err, err
        code, _, err = run(binary, "kv", "import", "--store", store.address, SMALL)
        assert code == 1 and "no segment of a store" in err, err
        assert metrics_of(store)["baton_store_keys"] == 0


def workers_of_serve_connect(binary):
    with Store(binary, "--memory-bytes", "16M") as store:
        with Server(binary, SMALL, *SIZE, "--store", store.address) as server:
            server.wait_until(lambda: re.search(r"2 connections|3 connections", run(
                binary, "kv", "stat", "--store", store.address)[1]), what="two workers at the store")
            assert server.complete(prompt=list(range(5, 60)), max_tokens=4, temperature=0)
            # The store dies: requests go on.
            os.kill(store.process.pid, signal.SIGKILL)
            assert server.complete(prompt=list(range(5, 70)), max_tokens=4, temperature=0)


def operators_delete(binary):
    """One block, a block and all that continues it, those of a model, all: just so many are gone, and
    what is added again is there again."""
    with Store(binary, "--memory-bytes", "16M") as store:
        def kv(*words):
            code, out, err = run(binary, "kv", words[0], "--store", store.address, *words[1:])
            assert code == 0, err
            return out

        def keys():
            return set(kv("query").split())

        def deleted(*words):
            before = keys()
            count = int(re.match(r"(\d+) blocks deleted\n", kv("delete", *words))[1])
            gone = before - keys()
            assert len(gone) == count, (words, gone)
            return gone

        with Server(binary, SMALL, *SIZE, "--store", store.address, "--prefix-cache-bytes", "0") as server:
            def add(blocks, seed):
                """Of a prompt: two blocks that all prompts share, then its own. The new keys."""
                before = keys()
                prompt = conversation(1, 2 * BLOCK) + conversation(seed, (blocks - 2) * BLOCK)
                server.complete(prompt=prompt, max_tokens=1, temperature=0)
                new = blocks - (2 if before else 0)
                server.wait_until(lambda: len(keys() - before) >= new, 10, "they are kept")
                return keys() - before

            server.wait_until(lambda: server.sum("baton_worker_store_up") == 2, 10, "the store")
            shared = add(2, 2)
            first, second = add(5, 3), add(7, 4)
            assert (len(shared), len(first), len(second)) == (2, 3, 5)
            one = next(iter(second))
            assert deleted(one) == {one} and deleted(one) == set()
            assert deleted("ab" * 16) == set() and deleted("--tree", "ab" * 16) == set()
            second -= {one}
            # Of the shared blocks one continues the other, and so does all else.
            counts = [deleted("--tree", key) for key in sorted(shared)]
            assert set.union(*counts) >= shared | first and keys() <= second, counts
            kv("delete", "--all")
            assert keys() == set()
            again = add(5, 3)
            assert again == shared | first
            assert deleted("--model", "0" * 64) == set() and keys() == again
            assert deleted("--model", re.search(r"[0-9a-f]{64}", kv("stat"))[0]) == again
            assert len(add(5, 3)) == 5 and len(deleted("--all")) == 5
            server.assert_all_free()


def bad_input_is_named(binary):
    code, _, err = run(binary, "store", "--listen", "0.0.0.0:0")
    assert code == 1 and "0.0.0.0" in err, err
    code, _, err = run(binary, "kv", "stat", "--store", f"127.0.0.1:{free_port()}")
    assert code == 1 and "refused" in err.lower(), err
    folder = tempfile.mkdtemp(prefix="baton-test-")
    with open(f"{folder}/segment-00000000", "wb") as file:  # of version 9
        file.write(b"BSEG" + (9).to_bytes(4, "little") + bytes(4096))
    code, _, err = run(binary, "store", "--listen", f"unix:{folder}/s", "--disk", folder)
    assert code == 1 and "version 9" in err, err
    code, _, err = run(binary, "kv", "import", f"{folder}/none")
    assert code == 1 and "none" in err and "No such file" in err, err
    shutil.rmtree(folder)
    for size, word in (("lots", "expected a number of bytes"), ("1K", "expected a number of bytes"),
                       ("500000G", "does not fit in memory")):
        code, _, err = run(binary, "store", "--listen", "127.0.0.1:0", "--memory-bytes", size)
        assert code in (1, 2) and word in err and "--memory-bytes" in err, (size, err)


def no_store_at_the_other_end(binary):
    """A router, a store with another key, one that is stopped: operators hear it in bounded time."""
    with tempfile.TemporaryDirectory(prefix="baton-test-") as folder:
        for key in ("ours", "theirs"):
            assert run(binary, "key", "--out", f"{folder}/{key}")[0] == 0
        with Store(binary, "--memory-bytes", "4M", "--cluster-key", f"{folder}/ours") as store:
            ask = ["kv", "stat", "--store", store.address]
            assert run(binary, *ask, "--cluster-key", f"{folder}/ours")[0] == 0
            for options in ([], ["--cluster-key", f"{folder}/theirs"]):
                code, _, err = run(binary, *ask, *options)
                assert code == 1 and "key" in err, err
            os.kill(store.process.pid, signal.SIGSTOP)
            try:
                asked = [subprocess.Popen([binary, "kv", *name, "--store", store.address,
                                           "--cluster-key", f"{folder}/ours"], text=True,
                                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
                         for name in (["stat"], ["query"], ["delete", "--all"],
                                      ["export", f"{folder}/file"])]
                for one in asked:
                    err = one.communicate(timeout=20)[1]
                    assert one.returncode == 1, err
                    assert "before the deadline" in err or "did not answer" in err, err
                assert not os.path.exists(f"{folder}/file")
            finally:
                os.kill(store.process.pid, signal.SIGCONT)


def benchmark_runs(binary):
    """`baton bench store` adds and gets over both carriers, compares every byte, and measures a Redis
    beside it; what the store cannot hold is an error and not a figure."""
    with Redis() as redis:
        rdma = over_rdma(binary)
        for how in [["--carrier", "shm"], ["--carrier", "tcp"]] + ([rdma] if rdma else []):
            with Store(binary, "--memory-bytes", "4M", *how) as store:
                ask = ["bench", "store", "--store", store.address, *how, "--layers", "4",
                       "--rounds", "3", "--pool-blocks", "64"]
                code, out, err = run(binary, *ask, "--blocks", "8", "--redis", f"127.0.0.1:{redis.port}")
                assert code == 0, err
                for kind in ("add, never summed", "add, summed before", "get", "memcpy", "tcp socket", "Redis SET", "Redis GET"):
                    rate = re.search(rf"^{kind}\D*([\d.]+) GB/s", out, re.MULTILINE)
                    assert rate and float(rate[1]) > 0, (kind, out)
                code, out, err = run(binary, *ask, "--blocks", "32", "--pool-blocks", "128", timeout_s=60)
                assert code == 0, err
                code, out, err = run(binary, *ask, "--blocks", "64", "--pool-blocks", "128", timeout_s=60)
                assert code == 1 and "GB/s" not in out and err, (out, err)


def acknowledged(server, blocks, timeout_s=10):
    """The workers have heard from the store that so many of their blocks are kept."""
    server.wait_until(lambda: server.sum("baton_worker_save_blocks_total",
                                         result="acknowledged") >= blocks,
                      timeout_s, f"{blocks} acknowledged blocks")


def killed_and_back(server, names, workers=2):
    for name in names:
        was = server.pid_of(name)
        os.kill(was, signal.SIGKILL)
        server.wait_until(lambda: server.pid_of(name) != was, 20, f"another {name}")
    server.wait_until(lambda: server.sum("baton_worker_up") == workers, 20, "workers are back")
    server.wait_until(lambda: server.sum("baton_worker_store_up") == workers, 20,
                      "the store is reached")


def what_is_computed_outlives_the_workers(binary):
    """Prompt and answer of turn one, every worker killed, turn two: all full blocks come from the
    store; nothing was dropped, and the time that each block took is in the metrics."""
    with Server(binary, SMALL, *WIDE, "--store", "64M") as server:
        first = conversation(1, 200)
        turn(server, first, 64, logit_bias={"17": 100})
        full = (200 + 63) // BLOCK
        acknowledged(server, full)
        lags = server.metrics()
        assert sum(v for k, v in lags.items()
                   if k[0] == "baton_worker_save_lag_seconds_count") == full, lags
        assert server.sum("baton_worker_save_blocks_total", result="dropped") == 0
        killed_and_back(server, ["prefill-0", "decode-0"])
        second = first + [17] * 64 + conversation(2, 40)
        have, usage = turn(server, second)
        assert usage["prompt_tokens_details"]["cached_tokens"] == full * BLOCK, usage
        assert server.sum("baton_prompt_tokens_reused_total", source="store") == full * BLOCK
        timeline = why(server, usage["id"])
        assert f"tokens: own 0, peers 0, store {full * BLOCK}" in timeline, timeline
        server.assert_all_free()
    same(reference(binary, [{"prompt": second}])[0], have, "from the store")


def peer_and_store(binary):
    """A decode worker holds the answer of turn one, the store what both workers forgot: each range
    comes from where it is."""
    with Server(binary, SMALL, *WIDE, "--store", "64M") as server:
        first = conversation(1, 200)
        turn(server, first, 64, logit_bias={"17": 100})
        acknowledged(server, (200 + 63) // BLOCK)
        killed_and_back(server, ["prefill-0"])
        known_everywhere(server, (200 + 63) // BLOCK)
        # The same prompt once more, which only the store has behind it.
        second = first + [17] * 64 + conversation(2, 40)
        have, usage = turn(server, second)
        full = (200 + 63) // BLOCK * BLOCK
        assert usage["prompt_tokens_details"]["cached_tokens"] == full, usage
        peer = server.sum("baton_prompt_tokens_reused_total", source="peer")
        store = server.sum("baton_prompt_tokens_reused_total", source="store")
        assert peer + store == full and peer > 0, (peer, store)
        server.assert_all_free()
    same(reference(binary, [{"prompt": second}])[0], have, "peer and store")


def store_dies_and_comes_back(binary):
    """kill -9 and SIGSTOP of the store under load: every request is answered, blocks are let go,
    what cannot be saved is counted; when it is back it is used again."""
    with Server(binary, SMALL, *WIDE, "--store", "64M") as server:
        # Each has prompts of its own: what a worker has in its tree is not saved again.
        bodies = [{"prompt": conversation(30 + i, 150), "tokens": 24} for i in range(8)]
        got = []
        for number, these in ((signal.SIGKILL, bodies[:4]), (signal.SIGSTOP, bodies[4:])):
            store = server.pid_of("store")
            os.kill(store, number)
            got += [turn(server, b["prompt"], b["tokens"])[0] for b in these]
            server.assert_all_free(8)
            if number == signal.SIGSTOP:
                os.kill(store, signal.SIGCONT)
                server.wait_until(lambda: server.sum("baton_worker_saving_blocks") == 0, 8)
        assert server.sum("baton_worker_save_blocks_total", result="dropped") > 0
        server.wait_until(lambda: server.sum("baton_worker_store_up") == 2, 20, "it is reached")
        time.sleep(3.5)  # one that was silent gets nothing for as long
        before = server.sum("baton_worker_save_blocks_total", result="acknowledged")
        turn(server, conversation(50, 200), 4)
        acknowledged(server, before + 200 // BLOCK)
    for want, have in zip(reference(binary, bodies), got):
        same(want, have, "store lost")


def another_incarnation_saves(binary):
    """A worker that lost its router comes back as another incarnation: the store takes its blocks
    again, and it gets them."""
    with Server(binary, SMALL, *WIDE, "--store", "64M") as server:
        turn(server, conversation(60, 200), 4)
        acknowledged(server, 200 // BLOCK)
        was = server.pid_of("router")
        os.kill(was, signal.SIGKILL)
        server.process.wait_for(r"(?s)another incarnation.*another incarnation")
        server.wait_until(lambda: alive(server) and server.sum("baton_worker_store_up") == 2, 20,
                          "router, workers and store")
        before = server.sum("baton_worker_save_blocks_total", result="acknowledged")
        turn(server, conversation(61, 200), 4)
        acknowledged(server, before + 200 // BLOCK)
        assert server.sum("baton_worker_save_blocks_total", result="dropped") == 0


def alive(server):
    try:
        return server.sum("baton_worker_up") == 2
    except OSError:
        return False


if __name__ == "__main__":
    main([operators_ask, operators_delete, workers_of_serve_connect, bad_input_is_named, no_store_at_the_other_end, benchmark_runs,
          what_is_computed_outlives_the_workers, peer_and_store, store_dies_and_comes_back,
          another_incarnation_saves], sys.argv)
