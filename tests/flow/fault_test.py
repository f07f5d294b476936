"""The fault matrix: each role is killed in each phase of a request, and nobody sees it.

BATON_CHAOS=50 in the environment does everything so many times (make chaos)."""
import os
import re
import signal
import sys
import time

from baton import SLOW, SMALL, Failed, Server, main, together
from failover_test import (STEPS, body_of, choices_of, failovers, running, streamed, whole,
                           workers_are_back)
from gather_test import why

ROUNDS = int(os.environ.get("BATON_CHAOS", "1"))
TRIES = 6  # on a busy machine a blow may fall too late
PROMPT = list(range(5, 75))  # five steps of 16 rows
STEP_S = 0.04 * SLOW
# A death is noticed by its connection; on a busy machine the living may be silent for a second.
PHASED = ["--silence", "10s", "--step-delay", f"{round(STEP_S * 1000)}ms", "--prefill-chunk", "16",
          "--ctx", "512", "--kv-bytes", "8M", "--place", "pull"]
# Then nothing but a store has anything of a prompt that was computed before.
NO_CACHE = ["--prefix-cache-bytes", "0"]
TOKENS = 24
BODIES = {
    "greedy": {"prompt": PROMPT, "temperature": 0},
    "sampled": {"prompt": PROMPT[:66], "temperature": 1.1, "seed": 3, "frequency_penalty": 1,
                "n": 2},
}
BODIES = {k: dict(v, max_tokens=TOKENS, ignore_eos=True) for k, v in BODIES.items()}
# An answer that is known beforehand; what continues it finds its blocks where it was decoded, or in
# the store, and one step of six rows is left.
SEED = {"prompt": PROMPT[:36], "temperature": 0, "max_tokens": 30, "ignore_eos": True,
        "logit_bias": {"17": 100}}
GATHERED = 64
GATHERS = {k: dict(v, prompt=PROMPT[:36] + [17] * 34) for k, v in BODIES.items()}

# When the blow falls: so long after the router had the request, but before its first token; or with
# so many events of each of its sequences.
PHASES = {
    "accepted": (0.0, None),
    "reserved": (0.5 * STEP_S, None),
    "gathering": (0.0, None),
    "prefilling": (2 * STEP_S, None),
    "offering": (3 * STEP_S, None),
    "handed off": (None, 1),
    "decoding": (None, 8),
    "finishing": (None, TOKENS - 2),
}
# A role that the router must have seen fail with the request on it, when the blow fell there.
STRUCK = {"prefill-0": ("prefilling", "offering"), "decode-0": ("decoding", "finishing")}


def wanted(server):
    """What is to be said, by the prompts that are asked: a salt changes no token."""
    bodies = [*BODIES.items(), *GATHERS.items()]
    answers = together([lambda b=b: whole(server, dict(b, cache_salt="wanted")) for _, b in bodies])
    count = len(BODIES)
    return dict(zip(BODIES, answers[:count])), dict(zip(GATHERS, answers[count:]))


def has_store(server):
    return "--store" in server.options


def seed(server, salt):
    """Those who may be asked for it know it."""
    def there():
        if has_store(server):
            return server.sum("baton_worker_save_blocks_total", result="acknowledged")
        return server.sum("baton_directory_keys")
    before = there()
    whole(server, dict(SEED, cache_salt=salt))
    server.wait_until(lambda: there() >= before + GATHERED // 16, 10, "what is to be gathered")


def struck(server, kind, phase, blow, salt, fell):
    """One stream, and the blow in that phase of it. fell gets how many events there were before it."""
    after_s, after_events = PHASES[phase]
    body = dict((GATHERS if phase == "gathering" else BODIES)[kind], cache_salt=salt)
    source = server.pid_of("store") if has_store(server) and phase == "gathering" else None
    if phase == "gathering":
        seed(server, salt)
    if source is not None:  # asked, and silent for a part of the 250 ms that it is waited for
        os.kill(source, signal.SIGSTOP)
        after_s = 0.1
    events = []

    def deal():
        fell.append(len(events))
        blow()

    def heard(_):
        events.append(True)
        if after_events is not None and not fell and len(events) >= after_events * choices_of(body):
            deal()

    def strike():
        if after_s is None:
            return
        end = time.monotonic() + 10 * SLOW
        while not events and server.sum("baton_num_requests_waiting") == 0:
            assert time.monotonic() < end, "the router does not have it"
            time.sleep(0.001)
        time.sleep(after_s)
        deal()
        if source is not None and blow.victim != source:
            os.kill(source, signal.SIGCONT)

    return together([lambda: streamed(server, body, heard), strike])[0]


class Blow:
    def __init__(self, victim, number):
        self.victim, self.number = victim, number

    def __call__(self):
        os.kill(self.victim, self.number)


def in_phase(phase, fell):
    """Before the first token, where that ends the phase."""
    return PHASES[phase][0] is None or fell == [0]


def ranges_lost(server):
    """Blocks were to come from somewhere, and did not."""
    name = "baton_gather_ranges_total"
    return server.sum(name) - server.sum(name, status="ok")


def check_gathered(server, role, answer, lost_before):
    """It was looked for, wherever it came from in the end."""
    if role == "store":
        assert ranges_lost(server) > lost_before
        return
    timeline = why(server, answer.id)
    if has_store(server):
        assert "blocks 0 to 4 from store" in timeline, timeline
        return
    found = re.findall(r"tokens: own (\d+), peers (\d+)", timeline)
    assert any(int(own) + int(peers) >= 32 for own, peers in found), timeline


def check_at_rest(server, role):
    """All is free within 1 s of a death: on the workers, and in a store that lives."""
    server.assert_all_free(1, looks=10)

    def let_go():
        said = server.kv_stat()
        pinned, = re.findall(r"(\d+) pinned", said)
        leases, adding = re.findall(r"(\d+) gets \(leases\), (\d+) blocks being added", said)[0]
        return (pinned, leases, adding) == ("0", "0", "0")
    if has_store(server) and role != "store":
        server.wait_until(let_go, 1, "the store has let go of all", looks=10)


def strike_once(server, role, phase, kind, want, number, salt):
    """Answers whether the blow fell in the phase."""
    blow, fell = Blow(server.pid_of(role), number), []
    others = {p: failovers(server, p) for p in ("prefill", "decode")}
    lost = ranges_lost(server)
    answer = struck(server, kind, phase, blow, salt, fell)
    assert answer.error is None, (role, phase, answer.error)
    assert answer.said() == want[phase == "gathering"][kind].said(), (role, phase)
    if number == signal.SIGKILL:
        check_at_rest(server, role)
    else:
        server.assert_all_free(8)
    good = in_phase(phase, fell)
    if good and phase == "gathering":
        check_gathered(server, role, answer, lost)
    if number == signal.SIGSTOP:
        os.kill(blow.victim, signal.SIGCONT)
    else:  # it may die after the last token: whoever is struck next is not this one
        server.wait_until(lambda: server.pid_of(role) != blow.victim, 10, "another one")
        of = role.split("-")[0]
        good = good and (phase not in STRUCK.get(role, ()) or failovers(server, of) > others[of])
    return good


def matrix(binary, role, *options, back=workers_are_back, number=signal.SIGKILL):
    """back(server, prefill, decode): all is there again, before each blow."""
    phases = list(PHASES)
    # Two servers: one restarts a child that dies again and again later and later.
    for part in [phases[:4], phases[4:]] * ROUNDS:
        cache = [] if "gathering" in part and "--store" not in options else NO_CACHE
        with Server(binary, SMALL, *PHASED, *cache, *options) as server:
            want = wanted(server)
            for turn, phase in enumerate(part):
                kind = list(BODIES)[turn % 2]
                for again in range(TRIES):
                    back(server, 1, 1)
                    if strike_once(server, role, phase, kind, want, number, f"{phase} {again}"):
                        break
                    print(f"      {role} {phase}: the blow fell elsewhere", flush=True)
                else:
                    raise AssertionError(f"{role} {phase}: no blow fell there")


def prefill_killed_in_every_phase(binary):
    matrix(binary, "prefill-0")


def decode_killed_in_every_phase(binary):
    matrix(binary, "decode-0")


def router_struck(server, phase, want, salt):
    """Answers whether the blow fell in the phase."""
    blow, fell = Blow(server.pid_of("router"), signal.SIGKILL), []
    try:
        answer = struck(server, "greedy", phase, blow, salt, fell)
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
    return in_phase(phase, fell)


def router_killed_in_every_phase(binary):
    """Connections break; workers cancel, come back to the new one, and nothing leaks."""
    phases = list(PHASES)
    for part in [phases[i:i + 2] for i in range(0, 8, 2)] * max(2, ROUNDS):
        cache = [] if "gathering" in part else NO_CACHE
        with Server(binary, SMALL, *PHASED, *cache) as server:
            want = whole(server, BODIES["greedy"])
            for phase in part:
                assert any(router_struck(server, phase, want, f"{phase} {again}")
                           for again in range(TRIES)), f"router {phase}: no blow fell there"


def pools_mapped(pid):
    """Pools that a process has in its address space, its own included."""
    with open(f"/proc/{pid}/maps") as maps:
        return len({line.split()[4] for line in maps if "memfd:baton-pool" in line})


def survivors_pin_a_dead_peers_memory(binary):
    """Within 1 s of its death nobody maps a dead worker's pool any more (vllm#58063)."""
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with Server(binary, SMALL, *STEPS, "--store", "16M") as server:
            whole(server, body_of("greedy", 5))
            prefill = server.pid_of("prefill-0")
            holders = {server.pid_of("decode-0"): 2, server.pid_of("store"): 1}
            server.wait_until(lambda: all(pools_mapped(p) == n for p, n in holders.items()), 5,
                              "decode worker and store map it")
            os.kill(prefill, number)
            server.process.wait_for(r"worker lost.*prefill-0")
            end = time.monotonic() + 1
            while any(pools_mapped(p) >= n for p, n in holders.items()):
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
