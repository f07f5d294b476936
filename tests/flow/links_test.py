"""Links that are lost and processes that stop, at random moments, twenty times each: streams go on within the
promised time, no request outlives its deadline, every token is right, and nothing leaks. Hosts are network
namespaces, so this needs root.

BATON_LINK_SEED in the environment repeats a run: it is printed."""
import os
import random
import signal
import sys
import time

from baton import SLOW, SMALL, main, together
from failover_test import streamed, whole, workers_are_back
from network import Network, skip_unless_possible
from network_test import Cluster

ROUNDS = int(os.environ.get("BATON_LINK_ROUNDS", "20"))
HOSTS = ["router", "prefill0", "prefill1", "decode0", "decode1"]
DEADLINE_S = 12
SIZE = ["--ctx", "512", "--kv-bytes", "8M", "--step-delay", "10ms", "--prefill-chunk", "32",
        "--prefix-cache-bytes", "0"]
BODIES = [dict({"prompt": list(range(5 + i, 5 + i + length)), "max_tokens": 70, "ignore_eos": True}, **more)
          for i, (length, more) in enumerate([
              (150, {"temperature": 0}),
              (40, {"temperature": 1.1, "seed": 3, "frequency_penalty": 1}),
              (90, {"temperature": 0.9, "seed": 4, "n": 2}),
              (200, {"temperature": 0})])]


def longest_silence(answer, started):
    times = [started, *answer.at]
    return max(b - a for a, b in zip(times, times[1:]))


def twenty_times(binary, name, silence_s, blow):
    """blow(net, server, dice): does the harm; returns (what it was, what undoes it)."""
    seed = int(os.environ.get("BATON_LINK_SEED", random.randrange(1 << 30)))
    print(f"      {name}: BATON_LINK_SEED={seed}", flush=True)
    dice = random.Random(seed)
    with Network(HOSTS) as net:
        with Cluster(net, binary, SMALL, HOSTS[1:], SIZE,
                     router=["--request-timeout", f"{DEADLINE_S * SLOW}s"]) as server:
            want = [whole(server, body).said() for body in BODIES]
            worst = 0
            for number in range(ROUNDS):
                after_s, for_s = dice.uniform(0, 1.2), dice.choice((0.4, 1.5, 2.5, 4))
                done = []

                def harm():
                    time.sleep(after_s)
                    what, undo = blow(net, server, dice)
                    done.append(what)
                    time.sleep(for_s)
                    undo()

                started = time.monotonic()
                answers = together([lambda b=b: streamed(server, b) for b in BODIES] + [harm])[:-1]
                told = f"round {number}, {done[0]} after {after_s:.2f} s for {for_s} s"
                for answer, said in zip(answers, want):
                    assert answer.error is None, (told, answer.error)
                    assert answer.said() == said, told
                    assert answer.at[-1] - started < DEADLINE_S * SLOW + 1, told
                    worst = max(worst, longest_silence(answer, started))
                    assert longest_silence(answer, started) < silence_s * SLOW, (
                        told, longest_silence(answer, started))
                workers_are_back(server, 2, 2)
                server.assert_all_free(5)
            server.assert_same_workers()
            print(f"      {name}: longest silence of a stream {worst:.2f} s", flush=True)


def links_lost(binary):
    """The control link, the data link or both of one worker: pulled (neither side sees it), or down at its own
    port. Nothing is heard over it for a while."""
    def blow(net, server, dice):
        del server
        host, down = dice.choice(HOSTS[1:]), dice.random() < 0.5
        links = dice.choice((["control"], ["data"], ["control", "data"]))
        for link in links:
            net.port(host, link, False) if down else net.cut(host, link)

        def undo():
            for link in links:
                net.port(host, link, True) if down else net.join(host, link)
        return f"{'+'.join(links)} of {host} {'down' if down else 'pulled'}", undo

    # A silent router is lost after 1 s and streams go on within 3 s; of a peer's data link nothing tells but its
    # own 3 s of silence, and a second try may meet the same link: 3 s to connect.
    twenty_times(binary, "links", 3 + 3 + 3, blow)


def workers_stopped(binary):
    """SIGSTOP of one worker: its streams go on within 3 s of it."""
    def blow(net, server, dice):
        del net
        host = dice.choice(HOSTS[1:])
        os.kill(server.children[host].pid, signal.SIGSTOP)
        return f"{host} stopped", lambda: os.kill(server.children[host].pid, signal.SIGCONT)

    twenty_times(binary, "stopped", 3, blow)


if __name__ == "__main__":
    skip_unless_possible()
    main([links_lost, workers_stopped], sys.argv)
