"""The second turn of a chat: the prefill worker fetches from the decode worker what that generated."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading

from baton import SMALL, Failed, Server, main
from hands import Hands

# A step takes so long that fetching is sooner than computing, as with a model of real size.
# Nobody falls silent here, and on a busy machine the living may for a second.
WIDE = ["--kv-bytes", "64M", "--ctx", "1024", "--block-tokens", "16", "--step-delay", "20ms",
        "--silence", "10s"]
BLOCK = 16


def turn(server, prompt, tokens=64, **more):
    body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
            "logprobs": 1, **more}
    answer = server.complete(**body)
    choice = answer["choices"][0]
    return choice, dict(answer["usage"], id=answer["id"])


def why(server, request_id):
    done = subprocess.run([server.binary, "why", "--server", f"127.0.0.1:{server.port}",
                           request_id], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def conversation(seed, count):
    dice = random.Random(seed)
    return [dice.randrange(3, 300) for _ in range(count)]


def reference(binary, bodies):
    with Server(binary, SMALL, *WIDE, "--colocated", "1") as server:
        return [turn(server, **b)[0] for b in bodies]


def same(want, have, what):
    for field in ("text", "finish_reason"):
        assert want[field] == have[field], f"{what}: {want} != {have}"
    assert want["logprobs"]["token_logprobs"] == have["logprobs"]["token_logprobs"], what
    assert want["logprobs"]["tokens"] == have["logprobs"]["tokens"], what


def known_everywhere(server, blocks):
    server.wait_until(lambda: server.sum("baton_directory_keys") >= blocks, 5, "keys are known")


def second_turn_pulls_from_decode(binary):
    """Prompts are token ids; a bias makes the answer of turn one known."""
    for carrier in ("shm", "tcp"):
        with Server(binary, SMALL, *WIDE, "--carrier", carrier) as server:
            first = conversation(1, 200)
            turn(server, first, 64, logit_bias={"17": 100})
            generated = [17] * 64
            known_everywhere(server, (200 + 63) // BLOCK)
            second = first + generated + conversation(2, 40)
            choice2, usage2 = turn(server, second)
            cached = usage2["prompt_tokens_details"]["cached_tokens"]
            # The last token of turn one was never an input, so it has no keys and values.
            full = (len(first) + len(generated) - 1) // BLOCK * BLOCK
            assert cached == full, f"{carrier}: {cached} tokens were reused, expected {full}"
            local = len(first) // BLOCK * BLOCK
            assert server.sum("baton_prompt_tokens_reused_total", source="peer") == full - local
            assert server.sum("baton_prompt_tokens_reused_total", source="local") == local
            server.assert_all_free()
            timeline = why(server, usage2["id"])
            connection, answer = server.request("POST", "/v1/completions", {"prompt": first, "max_tokens": 1})
            header, body = answer.getheader("X-Request-Id"), json.loads(answer.read())
            connection.close()
            assert header == body["id"] and f"request {header}\n" in why(server, header), (header, body)
            assert "chosen   pull, then prefill: prefill-0 from decode-0" in timeline, timeline
            assert f"tokens: own {local}, peers {full - local}, store 0" in timeline, timeline
            assert f"by {carrier}: ok" in timeline and "decode   64 tokens" in timeline, timeline
        want = reference(binary, [{"prompt": second}])[0]
        same(want, choice2, carrier)


def prefill_pulls_from_prefill(binary):
    """Two prefill workers: what one has computed, the other need not. A request that ends with its first
    token is not handed over, so no decode worker has it."""
    with Server(binary, SMALL, *WIDE, "--prefill-workers", "2", "--place", "pull") as server:
        prompt = conversation(3, 640)
        turn(server, prompt, 1)
        known_everywhere(server, 640 // BLOCK)
        got = [None] * 4

        def ask(i):
            got[i] = turn(server, prompt + conversation(10 + i, 20), 4)
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for choice, usage in got:
            assert usage["prompt_tokens_details"]["cached_tokens"] >= 640, usage
        assert server.sum("baton_prompt_tokens_reused_total", source="peer") >= 640
        timelines = "".join(why(server, usage["id"]) for _, usage in got)
        assert re.search(r"chosen   pull, then prefill: prefill-(\d) from prefill-(?!\1)", timelines), timelines
        server.assert_all_free()
    bodies = [{"prompt": prompt + conversation(10 + i, 20), "tokens": 4} for i in range(4)]
    for want, (have, _) in zip(reference(binary, bodies), got):
        same(want, have, "p from p")


def decode_pulls_from_decode(binary):
    """The only prefill worker is gone: the decode worker that computes the second turn fetches what the
    other one generated."""
    with Hands(binary, decode=2, options=WIDE[4:8], router_options=("--silence", "10s", "--place",
                                                                    "pull")) as hands:
        door = hands.doors[0]
        first = conversation(7, 200)
        turn(door, first, 64, logit_bias={"17": 100})
        known_everywhere(door, (200 + 63) // BLOCK)
        hands.kill("prefill-a")
        door.wait_until(lambda: door.sum("baton_worker_up") == 2, 10, "its loss")
        second = first + [17] * 64 + conversation(8, 40)
        have, usage = turn(door, second)
        full = (200 + 63) // BLOCK * BLOCK
        assert usage["prompt_tokens_details"]["cached_tokens"] == full, usage
        assert door.sum("baton_prompt_tokens_reused_total", source="peer") == full
        door.assert_all_free()
    same(reference(binary, [{"prompt": second}])[0], have, "d from d")


def a_holder_killed_costs_time_only(binary):
    """kill -9 of the decode worker just before, and while, it is asked for its blocks."""
    with Server(binary, SMALL, *WIDE, "--decode-workers", "2") as server:
        bodies, got = [], []
        for i in range(4):
            first = conversation(20 + i, 300)
            choice, usage = turn(server, first, 32)
            second = first + conversation(40 + i, 300)
            known_everywhere(server, 1)
            answers = []

            def ask():
                try:
                    answers.append(turn(server, second, 1))
                except Failed as problem:
                    answers.append(problem)
            thread = threading.Thread(target=ask)
            if i % 2 == 0:
                os.kill(server.pid_of("decode-0"), signal.SIGKILL)
                thread.start()
            else:
                thread.start()
                os.kill(server.pid_of("decode-0"), signal.SIGKILL)
            thread.join()
            assert not isinstance(answers[0], Failed), answers[0]
            bodies.append({"prompt": second, "tokens": 1})
            got.append(answers[0][0])
            server.wait_until(lambda: server.sum("baton_worker_up") == 3, 10, "it is back")
        server.assert_all_free()
    for want, have in zip(reference(binary, bodies), got):
        same(want, have, "holder killed")


def local_on_the_holder(binary):
    """A short remainder is computed where the rest is: nothing is handed over."""
    with Server(binary, SMALL, *WIDE, "--local-tokens", "64") as server:
        first = conversation(5, 200)
        turn(server, first, 8)
        known_everywhere(server, 200 // BLOCK)
        before = server.sum("baton_handoffs_total")
        # The prefill worker has the same blocks, but it would have to find a place first.
        turn(server, first, 8)
        server.assert_all_free()
        assert server.sum("baton_handoffs_total") == before


if __name__ == "__main__":
    main([second_turn_pulls_from_decode, prefill_pulls_from_prefill, decode_pulls_from_decode,
          a_holder_killed_costs_time_only, local_on_the_holder], sys.argv)
