"""A worker dies in the middle of answers: the client's stream goes on, token for token the same."""
import collections
import os
import re
import signal
import sys
import time

from baton import SLOW, SMALL, Failed, Redis, Server, main, together
from gather_test import why
from hands import SIZE, Hands

PROMPT = list(range(5, 60))
SMALL_KV = ["--ctx", "512", "--kv-bytes", "8M"]
STEPS = ["--step-delay", "20ms", *SMALL_KV]

# Every way to ask that leaves its own marks in an answer. All of them run for a few seconds.
KINDS = {
    "greedy": {"prompt": PROMPT, "temperature": 0},
    "sampled": {"prompt": PROMPT[:30], "temperature": 1.2, "seed": 7, "frequency_penalty": 1.5,
                "presence_penalty": 0.5, "repetition_penalty": 1.1, "min_tokens": 90},
    "several": {"prompt": PROMPT[:33], "temperature": 1, "seed": 8, "n": 3},
    "logprobs": {"prompt": PROMPT[:16], "temperature": 0, "logprobs": 3, "echo": True},
    "prompts": {"prompt": [PROMPT[:20], PROMPT[20:45]], "temperature": 0.8, "seed": 9, "n": 2},
}


def add_stop(server):
    """One more kind: it ends with a stop string, in the middle of what it would have said."""
    KINDS.pop("stop", None)
    text = server.complete(**body_of("sampled"))["choices"][0]["text"]
    at = next(i for i in range(len(text) // 2, len(text)) if text.index(text[i:i + 6]) == i)
    KINDS["stop"] = dict(KINDS["sampled"], stop=[text[at:at + 6]])


def body_of(kind, tokens=100):
    return dict(KINDS[kind], max_tokens=tokens, ignore_eos=True)


class Answer:
    """What a client has at the end, whether it came as a stream or as a whole."""

    def __init__(self, count):
        self.texts, self.finish = [""] * count, [None] * count
        self.logprobs = [[] for _ in range(count)]
        self.usage, self.error, self.at, self.id = None, None, [], None

    def add(self, choice):
        i = choice["index"]
        self.texts[i] += choice["text"]
        self.finish[i] = choice.get("finish_reason") or self.finish[i]
        shown = choice.get("logprobs")
        if shown:
            self.logprobs[i] += list(zip(shown["tokens"], shown["token_logprobs"],
                                         shown["text_offset"]))

    def said(self):
        usage = dict(self.usage or {})
        usage.pop("prompt_tokens_details", None)
        return self.texts, self.finish, self.logprobs, usage


def choices_of(body):
    prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
    return len(prompts) * body.get("n", 1)


def streamed(server, body, heard=None):
    answer = Answer(choices_of(body))
    for now, event in server.stream(**body, stream_options={"include_usage": True}):
        answer.at.append(time.monotonic())
        answer.id = answer.id or (event or {}).get("id")
        if heard is not None:
            heard(answer)
        if event is None:
            return answer
        if "error" in event:
            answer.error = event["error"]
            return answer
        for choice in event["choices"]:
            answer.add(choice)
        answer.usage = event.get("usage") or answer.usage
    answer.error = "the stream was cut"
    return answer


def whole(server, body):
    answer = Answer(choices_of(body))
    got = server.complete(**body)
    for choice in got["choices"]:
        answer.add(choice)
    answer.usage = got["usage"]
    return answer


def failovers(server, phase):
    return server.sum("baton_failovers_total", phase=phase)


def running(server, count):
    server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") >= count,
                      10, f"{count} running sequences")


def check_same(got, want):
    for kind, answer in got.items():
        assert answer.error is None, (kind, answer.error)
        assert answer.said() == want[kind].said(), (
            kind, [(a[:60], b[:60]) for a, b in zip(answer.said(), want[kind].said()) if a != b])


def all_kinds(server, ask, disturb):
    """Every kind at once, and what is done to the server meanwhile."""
    results = together([lambda k=k: ask(server, body_of(k)) for k in KINDS] + [disturb])
    return dict(zip(KINDS, results))


def workers_are_back(server, prefill, decode):
    def there():
        try:
            health = server.call("GET", "/health")
        except Failed as none:
            health = none.body
        return (health["prefill_workers"], health["decode_workers"]) == (prefill, decode)
    server.wait_until(there, 20, "all workers")


def workers_of_a_host_are_introduced(binary):
    """Each hears of each other one, once, and again when one is back; of none that it may not connect to."""
    names = ("prefill-0", "decode-0", "decode-1")
    pairs = [(who, of) for who in names for of in names if who != of]

    def told():
        found = re.findall(r'(\S+) event="peer is here" peer=(\S+) incarnation=(\w+)', server.process.log())
        return collections.Counter(f[:2] for f in found), {f for f in found if f[1] == "decode-0"}

    with Server(binary, SMALL, *SMALL_KV, "--decode-workers", "2", "--log-level", "debug") as server:
        once = {pair: 1 for pair in pairs}
        server.wait_until(lambda: told()[0] == once, 10, "all have heard of each other")
        assert len({incarnation for _, _, incarnation in told()[1]}) == 1
        os.kill(server.pid_of("decode-0"), signal.SIGKILL)
        again = {pair: 1 + ("decode-0" in pair) for pair in pairs}
        server.wait_until(lambda: told()[0] == again, 20, "all have heard of the one that is back")
        assert len({incarnation for _, _, incarnation in told()[1]}) == 2
    with Server(binary, SMALL, *SMALL_KV, "--decode-workers", "2", "--log-level", "debug", "--store", "64M",
                "--handoff", "store") as server:
        apart = {pair: 1 for pair in pairs if "prefill-0" not in pair}
        server.wait_until(lambda: told()[0] == apart, 10, "decode workers have heard of each other")
        assert whole(server, body_of("greedy", 5)).error is None
        assert told()[0] == apart


def decode_killed(binary):
    """kill -9 of a decode worker, and of the one that went on, and of the last one."""
    with Server(binary, SMALL, *STEPS, "--decode-workers", "2") as server:
        add_stop(server)
        want = {k: whole(server, body_of(k)) for k in KINDS}
        assert want["stop"].finish == ["stop"]

        def kill_both():
            running(server, 6)
            time.sleep(0.5)
            os.kill(server.pid_of("decode-0"), signal.SIGKILL)
            time.sleep(0.3)
            os.kill(server.pid_of("decode-1"), signal.SIGKILL)

        for ask in (streamed, whole):
            before = failovers(server, "decode")
            check_same(all_kinds(server, ask, kill_both), want)
            assert failovers(server, "decode") - before >= 6
            server.assert_all_free()
            workers_are_back(server, 1, 2)


def recomputed_once(binary):
    """Less than a block of a sequence is computed again by a worker that has its full blocks."""
    with Server(binary, SMALL, *STEPS, "--decode-workers", "2") as server:
        want = whole(server, body_of("greedy", 200))
        # The same answer once more on each decode worker: both have its blocks now.
        together([lambda: server.complete(**body_of("greedy", 200))] * 4)
        decoders = ("decode-0", "decode-1")
        before = {w: server.sum("baton_recomputed_tokens_total", worker=w) for w in decoders}
        killed = []

        def kill():
            running(server, 1)
            time.sleep(0.7)
            killed.append(max(decoders, key=lambda w: server.sum("baton_worker_sequences",
                                                                 state="running", worker=w)))
            os.kill(server.pid_of(killed[0]), signal.SIGKILL)

        got = together([lambda: streamed(server, body_of("greedy", 200)), kill])[0]
        check_same({"greedy": got}, {"greedy": want})
        server.wait_until(lambda: server.sum("baton_worker_sequences") == 0, 5)
        assert failovers(server, "decode") == 1
        survivor = next(w for w in decoders if w not in killed)
        again = server.sum("baton_recomputed_tokens_total", worker=survivor) - before[survivor]
        assert 0 <= again <= 15, again
        # Its timeline has what both workers gathered.
        timeline = why(server, got.id)
        first, last = re.findall(r"gather .* own (\d+), peers (\d+), store (\d+), computed (\d+)\n", timeline)
        given, = re.findall(rf"chosen   goes on after (\d+) tokens: {survivor}[,\n]", timeline)
        assert sum(map(int, first)) == len(PROMPT), timeline
        assert sum(map(int, last)) == len(PROMPT) + int(given), timeline
        assert timeline.index(", computed") < timeline.index("goes on after"), timeline


def streams_resume_in_time(binary):
    """Within 3 s of kill -9 and of SIGSTOP the next token is there; a stopped worker that wakes up
    comes back as another incarnation, and spoils nothing."""
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with Server(binary, SMALL, *STEPS, "--decode-workers", "2") as server:
            want = {k: whole(server, body_of(k)) for k in ("greedy", "sampled")}
            times = []

            def stop():
                running(server, 4)
                time.sleep(0.5)
                times.append(time.monotonic())
                os.kill(server.pid_of("decode-0"), number)

            results = together([lambda k=k: streamed(server, body_of(k))
                                for k in ("greedy", "sampled") * 2] + [stop])[:4]
            for kind, answer in zip(("greedy", "sampled") * 2, results):
                check_same({kind: answer}, want)
                gaps = [b - a for a, b in zip(answer.at, answer.at[1:])]
                assert max(gaps) < 3 * SLOW, max(gaps)
                after = [t for t in answer.at if t > times[0]]
                assert after and after[0] - times[0] < 3 * SLOW
            if number == signal.SIGSTOP:
                os.kill(server.pid_of("decode-0"), signal.SIGCONT)
            workers_are_back(server, 1, 2)
            assert whole(server, body_of("greedy")).said() == want["greedy"].said()
            server.assert_all_free()


def one_plus_one(binary):
    """One prefill and one decode worker: either may die while answers run."""
    with Server(binary, SMALL, *STEPS) as server:
        kinds = ("greedy", "several")
        want = {k: whole(server, body_of(k)) for k in kinds}
        for name in ("decode-0", "prefill-0"):
            def kill():
                running(server, 4)
                time.sleep(0.3)
                os.kill(server.pid_of(name), signal.SIGKILL)
            results = together([lambda k=k: streamed(server, body_of(k)) for k in kinds] + [kill])
            check_same(dict(zip(kinds, results)), want)
            workers_are_back(server, 1, 1)
        server.assert_all_free()


def all_workers_lost(binary):
    """Nobody is left: streams wait until one is back, as far as their deadline goes."""
    with Server(binary, SMALL, *STEPS) as server:
        want = whole(server, body_of("sampled"))

        def kill():
            running(server, 1)
            time.sleep(0.3)
            for name in ("prefill-0", "decode-0"):
                os.kill(server.pid_of(name), signal.SIGKILL)

        got = together([lambda: streamed(server, body_of("sampled")), kill])[0]
        check_same({"sampled": got}, {"sampled": want})
        server.assert_all_free()


def place_refused(binary):
    """The prefill worker has no address that the decode worker may fetch from, so no place is given: the
    request is computed where it would be decoded, and with a store the next ones are handed over by it."""
    bodies = [{"prompt": PROMPT[i:], "max_tokens": 5, "temperature": 0, "logprobs": 1} for i in range(4)]
    carriers = {"prefill-a": ["--carrier", "shm"], "decode-a": ["--carrier", "tcp"]}
    with Server(binary, SMALL, *SIZE, "--silence", "10s", "--colocated", "1") as server:
        want = [whole(server, b).said() for b in bodies]
    with Redis() as redis:
        for store, refused in (([], len(bodies)), (["--store", redis.address], 1)):
            with Hands(binary, options=store, options_of=carriers) as hands:
                door = hands.doors[0]
                door.wait_until(lambda: door.sum("baton_worker_store_up") == 2 * len(store[:1]), 10, "the store")
                assert [whole(door, b).said() for b in bodies] == want, store
                log = hands.processes["router-0"].log()
                assert log.count("the holder has no address for a carrier that is allowed here") == refused, log
                assert failovers(door, "prefill") == refused, store
                assert door.sum("baton_handoffs_total", carrier="store") == len(bodies) - refused, store
                assert door.sum("baton_handoffs_total") == len(bodies) - refused, store
                door.assert_all_free()


def worker_hangs(binary):
    """A worker whose compute thread hangs in its first step, while its heartbeats go on, is given up
    after --stuck, and its request goes on elsewhere."""
    with Hands(binary, prefill=0, options=(), router_options=(
            "--stuck", f"{2 * SLOW}s", "--silence", "10s")) as hands:
        hands.start("prefill-h", "prefill", "--name", "prefill-h", "--router", hands.workers_at[0],
                    *SIZE, "--threads", "1", "--step-delay", "60s")
        hands.doors[0].wait_until(lambda: len(hands.status()) == 2, 30, "the worker")
        body = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
        begun = time.monotonic()
        try:
            assert hands.doors[0].complete(**body)["usage"]["completion_tokens"] == 5
            took = time.monotonic() - begun
            assert 2 * SLOW <= took < 4 * SLOW + 1, took
            assert "no progress" in hands.processes["router-0"].log()
        finally:
            hands.kill("prefill-h")


if __name__ == "__main__":
    main([workers_of_a_host_are_introduced, decode_killed, recomputed_once, streams_resume_in_time, one_plus_one, all_workers_lost,
          place_refused, worker_hangs], sys.argv)
