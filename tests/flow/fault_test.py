"""The fault matrix: each role is killed in each phase of a request, and nobody sees it.

BATON_CHAOS=50 in the environment does everything so many times (make chaos)."""
import os
import re
import signal
import sys
import time

from baton import SLOW, SMALL, Failed, Server, main, together
from failover_test import (STEPS, body_of, running, streamed, whole,
                           workers_are_back)

ROUNDS = int(os.environ.get("BATON_CHAOS", "1"))
PROMPT = list(range(5, 75))  # five steps of 16 rows
STEP_S = 0.04 * SLOW
# A death is noticed by its connection; on a busy machine the living may be silent for a second.
PHASED = ["--silence", "10s", "--step-delay", f"{round(STEP_S * 1000)}ms", "--prefill-chunk", "16",
          "--prefix-cache-bytes", "0", "--ctx", "512", "--kv-bytes", "8M"]
TOKENS = 24
BODIES = {
    "greedy": {"prompt": PROMPT, "temperature": 0},
    "sampled": {"prompt": PROMPT[:66], "temperature": 1.1, "seed": 3, "frequency_penalty": 1,
                "n": 2},
}
BODIES = {k: dict(v, max_tokens=TOKENS, ignore_eos=True) for k, v in BODIES.items()}

# When the blow falls: so long after the request was sent, or with so many events of its stream.
PHASES = {
    "accepted": (0.0, None),
    "reserved": (0.5 * STEP_S, None),
    "gathering": (1 * STEP_S, None),
    "prefilling": (2 * STEP_S, None),
    "offering": (4 * STEP_S, None),
    "handed off": (None, 1),
    "decoding": (None, 8),
    "finishing": (None, TOKENS - 2),
}


def struck(server, kind, phase, blow):
    """One stream, and the blow in that phase of it."""
    after_s, after_events = PHASES[phase]
    body = BODIES[kind]
    dealt = []

    def heard(answer):
        if after_events is not None and not dealt and len(answer.at) >= after_events:
            dealt.append(True)
            blow()

    def strike():
        if after_s is not None:
            time.sleep(after_s)
            blow()

    return together([lambda: streamed(server, body, heard), strike])[0]


def matrix(binary, role, *options, back=workers_are_back, number=signal.SIGKILL):
    """back(server, prefill, decode): all is there again, before each blow."""
    phases = list(PHASES)
    # Two servers: one restarts a child that dies again and again later and later.
    for part in [phases[:4], phases[4:]] * ROUNDS:
        with Server(binary, SMALL, *PHASED, *options) as server:
            want = {k: whole(server, b) for k, b in BODIES.items()}
            for turn, phase in enumerate(part):
                back(server, 1, 1)
                kind = list(BODIES)[turn % 2]
                victim = server.pid_of(role)
                answer = struck(server, kind, phase, lambda: os.kill(victim, number))
                assert answer.error is None, (role, phase, answer.error)
                assert answer.said() == want[kind].said(), (role, phase)
                server.assert_all_free(5 if number == signal.SIGKILL else 8)
                if number == signal.SIGSTOP:
                    os.kill(victim, signal.SIGCONT)
                else:  # it may die after the last token: whoever is struck next is not this one
                    server.wait_until(lambda v=victim: server.pid_of(role) != v, 10, "another one")


def prefill_killed_in_every_phase(binary):
    matrix(binary, "prefill-0")


def decode_killed_in_every_phase(binary):
    matrix(binary, "decode-0")


def router_killed_in_every_phase(binary):
    """Connections break; workers cancel, come back to the new one, and nothing leaks."""
    phases = list(PHASES)
    for part in [phases[i:i + 2] for i in range(0, 8, 2)] * max(2, ROUNDS):
        with Server(binary, SMALL, *PHASED) as server:
            want = whole(server, BODIES["greedy"])
            for phase in part:
                victim = server.pid_of("router")
                try:
                    answer = struck(server, "greedy", phase,
                                    lambda: os.kill(victim, signal.SIGKILL))
                    assert answer.error == "the stream was cut" or (  # or all of it was on its way
                        phase == "finishing" and answer.said() == want.said()), answer.error
                except OSError:
                    pass  # reset, or refused
                except Exception as cut:  # noqa: BLE001 - http.client's own
                    assert "IncompleteRead" in repr(cut) or "Remote" in repr(cut), cut

                def back():
                    try:
                        return server.call("GET", "/health")["decode_workers"] == 1
                    except (OSError, Failed):
                        return False
                server.wait_until(back, 20, "the router")
                workers_are_back(server, 1, 1)
                assert whole(server, BODIES["greedy"]).said() == want.said()
                server.assert_all_free(5)


def pools_mapped(pid):
    """Pools that a process has in its address space, its own included."""
    with open(f"/proc/{pid}/maps") as maps:
        return len({line.split()[4] for line in maps if "memfd:baton-pool" in line})


def survivors_pin_a_dead_peers_memory(binary):
    """Within 1 s of its death nobody maps a dead worker's pool any more (vllm#58063)."""
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with Server(binary, SMALL, *STEPS) as server:
            whole(server, body_of("greedy", 5))
            decode, prefill = server.pid_of("decode-0"), server.pid_of("prefill-0")
            assert pools_mapped(decode) == 2
            os.kill(prefill, number)
            server.process.wait_for(r"worker lost.*prefill-0")
            end = time.monotonic() + 1
            while pools_mapped(decode) > 1:
                assert time.monotonic() < end, "still mapped"
                time.sleep(0.01)
            if number == signal.SIGSTOP:
                os.kill(prefill, signal.SIGCONT)
            workers_are_back(server, 1, 1)
            assert whole(server, body_of("greedy", 5)).error is None


def sigstop_missed_where_sigkill_is_caught(binary):
    """A stopped worker is dead after a second (Mooncake#2253). When it wakes up it is an old
    incarnation: its blocks have been used for others meanwhile, and every token is right."""
    with Server(binary, SMALL, "--step-delay", "10ms", "--ctx", "512", "--kv-bytes", "400K",
                "--decode-workers", "2") as server:
        bodies = [{"prompt": list(range(4 + i, 40 + i)), "max_tokens": 150, "ignore_eos": True,
                   "temperature": 1, "seed": i} for i in range(8)]
        want = [whole(server, b).said() for b in bodies]

        def lost(name):
            return len(re.findall(f'event="worker lost" worker={name}', server.process.log()))

        for name in ("decode-0", "prefill-0"):
            for _ in range(ROUNDS):
                before = len(re.findall('another incarnation"', server.process.log()))
                lost_before = lost(name)

                def stop():
                    running(server, 4)
                    os.kill(server.pid_of(name), signal.SIGSTOP)

                results = together([lambda b=b: streamed(server, b) for b in bodies[:6]] + [stop])
                assert [a.error for a in results[:6]] == [None] * 6
                assert [a.said() for a in results[:6]] == want[:6], name

                def wake():
                    server.wait_until(lambda: lost(name) > lost_before, 20, "the loss")
                    time.sleep(0.3)
                    os.kill(server.pid_of(name), signal.SIGCONT)
                # More than the pools hold, while it wakes up.
                results = together([lambda b=b: whole(server, b) for b in bodies] + [wake])
                assert [a.said() for a in results[:8]] == want, name
                workers_are_back(server, 1, 2)
                assert len(re.findall('another incarnation"', server.process.log())) > before
                assert [a.said() for a in together([lambda b=b: whole(server, b)
                                                    for b in bodies])] == want, name
                server.assert_all_free(5)


if __name__ == "__main__":
    main([prefill_killed_in_every_phase, decode_killed_in_every_phase, router_killed_in_every_phase,
          survivors_pin_a_dead_peers_memory, sigstop_missed_where_sigkill_is_caught], sys.argv)
