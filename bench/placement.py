#!/usr/bin/env python3
"""Is the choice of where to compute a prompt as good as the best fixed one?

    bench/placement.py [--rounds 8] [--starts 2] [--tokens 256]

Five servers side by side, each with two prefill workers and a decode worker of one thread, one for each
--place, and a second one of auto ("again"): what these two differ by is noise. All are asked the same,
one request after another, in an order that turns with each round:

    new       nobody has anything of the prompt
    turn      the second turn of a chat: its prompt lies at the decode worker too, 24 tokens are new
    rest      the same, and half as many tokens again are new
    busy      a prefill worker has the beginning, and computes a long prompt for somebody else

Processes differ for as long as they live, by where their memory lies: all are started anew --starts times.

The first table has medians of the time to the first token in ms, their quartiles, and two ratios: that of
auto (both servers) and the best fixed one (the issue is to stay within 1.05), and that of the two autos.
The second has what auto chose, what it had predicted, and what it took, by `baton why`. Needs the model.
"""
import argparse
import collections
import random
import re
import statistics
import threading
import time
import urllib.request

from served import BATON, Served

FIXED = ["prefill", "pull", "decode"]
SERVERS = ["auto", *FIXED, "again"]
OPTIONS = ["--prefill-workers", "2", "--decode-workers", "1", "--threads", "1", "--ctx", "4096",
           "--kv-bytes", "256M", "--local-tokens", "4096"]
CHOSEN = re.compile(r"  chosen   (.+?): (\S+).*?predicted ([\d.]+) ms.*?  first    ([\d.]+) ms", re.S)


def words(seed, count):
    chance = random.Random(seed)
    return [chance.randrange(100, 40000) for _ in range(count)]


def settle():
    time.sleep(0.15)  # what workers tell of their blocks has come to the router


def new(server, seed, tokens):
    return server.ask(words(seed, tokens), 2)[0]


def after_turn(server, seed, tokens, rest):
    prompt = words(seed, tokens)
    server.ask(prompt, 24)
    settle()
    return server.ask(prompt + words(seed + 1, rest), 2)[0]


def turn(server, seed, tokens):
    return after_turn(server, seed, tokens, 24)


def rest(server, seed, tokens):
    return after_turn(server, seed, tokens, tokens // 2)


def busy(server, seed, tokens):
    prompt = words(seed, tokens)
    server.ask(prompt, 1)  # one token: only a prefill worker has it
    settle()
    other = threading.Thread(target=server.ask, args=(prompt[:tokens // 2] + words(seed + 2, 2 * tokens), 1))
    other.start()
    time.sleep(0.05)
    took = server.ask(prompt + words(seed + 1, 24), 2)[0]
    other.join()
    settle()
    return took


CASES = [new, turn, rest, busy]


def chosen(server, asked):
    """(way, worker, predicted ms, ms to the first token) of the newest request with so many tokens."""
    with urllib.request.urlopen(server.url("/debug/requests"), timeout=10) as answer:
        records = answer.read().decode().split("\n\n")
    for record in reversed(records):
        found = CHOSEN.search(record)
        if found and f", {asked} tokens," in record:
            return found[1], found[2], float(found[3]), float(found[4])
    return None


def measure(args, start, took, choices):
    servers = {p: Served(OPTIONS + ["--place", "auto" if p == "again" else p], args.baton) for p in SERVERS}
    asked = {new: args.tokens, turn: args.tokens + 24, rest: args.tokens + args.tokens // 2,
             busy: args.tokens + 24}
    try:
        for server in servers.values():
            server.__enter__()
        for seed in range(4):  # what prompts of both lengths, and a pull, cost
            for server in servers.values():
                turn(server, 900 + seed, 64 + 64 * seed)
        for number in range(args.rounds):
            order = SERVERS[number % 5:] + SERVERS[:number % 5]
            for case in CASES:
                order = order[::-1]
                for place in order:
                    seed = 100000 * start + 1000 * number + 100 * CASES.index(case)
                    took[case, place].append(1000 * case(servers[place], seed, args.tokens))
                    found = chosen(servers[place], asked[case]) if place in ("auto", "again") else None
                    if found:
                        choices[case][found[0]].append(found[2:])
    finally:
        for server in servers.values():
            if hasattr(server, "process"):
                server.__exit__()


def shown(values):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--baton", default=BATON)
    args = parser.parse_args()
    took = collections.defaultdict(list)
    choices = {case: collections.defaultdict(list) for case in CASES}
    for start in range(args.starts):
        measure(args, start, took, choices)
    print("| case | " + " | ".join(SERVERS) + " | auto / best fixed | again / auto |\n|---|" + "---|" * 7)
    for case in CASES:
        auto = statistics.median(took[case, "auto"] + took[case, "again"])
        best = min(statistics.median(took[case, p]) for p in FIXED)
        twice = statistics.median(took[case, "again"]) / statistics.median(took[case, "auto"])
        print(f"| {case.__name__} | " + " | ".join(shown(took[case, p]) for p in SERVERS) +
              f" | {auto / best:.2f} | {twice:.2f} |")
    print("\n| case | auto's choice | times | predicted, ms | took, ms | took / predicted |\n|---|---|---|---|---|---|")
    for case in CASES:
        for way, pairs in sorted(choices[case].items()):
            predicted, first = (statistics.median(values) for values in zip(*pairs))
            ratio = statistics.median(f / p for p, f in pairs)
            print(f"| {case.__name__} | {way} | {len(pairs)} | {predicted:.0f} | {first:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
