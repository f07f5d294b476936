"""The test above all: disaggregated output equals colocated output, token for token."""
import os
import random
import subprocess
import sys
import tempfile

from baton import MODEL, PATIENT, SLOW, SMALL, Redis, Server, main, over_rdma, together
from store_test import Store, acknowledged, run

WIDE = ["--kv-bytes", "64M", "--ctx", "512"]

# name, options
SPLITS = [
    ("shm 1+1", ["--carrier", "shm"]),
    ("tcp 1+1", ["--carrier", "tcp"]),
    ("shm 2+2", ["--carrier", "shm", "--prefill-workers", "2", "--decode-workers", "2"]),
    ("tcp 2+1", ["--carrier", "tcp", "--prefill-workers", "2"]),
    ("shm 1+2, small chunks", ["--decode-workers", "2", "--prefill-chunk", "32"]),
    ("shm 1+1, 3 threads, small batches", ["--threads", "3", "--prefill-batch-tokens", "64",
                                           "--decode-batch", "5"]),
]


STORE = ["--store", "64M", "--handoff", "store"]

# By the store: prefill and decode workers do not fetch from each other.
BY_STORE = [
    ("store, shm 1+1", [*STORE, "--carrier", "shm"]),
    ("store, tcp 1+1", [*STORE, "--carrier", "tcp"]),
    ("store 2+2, small chunks", [*STORE, "--prefill-workers", "2", "--decode-workers", "2",
                                 "--prefill-chunk", "32"]),
    ("store 1+1, small batches, no reuse", [*STORE, "--prefill-batch-tokens", "64",
                                            "--decode-batch", "5", "--prefix-cache-bytes", "0"]),
    ("both, shm 1+2", ["--store", "64M", "--handoff", "both", "--decode-workers", "2"]),
    ("direct, with a store", ["--store", "64M", "--handoff", "direct"]),
]


def prompts(vocabulary, context):
    """Lengths around every edge, from 1 token to the context limit."""
    dice = random.Random(1)
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 255, 256, 257, context - 20, context - 1]
    return [[dice.randrange(3, vocabulary) for _ in range(n)] for n in lengths]


def requests(vocabulary, context):
    """Greedy and sampled, with every parameter that changes the pick, n of 1 and 3."""
    made = []
    for i, prompt in enumerate(prompts(vocabulary, context)):
        room = min(24, context - len(prompt))
        base = {"prompt": prompt, "max_tokens": room, "ignore_eos": True, "logprobs": 2}
        made.append(dict(base, temperature=0))
        made.append(dict(base, temperature=1.0, seed=7 + i, top_p=0.9, top_k=40))
        made.append(dict(base, temperature=0.8, seed=99 + i, n=3, min_p=0.01,
                         frequency_penalty=0.3, presence_penalty=0.2, repetition_penalty=1.1))
    return made


def outcome(answer):
    """What must be equal: text, tokens and the very numbers of the log-probabilities."""
    return [(c["text"], c["finish_reason"], c["logprobs"]["tokens"],
             c["logprobs"]["token_logprobs"]) for c in answer["choices"]]


def run_all(server, bodies):
    return [outcome(server.complete(**body)) for body in bodies]


def compare(name, bodies, expected, got):
    for body, want, have in zip(bodies, expected, got):
        assert want == have, (f"{name}: prompt of {len(body['prompt'])} tokens, "
                              f"n {body.get('n', 1)}, temperature {body['temperature']}:\n"
                              f"colocated     {want}\ndisaggregated {have}")


def small_model(binary):
    vocabulary, context = 300, 512
    bodies = requests(vocabulary, context)
    with Server(binary, SMALL, *WIDE, "--colocated", "1") as server:
        expected = run_all(server, bodies)
        again = run_all(server, bodies)  # now with prefix hits
        compare("colocated, cached", bodies, expected, again)
        server.wait_until(lambda: server.sum("baton_prefix_cache_hits_total") > 0, 2, "a hit")
        assert server.sum("baton_handoffs_total") == 0
    rdma = over_rdma(binary)
    splits = SPLITS + ([("rdma 2+2", [*rdma, "--prefill-workers", "2", "--decode-workers", "2"])]
                       if rdma else [])
    for name, options in splits:
        with Server(binary, SMALL, *WIDE, *PATIENT, *options) as server:
            compare(f"{name}, cold", bodies, expected, run_all(server, bodies))
            compare(f"{name}, cached", bodies, expected, run_all(server, bodies))
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare(f"{name}, all at once", bodies, expected, loaded)
            carrier = name[:4].strip()
            # One a request but those that end with their first token.
            server.wait_until(lambda c=carrier: server.sum("baton_handoffs_total", carrier=c) >=
                              3 * (len(bodies) - 3), 3, f"{name}: a handoff for each request")
            server.assert_all_free()
            nothing_was_damaged(server, name)


def nothing_was_damaged(server, name):
    """No sum of what a block held before was taken for one of what it holds, by a worker or for the store."""
    assert server.sum("baton_checksum_failures_total") == 0, name
    log = server.process.log()
    assert "checksum" not in log, (name, log)


def stores_are_up(server):
    server.wait_until(lambda: server.sum("baton_worker_store_up") ==
                      server.sum("baton_worker_up") > 0, 10, "the store is reached by all")


def check_by_store(server, name, bodies, computed_before):
    """What ended after its first token was handed over in the way of that name, and nothing was
    computed twice."""
    carrier = "store" if name.startswith("store") else "shm"
    handed = 3 * (len(bodies) - 3)
    server.wait_until(lambda: server.sum("baton_handoffs_total", carrier=carrier) >= handed, 5,
                      f"{name}: a handoff for each request")
    assert server.sum("baton_handoffs_total") == server.sum("baton_handoffs_total", carrier=carrier)
    assert server.sum("baton_failovers_total") == 0, name
    server.assert_all_free()
    assert server.sum("baton_recomputed_tokens_total") == computed_before, name
    nothing_was_damaged(server, name)


def by_the_store(binary, splits=BY_STORE):
    """The same in the other ways of handing over."""
    vocabulary, context = 300, 512
    bodies = requests(vocabulary, context)
    with Server(binary, SMALL, *WIDE, "--colocated", "1") as server:
        expected = run_all(server, bodies)
    for name, options in splits:
        with Server(binary, SMALL, *WIDE, *PATIENT, *options) as server:
            stores_are_up(server)
            compare(f"{name}, cold", bodies, expected, run_all(server, bodies))
            compare(f"{name}, cached", bodies, expected, run_all(server, bodies))
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare(f"{name}, all at once", bodies, expected, loaded)
            check_by_store(server, name, bodies, 0)


def by_redis(binary):
    """The store is a real Redis. What only a handoff needs, the partial block, has a minute there; a full
    one stays."""
    with Redis() as redis:
        with Server(binary, SMALL, *WIDE, "--store", redis.address, "--handoff", "store") as server:
            stores_are_up(server)
            server.complete(prompt=list(range(5, 41)), max_tokens=2, ignore_eos=True)
            assert server.sum("baton_handoffs_total", carrier="store") == 1
        script = ("local n = {} for _, k in ipairs(redis.call('KEYS', 'baton:b:*')) do "
                  "n[#n + 1] = redis.call('PTTL', k) end return n")
        left_ms = sorted(int(line) for line in subprocess.run(
            ["redis-cli", "-p", str(redis.port), "EVAL", script, "0"], check=True, capture_output=True,
            text=True, timeout=30).stdout.split())
        assert left_ms[:-1] == [-1, -1] and 0 < left_ms[-1] <= 60000, left_ms
        by_the_store(binary, [("store, Redis 2+1", ["--store", redis.address, "--handoff", "store",
                                                    "--prefill-workers", "2"])])


def swapped(binary):
    """Blocks for two and a half of nine sequences: they go to memory of the host and come back."""
    dice = random.Random(2)
    bodies = [{"prompt": [dice.randrange(3, 300) for _ in range(20 + 5 * i)], "max_tokens": 190,
               "ignore_eos": True, "logprobs": 2, "temperature": i % 3 / 2, "seed": i,
               "frequency_penalty": 0.4 * (i % 2), "n": 2 if i == 4 else 1} for i in range(8)]
    for kv, block_bytes in (("f16", 6144), ("f32", 12288), ("q8_0", 3264)):
        wide = ["--ctx", "256", "--kv-dtype", kv, "--silence", "10s"]
        narrow = [*wide, "--kv-bytes", str(36 * block_bytes)]
        with Server(binary, SMALL, *wide, "--kv-bytes", "64M", "--colocated", "1") as server:
            expected = run_all(server, bodies)
        few = ["--swap-bytes", str(12 * block_bytes)]
        for options in ([], few) if kv != "f16" else ([], ["--prefix-cache-bytes", "0"], few,
                                                      ["--colocated", "1"]):
            name = f"swapped, {kv} {options}"
            with Server(binary, SMALL, *narrow, *options) as server:
                got = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
                compare(name, bodies, expected, got)
                tokens = sum((b["max_tokens"] - 1) * b["n"] for b in bodies)
                server.wait_until(lambda t=tokens: server.sum("baton_worker_tokens_total",
                                                              kind="decode") == t, 5,
                                  f"{name}: a heartbeat after the last token")
                server.assert_all_free()
                out = server.sum("baton_swap_blocks_total", direction="out")
                back = server.sum("baton_swap_blocks_total", direction="in")
                assert out > 0 and back > 0, (name, out, back)
                assert server.sum("baton_swap_bytes_total", direction="in") == back * block_bytes
                again = server.sum("baton_recomputed_tokens_total")
                assert (again > 0) == ("--swap-bytes" in options), (name, again)


Q8_0 = ["--kv-dtype", "q8_0", "--prefill-chunk", "64"]


def q8_0_pool(binary):
    """Keys and values as q8_0: other answers than with f16, and the same in every way of serving."""
    bodies = requests(300, 512)[::2]
    with Server(binary, SMALL, *WIDE, *Q8_0, "--colocated", "1") as server:
        assert "blocks of 3264 bytes" in server.process.log()
        expected = run_all(server, bodies)
        compare("q8_0 colocated, cached", bodies, expected, run_all(server, bodies))
    with Server(binary, SMALL, *WIDE, "--colocated", "1") as server:
        assert "blocks of 6144 bytes" in server.process.log()
        assert run_all(server, bodies[-3:]) != expected[-3:]
    for options in (["--carrier", "shm"], ["--carrier", "tcp", "--threads", "3"], [*STORE, "--carrier", "tcp"]):
        with Server(binary, SMALL, *WIDE, *PATIENT, *Q8_0, *options) as server:
            if STORE[0] in options:
                stores_are_up(server)
            compare(f"q8_0 {options}, cold", bodies, expected, run_all(server, bodies))
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare(f"q8_0 {options}, all at once", bodies, expected, loaded)
            assert server.sum("baton_handoffs_total") > 0
            server.assert_all_free()


def q8_0_exported(binary):
    """Blocks of q8_0 leave a store as a file and serve from another one; a worker of f16 is refused there."""
    body = {"prompt": list(range(5, 205)), "max_tokens": 8, "ignore_eos": True, "logprobs": 2, "temperature": 0}
    with tempfile.TemporaryDirectory(prefix="baton-test-") as folder:
        file = os.path.join(folder, "blocks")
        with Store(binary, "--memory-bytes", "16M") as store:
            with Server(binary, SMALL, *WIDE, *Q8_0, "--store", store.address) as server:
                stores_are_up(server)
                expected = outcome(server.complete(**body))
                acknowledged(server, 200 // 16)
            code, out, err = run(binary, "kv", "export", "--store", store.address, file)
            assert code == 0, out + err
        with Store(binary, "--memory-bytes", "16M") as store:
            code, out, err = run(binary, "kv", "import", "--store", store.address, file)
            assert code == 0, out + err
            with Server(binary, SMALL, *WIDE, *Q8_0, "--store", store.address) as server:
                stores_are_up(server)
                answer = server.complete(**body)
                assert outcome(answer) == expected
                assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 192 - 16, answer["usage"]
            with Server(binary, SMALL, *WIDE, "--store", store.address) as server:
                server.wait_until(lambda: "Q8_0" in server.process.log(), 10, "the store refuses f16")
                assert "usage" in server.complete(**body)


def real_model(binary):
    text = "The history of the city begins with a river, a bridge and a market. " * 12
    bodies = [{"prompt": text[:length], "max_tokens": 24, "temperature": t, "seed": 5,
               "logprobs": 1}
              for length in ((1, 40, 300, 800) if SLOW == 1 else (1, 300)) for t in (0, 0.9)]
    with Server(binary, MODEL, "--ctx", "1024", "--colocated", "1") as server:
        expected = run_all(server, bodies)
    for carrier in ("shm", "tcp"):
        with Server(binary, MODEL, *PATIENT, "--ctx", "1024", "--carrier", carrier) as server:
            compare(carrier, bodies, expected, run_all(server, bodies))
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare(f"{carrier}, all at once", bodies, expected, loaded)
            server.assert_all_free()


def known_answers(binary):
    with Server(binary, MODEL, "--ctx", "1024") as server:
        answer = server.complete(prompt="The capital of France is", max_tokens=4, temperature=0)
        assert answer["choices"][0]["text"].startswith(" Paris."), answer
        answer = server.chat(messages=[{"role": "user", "content": "Name the capital of France."}],
                             temperature=0)
        assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
        assert answer["choices"][0]["finish_reason"] == "stop"


if __name__ == "__main__":
    main([known_answers, small_model, by_the_store, by_redis, swapped, q8_0_pool, q8_0_exported, real_model],
         sys.argv)
