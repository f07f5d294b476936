#!/usr/bin/env python3
"""A decode worker is killed with -9 under its streams: how long they pause, and what is computed again.

    bench/failover.py [--rounds 5] [--streams 4] [--prompt 1024] [--tokens 320]

One prefill worker and two decode workers of one thread. When each stream has a quarter of its tokens, the first
decode worker is killed; its streams go on at the other one. Setups, alternating:

    store       the store has their blocks, and no prefix cache does
    holder      no store; the prefill worker's prefix cache has those of the prompts
    re-prefill  nobody has any: prompt and answer are computed again

Prints, for the streams that were moved, the longest time between two of their tokens and the tokens
computed again for each, medians of the rounds (least to most); beside them the longest pause of the
streams that were not."""
import argparse
import os
import random
import signal
import statistics
import threading
import time

from served import BATON, MODEL, Served, together

SETUPS = {
    "store": ["--store", "1G", "--prefix-cache-bytes", "0"],
    "holder": [],
    "re-prefill": ["--prefix-cache-bytes", "0"],
}


def round_of(options, name, seed):
    dice = random.Random(seed)
    prompts = [[dice.randrange(100, 40000) for _ in range(options.prompt)] for _ in range(options.streams)]
    with Served(["--decode-workers", "2", "--threads", "1", "--ctx", str(options.prompt + options.tokens + 64),
                 *SETUPS[name]], options.baton, options.model) as server:
        server.ask(prompts[0][:64], 4)  # the store is up, the rates are known
        before = server.metrics()

        chunks, everywhere = [0] * len(prompts), threading.Event()

        def heard(number, so_far):
            chunks[number] = so_far
            if min(chunks) >= options.tokens // 4:
                everywhere.set()

        def kill():
            if not everywhere.wait(120):
                raise RuntimeError("the streams do not get on")
            os.kill(server.child("decode"), signal.SIGKILL)

        streams = together([lambda n=n, p=p: server.ask(p, options.tokens, lambda c: heard(n, c))
                            for n, p in enumerate(prompts)] + [kill])[:-1]
        time.sleep(1.5)  # workers tell of what they did in their heartbeats
        after = server.metrics()
    over = round(after["baton_failovers_total"] - before.get("baton_failovers_total", 0))
    again = after["baton_recomputed_tokens_total"] - before.get("baton_recomputed_tokens_total", 0)
    if any(len(times) < options.tokens // 2 for _, times, _ in streams):
        raise SystemExit(f"{name}: a stream is short")
    pauses = sorted((max(b - a for a, b in zip(times, times[1:])) for _, times, _ in streams), reverse=True)
    if over == 0:
        return None  # all had been placed on the other one
    return {"pause": statistics.median(pauses[:over]), "again": again / over, "moved": over,
            "others": max(pauses[over:], default=0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=320)
    parser.add_argument("--baton", default=BATON)
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    rows = {name: [] for name in SETUPS}
    for number in range(options.rounds):
        for name in SETUPS if number % 2 == 0 else reversed(SETUPS):
            row = round_of(options, name, number)
            if row:
                rows[name].append(row)
                print(name, row, flush=True)
    print(f"{options.streams} streams of {options.prompt} + {options.tokens} tokens, {options.rounds} rounds")

    def words(values, unit, scale=1):
        return (f"{statistics.median(values) * scale:.0f} ({min(values) * scale:.0f} to "
                f"{max(values) * scale:.0f}) {unit}")
    for name, values in rows.items():
        print(f"{name:11} moved {sum(v['moved'] for v in values):3}  pause {words([v['pause'] for v in values], 'ms', 1e3):24}"
              f" computed again, each {words([v['again'] for v in values], 'tokens'):26}"
              f" pause of the others {words([v['others'] for v in values], 'ms', 1e3)}")


if __name__ == "__main__":
    main()
