#!/usr/bin/env python3
"""bench/engine.py - the engine alone beside llama.cpp's llama-bench, alternating, in one run.

    bench/engine.py --llama PATH/llama-bench --repeat 5 MODEL.gguf ...

Prints medians of tokens per second, their ratio, and how near baton is to the floors of the machine.
"""
import argparse
import json
import statistics
import subprocess
import sys


def baton(options, model):
    out = subprocess.run([options.baton, "bench", "engine", model, "--prefill", str(options.prefill), "--decode",
                          str(options.decode), "--batch", "1", "--threads", str(options.threads), "--repeat", "1",
                          "--variant", options.variant, "--json", "-"],
                         check=True, capture_output=True, text=True).stdout
    found = {}
    for result in json.loads(out)["results"]:
        found.update({k: v for k, v in result.items() if k.endswith(("_tok_s", "_ratio"))})
    return found


def llama(options, model):
    out = subprocess.run([options.llama, "-m", model, "-p", str(options.prefill), "-n", str(options.decode), "-t",
                          str(options.threads), "-r", "1", "-o", "json"],
                         check=True, capture_output=True, text=True).stdout
    return {("prefill" if r["n_prompt"] else "decode") + "_tok_s": r["avg_ts"] for r in json.loads(out)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default="build/release/baton")
    parser.add_argument("--llama", required=True)
    for name, value in (("prefill", 512), ("decode", 64), ("threads", 2), ("repeat", 5)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--variant", default="auto", help="baton's instructions")
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    print(f"{'model':40} {'':8} {'baton':>8} {'floor':>6} {'llama.cpp':>9} {'ratio':>6}")
    for model in options.models:
        ours, theirs = [], []
        for _ in range(options.repeat):
            ours.append(baton(options, model))
            theirs.append(llama(options, model))
        for kind in ("prefill", "decode"):
            speed, peer = ([statistics.median(r[kind + "_tok_s"] for r in side) for side in (ours, theirs)])
            ratio = statistics.median(r[kind + "_floor_ratio"] for r in ours)
            print(f"{model.split('/')[-1]:40} {kind:8} {speed:8.1f} {ratio:6.2f} {peer:9.1f} {speed / peer:6.2f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
