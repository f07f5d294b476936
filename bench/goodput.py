#!/usr/bin/env python3
"""Goodput over load: a prefill and a decode worker, two colocated workers, and llama.cpp's server, on all cores.

    bench/goodput.py --llama PATH/llama-server > table.md
    bench/goodput.py --llama PATH/llama-server --rates 0.3,0.6,1.2,1.8 --seconds 24

Prompts of --input words arrive as a Poisson process (the same times and words for all), answers have --output
tokens. Each rate has words of its own: what a server kept of the rate before is of no use. Good is a request that
kept both limits. TTFT and TPOT are what the client saw; queue is the mean TTFT
less that of requests that came alone. A setup that kept less than a fifth of what came is not measured at higher
rates: it is past its capacity, and its queue only grows. Needs the model. About 10 minutes as it is.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from interference import wait_ready
from served import BATON, MODEL, free_port


def setups(given):
    """name: command without the port"""
    # Nobody is to be taken for dead because others use the cores.
    serve = [given.baton, "serve", "--ctx", "4096", "--queue", "4096", "--silence", "10s", MODEL]
    made = {"split": serve, "colocated-2": serve + ["--colocated", "2"], "colocated-1": serve + ["--colocated", "1"]}
    llama = [given.llama, "-m", MODEL, "-c", "32768", "-np", "16", "-t", str(os.cpu_count()), "--no-webui"]
    if given.llama:
        made["llama"] = llama
        made["llama-64"] = llama + ["-b", "64", "-ub", "64"]
    return made


def bench(given, port, *more):
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([given.baton, "bench", "--base-url", f"http://127.0.0.1:{port}", "--prompt", "text",
                        "--input-len", str(given.input), "--output-len", str(given.output), "--range-ratio", "0.25",
                        "--goodput", f"ttft:{given.ttft}", "--goodput", f"tpot:{given.tpot}", "--json", out.name,
                        *more], check=True, stdout=subprocess.DEVNULL, timeout=600)
        with open(out.name, encoding="utf-8") as file:
            return json.load(file)


def measure(given, name, command, rates):
    """One row of each rate, until the setup is past its capacity."""
    port = free_port()
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command + ["--port", str(port)], stdout=log, stderr=log)
        try:
            wait_ready(port, process)
            alone = bench(given, port, "--num-prompts", "4", "--max-concurrency", "1", "--seed", "99")
            for number, rate in enumerate(rates):
                count = max(4, round(rate * given.seconds))
                found = bench(given, port, "--num-prompts", str(count), "--request-rate", str(rate), "--seed", str(7 + number))
                good = found["request_goodput"] * found["duration"] / count
                queue = found["mean_ttft_ms"] - alone["mean_ttft_ms"]
                print(f"| {rate:g} | {name} | {good:.2f} of {count} | {good * rate:.2f} | "
                      f"{found['median_ttft_ms']:,.0f} / {found['p99_ttft_ms']:,.0f} | {max(0, queue):,.0f} | "
                      f"{found['median_tpot_ms']:.1f} / {found['p99_tpot_ms']:.1f} | {found['p99_itl_ms']:.1f} |",
                      flush=True)
                if found["failed"]:
                    print(f"{name}, {rate} a second: {found['failed']} failed", file=sys.stderr)
                if good < 0.2:
                    return
        finally:
            process.terminate()
            process.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default=BATON)
    parser.add_argument("--llama", help="llama-server to compare with")
    parser.add_argument("--setups", help="some of split, colocated-2, colocated-1, llama, llama-64; default: not colocated-1")
    parser.add_argument("--rates", default="0.3,0.6,1.2,1.8", help="arrivals a second")
    parser.add_argument("--seconds", type=float, default=24, help="of arrivals, at each rate")
    parser.add_argument("--input", type=int, default=256)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--ttft", type=int, default=2000, help="limit, ms")
    parser.add_argument("--tpot", type=int, default=40, help="limit, ms")
    given = parser.parse_args()
    made = setups(given)
    chosen = given.setups.split(",") if given.setups else [name for name in made if name != "colocated-1"]
    if not set(chosen) <= set(made):
        sys.exit(f"--setups: expected some of {', '.join(made)}; found {given.setups}")
    print(f"{given.input} words in, {given.output} tokens out, both give or take a quarter; good: TTFT within "
          f"{given.ttft} ms and TPOT within {given.tpot} ms.\n")
    print("| a second | setup | good | good a second | TTFT p50 / p99, ms | queue, ms | TPOT p50 / p99, ms | ITL p99 |\n"
          + "|---" * 8 + "|")
    begun = time.monotonic()
    for name in chosen:
        measure(given, name, made[name], [float(rate) for rate in given.rates.split(",")])
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
