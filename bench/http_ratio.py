#!/usr/bin/env python3
"""What serving costs: tokens per second of streams through HTTP over those of the engine alone.

    bench/http_ratio.py [--repeat 3] [--batch 1,8,32] [--setups split,colocated] > table.md

split: `baton serve` as it is on two cores, the decode worker on one; beside it `baton bench engine` with one
thread on that core. colocated: one worker with all cores, beside an engine with all; router and client then
have no core of their own. Engine and server take turns in each round. Streams of a batch begin together with a
short prompt and have answers of the same length; their rate is the batch over the mean time between tokens, of
`baton bench`, which is a client that parses what it gets. Needs the model.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from served import BATON, MODEL, Served

PROMPT = 8


def output_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def engine_rates(options, cpus, batches):
    """tokens/s of decode alone, by batch."""
    found = output_json(["taskset", "-c", ",".join(map(str, cpus)), options.baton, "bench", "engine", MODEL,
                         "--prefill", str(PROMPT), "--decode", str(options.tokens), "--threads", str(len(cpus)),
                         "--batch", ",".join(map(str, batches)), "--depth", str(PROMPT), "--repeat", "1", "--json", "-"])
    return {row["batch"]: row["decode_tok_s"] for row in found["results"] if "decode_tok_s" in row}


def served_rates(options, server, batches):
    """The same through HTTP."""
    rates = {}
    for batch in batches:
        with tempfile.NamedTemporaryFile() as out:
            found = None
            for _ in range(2):  # the first one warms up, as the engine's does
                subprocess.run([options.baton, "bench", "--base-url", server.url(""), "--num-prompts", str(batch),
                                "--input-len", str(PROMPT), "--output-len", str(options.tokens), "--json", out.name],
                               check=True, stdout=subprocess.DEVNULL, timeout=600)
                with open(out.name, encoding="utf-8") as file:
                    found = json.load(file)
        if found["failed"] or found["total_output_tokens"] != batch * options.tokens:
            raise SystemExit(f"batch {batch}: {found['failed']} failed, {found['total_output_tokens']} tokens")
        rates[batch] = batch * 1000 / found["mean_tpot_ms"]
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default=BATON)
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--setups", default="split,colocated")
    parser.add_argument("--serve-options", default="", help="more options of baton serve")
    options = parser.parse_args()
    batches = [int(n) for n in options.batch.split(",")]
    cpus = sorted(os.sched_getaffinity(0))
    setups = {"split": ([], cpus[-1:]), "colocated": (["--colocated", "1"], cpus)}
    print("| setup | batch | engine tokens/s | HTTP tokens/s | ratio, median (each) |\n|---|---|---|---|---|")
    for name in options.setups.split(","):
        more, engine_cpus = setups[name]
        rounds = []
        with Served(["--ctx", "2048", "--decode-batch", "64", "--kv-bytes", "1G", *more,
                     *options.serve_options.split()], options.baton) as server:
            for _ in range(options.repeat):
                rounds.append((engine_rates(options, engine_cpus, batches), served_rates(options, server, batches)))
        for batch in batches:
            ratios = [served[batch] / engine[batch] for engine, served in rounds]
            print(f"| {name} | {batch} | {statistics.median(e[batch] for e, _ in rounds):.1f} | "
                  f"{statistics.median(s[batch] for _, s in rounds):.1f} | {statistics.median(ratios):.3f} "
                  f"({', '.join(f'{r:.3f}' for r in ratios)}) |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
