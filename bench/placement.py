#!/usr/bin/env python3
"""Is the choice of where to compute a prompt as good as the best fixed one?

    bench/placement.py [--rounds 5] [--tokens 256]

Four servers side by side, each with two prefill workers and a decode worker of one thread, one for each
--place: auto, prefill, pull, decode. One after another, again and again, each is asked the same:

    new       nobody has anything of the prompt
    turn      the second turn of a chat: prompt and answer lie at the decode worker, 24 tokens are new
    rest      the same, and half as many tokens again are new
    busy      a prefill worker has the beginning, and computes a long prompt for somebody else

The table has the median time to the first token in ms, and auto's over the best fixed one (the issue is
to stay within 1.05). Needs the model.
"""
import argparse
import random
import statistics
import threading
import time

from served import BATON, Served

PLACES = ["auto", "prefill", "pull", "decode"]
OPTIONS = ["--prefill-workers", "2", "--decode-workers", "1", "--threads", "1", "--ctx", "4096",
           "--kv-bytes", "256M", "--local-tokens", "4096"]


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
    return took


CASES = [new, turn, rest, busy]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--baton", default=BATON)
    args = parser.parse_args()
    servers = {p: Served(OPTIONS + ["--place", p], args.baton) for p in PLACES}
    took = {(c, p): [] for c in CASES for p in PLACES}
    try:
        for server in servers.values():
            server.__enter__()
        for server in servers.values():  # rates of both prefill workers, and of a pull
            for seed in range(4):
                turn(server, 900 + seed, 64)
        for number in range(args.rounds):
            for case in CASES:
                for place in PLACES[number % 4:] + PLACES[:number % 4]:
                    seed = 1000 * number + 100 * CASES.index(case)
                    took[case, place].append(1000 * case(servers[place], seed, args.tokens))
    finally:
        for server in servers.values():
            if hasattr(server, "process"):
                server.__exit__()
    print("| case | " + " | ".join(PLACES) + " | auto / best fixed |\n|---|" + "---|" * 5)
    for case in CASES:
        median = {p: statistics.median(took[case, p]) for p in PLACES}
        best = min(median[p] for p in PLACES[1:])
        print(f"| {case.__name__} | " + " | ".join(f"{median[p]:.0f}" for p in PLACES) +
              f" | {median['auto'] / best:.2f} |")


if __name__ == "__main__":
    main()
