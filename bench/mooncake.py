#!/usr/bin/env python3
"""Mooncake's conversation trace at a scale that fits: what sharing blocks is worth.

    bench/mooncake.py TRACE [--every 120] [--scale 64] [--seconds 60] [--setups neither,peers,store,both]

TRACE is mooncake_conversation_trace.jsonl (kvcache-ai/Mooncake, FAST'25): an hour of timestamps, lengths,
and a hash for each 512 tokens of a prompt; equal hashes share a prefix. One conversation in --every is
taken, whole. Lengths are divided by --scale, so that a hash stands for 512 / scale tokens (a block of
ours), and the hour is pressed into --seconds. Each request is sent at its time, as token ids.

    neither   workers have only their own prefix cache (--place prefill)
    peers     blocks also come from other workers
    store     from a central store, not from other workers
    both      from whoever has them

Two prefill workers and one decode worker, of one thread. The pools hold a part of the trace, the store
all of it. Hit rate: prompt tokens that were not computed. Needs the model.
"""
import argparse
import json
import random
import statistics
import time

from served import BATON, Served, quantile, together

HOUR_S = 3537  # of the trace
SETUPS = {
    "neither": ["--place", "prefill"],
    "peers": [],
    "store": ["--place", "prefill", "--store", "2G"],
    "both": ["--store", "2G"],
}


def block_of(number, tokens):
    chance = random.Random(number)
    return [chance.randrange(100, 40000) for _ in range(tokens)]


def requests_of(path, every, scale):
    """(seconds, prompt, output tokens); how much of it could be reused by a cache without bounds."""
    rows, seen, reusable, total = [], set(), 0, 0
    block = 512 // scale
    with open(path) as trace:
        for line in trace:
            row = json.loads(line)
            hashes = row["hash_ids"]
            if hashes[min(1, len(hashes) - 1)] % every != 0:  # all share the first
                continue
            prompt = [t for h in hashes for t in block_of(h, block)]
            prompt = prompt[:max(1, row["input_length"] // scale)]
            run = True
            for k in range(len(prompt) // block):
                run = run and hashes[k] in seen
                reusable += block * run
            seen.update(hashes[:len(prompt) // block])
            total += len(prompt)
            rows.append((row["timestamp"] / 1000, prompt, max(1, row["output_length"] // scale)))
    return rows, reusable / total


def replay(server, rows, seconds):
    begun = time.monotonic()

    def run(at, prompt, output):
        time.sleep(max(0, begun + at * seconds / HOUR_S - time.monotonic()))
        return server.ask(prompt, output)
    answers = together([lambda row=row: run(*row) for row in rows])
    ttft, cached = [a[0] for a in answers], [a[2] for a in answers]
    reused = {s: server.metrics().get(f'baton_prompt_tokens_reused_total{{source="{s}"}}', 0)
              for s in ("local", "peer", "store")}
    return ttft, sum(cached) / sum(len(r[1]) for r in rows), reused, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--every", type=int, default=120)
    parser.add_argument("--scale", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kv-bytes", default="96M")
    parser.add_argument("--setups", default=",".join(SETUPS))
    parser.add_argument("--baton", default=BATON)
    args = parser.parse_args()
    rows, ideal = requests_of(args.trace, args.every, args.scale)
    options = ["--prefill-workers", "2", "--decode-workers", "1", "--threads", "1", "--ctx", "2048",
               "--block-tokens", str(512 // args.scale), "--kv-bytes", args.kv_bytes]
    print(f"{len(rows)} requests within {args.seconds:.0f} s, "
          f"{sum(len(r[1]) for r in rows)} prompt tokens, {ideal:.1%} reusable without bounds")
    print("| setup | TTFT mean | p50 | p90 | hit rate | local / peer / store tokens | took |\n"
          "|---|---|---|---|---|---|---|")
    for setup in args.setups.split(","):
        with Served(options + SETUPS[setup], args.baton) as server:
            ttft, hits, reused, took = replay(server, rows, args.seconds)
        print(f"| {setup} | {1000 * statistics.mean(ttft):.0f} ms | {1000 * quantile(ttft, 0.5):.0f} | "
              f"{1000 * quantile(ttft, 0.9):.0f} | {hits:.1%} | " +
              " / ".join(f"{reused[s]:.0f}" for s in reused) + f" | {took:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
