#!/usr/bin/env python3
"""Mooncake's conversation trace at a scale that fits: what sharing blocks is worth.

    bench/mooncake.py TRACE [--every 200] [--scale 64] [--seconds 40] [--rounds 2]
                      [--setups neither,peers,store,both] [--why FOLDER]

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

A time to the first token is mostly waiting when requests come almost as fast as they can be computed, and
then anything else that runs on the machine multiplies it: two runs of one setup differed by nine times.
So each replay, on fresh processes that have answered a few requests, says what part of the machine's cores
it used, and what part others did. Above a half used, or some hundredths by others, its times mean nothing:
a larger --seconds, or a quiet machine. Setups alternate, forwards and backwards, for --rounds rounds; the
table has the median of the rounds, and the lowest and highest of them. With --why each replay's requests
are written to FOLDER/SETUP.ROUND, as `baton why` has them: what was chosen, fetched, and how long it took.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import time
import urllib.request

from served import BATON, Served, cpu_seconds, quantile, together

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


def busy_s():
    """Seconds that the machine's cores have worked."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_s(server):
    """Of that, this program and the server with all of its processes."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)],
                              capture_output=True, text=True, check=True).stdout.split()
    return time.process_time() + sum(cpu_seconds(pid) for pid in [server.process.pid, *children])


def warm(server):
    for i in range(6):
        server.ask([90 + i] * 100, 4)


def replay(server, rows, seconds):
    warm(server)
    begun, busy, own = time.monotonic(), busy_s(), own_s(server)

    def run(at, prompt, output):
        time.sleep(max(0, begun + at * seconds / HOUR_S - time.monotonic()))
        return server.ask(prompt, output)
    answers = together([lambda row=row: run(*row) for row in rows])
    took = time.monotonic() - begun
    used = (own_s(server) - own) / (took * os.cpu_count())
    others = max(0, (busy_s() - busy) / (took * os.cpu_count()) - used)
    ttft, cached = [a[0] for a in answers], [a[2] for a in answers]
    reused = {s: server.metrics().get(f'baton_prompt_tokens_reused_total{{source="{s}"}}', 0)
              for s in ("local", "peer", "store")}
    return {"mean": 1000 * statistics.mean(ttft), "p50": 1000 * quantile(ttft, 0.5),
            "p90": 1000 * quantile(ttft, 0.9), "hits": 100 * sum(cached) / sum(len(r[1]) for r in rows),
            "used": 100 * used, "others": 100 * others, **reused}


def keep_why(server, path):
    with urllib.request.urlopen(server.url("/debug/requests"), timeout=10) as answer:
        records = answer.read().decode()
    with open(path, "w") as file:
        file.write(records)


def shown(rounds, name, unit=""):
    values = sorted(r[name] for r in rounds)
    text = f"{statistics.median(values):.0f}{unit}"
    return text if len(values) == 1 else f"{text} ({values[0]:.0f} to {values[-1]:.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--scale", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv-bytes", default="96M")
    parser.add_argument("--setups", default=",".join(SETUPS))
    parser.add_argument("--why")
    parser.add_argument("--baton", default=BATON)
    args = parser.parse_args()
    rows, ideal = requests_of(args.trace, args.every, args.scale)
    options = ["--prefill-workers", "2", "--decode-workers", "1", "--threads", "1", "--ctx", "2048",
               "--block-tokens", str(512 // args.scale), "--kv-bytes", args.kv_bytes]
    print(f"{len(rows)} requests within {args.seconds:.0f} s, "
          f"{sum(len(r[1]) for r in rows)} prompt tokens, {ideal:.1%} reusable without bounds")
    setups = args.setups.split(",")
    rounds = {setup: [] for setup in setups}
    for number in range(args.rounds):
        for setup in setups[::-1] if number % 2 else setups:
            with Served(options + SETUPS[setup], args.baton) as server:
                rounds[setup].append(replay(server, rows, args.seconds))
                if args.why:
                    keep_why(server, os.path.join(args.why, f"{setup}.{number}"))
    print("| setup | TTFT mean, ms | p50 | p90 | hit rate | local / peer / store tokens | cores used | by others |\n"
          "|---|---|---|---|---|---|---|---|")
    for setup, r in rounds.items():
        tokens = " / ".join(f"{statistics.median(x[s] for x in r):.0f}" for s in ("local", "peer", "store"))
        print(f"| {setup} | " + " | ".join(shown(r, name) for name in ("mean", "p50", "p90")) +
              f" | {shown(r, 'hits', ' %')} | {tokens} | {shown(r, 'used', ' %')} | {shown(r, 'others', ' %')} |")


if __name__ == "__main__":
    main()
