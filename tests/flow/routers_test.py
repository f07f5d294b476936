"""Several routers over the same workers: neither assumes what only a worker can grant, and one may
die while the other's requests go on."""
import signal
import sys
import threading
import time

from baton import SLOW, SMALL, Process, main, together
from failover_test import streamed, whole
from hands import SIZE, Hands

PROMPT = list(range(5, 60))
ALIVE_S = 1  # what a dead router leaves behind is gone after this


def body_of(seed, tokens=40, prompt=PROMPT):
    return {"prompt": prompt[:30 + seed], "max_tokens": tokens, "ignore_eos": True,
            "temperature": 0.9, "seed": seed}


def held(status):
    return sum(w["held"] + w["leases"] + w["lendings"] + w["sequences"]["running"] +
               w["sequences"]["waiting"] for w in status.values())


def assert_at_rest(hands, router, within_s=ALIVE_S):
    """Every worker, as that router sees it: nothing held, and all blocks add up."""
    end = time.monotonic() + within_s * SLOW
    while True:
        status = hands.status(router)
        if held(status) == 0:
            break
        assert time.monotonic() < end, status
        time.sleep(0.05)
    for w in status.values():
        assert w["adds_up"], w
        assert w["blocks"]["free"] + w["blocks"]["cached"] == w["blocks"]["total"], w


def one_worker_filled_by_two(binary):
    """Twice as many streams through each of two routers as the decode worker takes at once, and KV
    that does not hold them all: nobody is lost, and it never runs more than it granted."""
    with Hands(binary, routers=2, options=("--step-delay", "3ms", "--decode-batch", "4", "--kv-bytes",
                                           "220K")) as hands:
        want = {i: whole(hands.doors[0], body_of(i)).said() for i in range(8)}
        seen, over = [], []

        def watch():
            while not over:
                seen.append(hands.status(0)["decode-a"])
                time.sleep(0.05)

        def ask():
            try:
                return together([lambda d=d, i=i: streamed(d, body_of(i))
                                 for d in hands.doors for i in range(8)])
            finally:
                over.append(True)
        answers = together([ask, watch])[0]
        for n, answer in enumerate(answers):
            assert answer.error is None, answer.error
            assert answer.said() == want[n % 8], n
        assert max(w["sequences"]["running"] for w in seen) <= 4
        assert max(w["sequences"]["waiting"] for w in seen) >= 1, "it was never full"
        for i in range(2):
            assert_at_rest(hands, i)
            assert hands.doors[i].sum("baton_request_failures_total") == 0


def ids_say_whose_they_are(binary):
    """Both routers count their requests from one on: their ids differ in the number of the router,
    and each worker knows both."""
    with Hands(binary, routers=2, router_options=("--log-level", "debug")) as hands:
        together([lambda d=d: d.complete(**body_of(1, 5)) for d in hands.doors] * 3)
        ids = []
        for i in range(2):
            log = hands.processes[f"router-{i}"].log()
            ids.append({line.split(" request=")[1].split()[0] for line in log.splitlines()
                        if 'event="routed"' in line})
            assert len(ids[i]) == 3, log
            assert len({x[:6] for x in ids[i]}) == 1, ids
        assert not ids[0] & ids[1]
        assert {x[:6] for x in ids[0]} != {x[:6] for x in ids[1]}
        # Each knows what the other has placed: it chooses by that too.
        assert set(hands.status(0)) == set(hands.status(1)) == {"prefill-a", "decode-a"}


def router_killed(binary):
    """kill -9 of a router with requests in every phase: its clients are cut at once, the other's see
    nothing, its blocks are free within a second, and it finds its workers again."""
    with Hands(binary, routers=2, decode=2, options=("--step-delay", "10ms", "--prefill-chunk",
                                                     "16")) as hands:
        first, second = hands.doors
        want = {i: whole(first, body_of(i, 80)).said() for i in range(4)}
        incarnations = {n: w["incarnation"] for n, w in hands.status(1).items()}
        for blow_s in (0.02, 0.15, 0.4):
            cut_at = []

            def doomed(i):
                try:
                    answer = streamed(first, body_of(i, 300))
                    assert answer.error is not None, "a dead router answered"
                except Exception as cut:  # noqa: BLE001 - reset, refused, or an incomplete body
                    assert not isinstance(cut, AssertionError), cut
                cut_at.append(time.monotonic())

            def blow():
                time.sleep(min(blow_s * SLOW, 1))  # an answer takes 3 s at least
                hands.kill("router-0")
                return time.monotonic()
            results = together([lambda i=i: streamed(second, body_of(i, 80)) for i in range(4)] +
                               [lambda i=i: doomed(i) for i in range(6)] + [blow])
            for i in range(4):
                assert results[i].error is None, results[i].error
                assert results[i].said() == want[i], i
            assert max(cut_at) - results[-1] < 1 * SLOW, "a client was not cut"
            assert_at_rest(hands, 1)
            assert {n: w["incarnation"] for n, w in hands.status(1).items()} == incarnations
            assert second.sum("baton_failovers_total") == 0
            hands.start_router(0)
            hands.processes["router-0"].wait_for(r'event="ready"')
            assert whole(first, body_of(2, 80)).said() == want[2]


def nothing_is_left_of_a_lost_router(binary):
    """It alone has requests when it dies: the other one sees all of it go within a second."""
    with Hands(binary, routers=2, options=("--step-delay", "20ms")) as hands:
        first, second = hands.doors

        def doomed(i):
            try:
                streamed(first, body_of(i, 400))
            except Exception:  # noqa: BLE001 - cut
                pass
        threads = [threading.Thread(target=doomed, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        second.wait_until(lambda: hands.status(1)["decode-a"]["sequences"]["running"] >= 4)
        # The other's idea of the load: none of it is its own.
        assert hands.status(1)["decode-a"]["placed_sequences"] == 0
        hands.kill("router-0")
        assert_at_rest(hands, 1)
        for t in threads:
            t.join()
        assert hands.status(1)["decode-a"]["blocks"]["cached"] > 0, "the cache was flushed"


def router_leaves(binary):
    """SIGTERM of one router: it finishes, and the connections between workers are left alone."""
    with Hands(binary, routers=2, options=("--step-delay", "10ms")) as hands:
        first, second = hands.doors
        want = {i: whole(first, body_of(i, 80)).said() for i in range(4)}

        begun = [threading.Event() for _ in range(4)]  # what it has taken it finishes

        def leave():
            assert all([b.wait(20 * SLOW) for b in begun]), "a stream did not begin"
            hands.processes["router-0"].process.send_signal(signal.SIGTERM)
            assert hands.processes["router-0"].process.wait(20 * SLOW) == 0
        results = together([lambda i=i: streamed(first, body_of(i, 80), lambda _: begun[i].set())
                            for i in range(4)] +
                           [lambda i=i: streamed(second, body_of(i, 80)) for i in range(4)] + [leave])
        for n, answer in enumerate(results[:8]):
            assert answer.error is None and answer.said() == want[n % 4], (n, answer.error)
        # Handoffs go on over the connections that were there.
        assert whole(second, body_of(3, 80)).said() == want[3]
        assert second.sum("baton_failovers_total") == 0
        assert_at_rest(hands, 1)


def worker_stopped_then_awake(binary):
    """SIGSTOP of a decode worker: both routers give it up and go on elsewhere; awake again, it serves
    both, and spoils nothing."""
    with Hands(binary, routers=2, decode=2, options=("--step-delay", "10ms"),
               router_options=("--silence", f"{SLOW}s")) as hands:
        want = {i: whole(hands.doors[0], body_of(i, 120)).said() for i in range(4)}

        def stop():
            time.sleep(0.5)
            hands.kill("decode-a", signal.SIGSTOP)
            time.sleep(2.5 * SLOW)
            hands.kill("decode-a", signal.SIGCONT)
        results = together([lambda d=d, i=i: streamed(d, body_of(i, 120))
                            for d in hands.doors for i in range(4)] + [stop])
        for n, answer in enumerate(results[:8]):
            assert answer.error is None, answer.error
            assert answer.said() == want[n % 4], n
        for i in range(2):
            hands.doors[i].wait_until(lambda i=i: len(hands.status(i)) == 3, 10, "the worker")
            assert_at_rest(hands, i)
        results = together([lambda d=d, i=i: streamed(d, body_of(i, 120))
                            for d in hands.doors for i in range(4)])
        assert [a.said() for a in results] == [want[n % 4] for n in range(8)]


def one_router_only_is_there(binary):
    """A worker works for the router that it reaches, and for the other as soon as it is there; a
    router that is named twice is refused."""
    with Hands(binary, routers=2) as hands:
        hands.kill("router-1")
        assert hands.doors[0].complete(**body_of(1, 5))["usage"]["completion_tokens"] == 5
        hands.start_router(1)
        hands.processes["router-1"].wait_for(r'event="ready"')
        assert hands.doors[1].complete(**body_of(1, 5))["usage"]["completion_tokens"] == 5
        twice = ",".join([hands.workers_at[0]] * 2)
        process = Process("twice", [binary, "decode", "--router", twice, "--name", "twice", *SIZE,
                                    "--cluster-key", hands.key, SMALL])
        assert process.process.wait(60) != 0
        assert "twice" in process.log().split("reason=")[-1], process.log()
        process.discard()


if __name__ == "__main__":
    main([one_worker_filled_by_two, ids_say_whose_they_are, router_killed,
          nothing_is_left_of_a_lost_router, router_leaves, worker_stopped_then_awake,
          one_router_only_is_there], sys.argv)
