#!/usr/bin/env python3
"""What long prompts do to people who are reading: baton split, baton colocated and llama.cpp's server,
each at its defaults and at other chunk sizes, one after another, again and again in the same run.

    bench/interference.py --llama PATH/llama-server --repeat 3 > table.md

Each run: 4 streams decode, quiet for 8 s; then three prompts of 2000 words arrive one after another.
The table has the median over the repeats of each figure. Needs build/release/baton and the model.
"""
import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..")
BATON = os.path.join(ROOT, "build/release/baton")
MODEL = os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def setups(llama, threads):
    """name, command without the port"""
    serve = [BATON, "serve", "--ctx", "8192", MODEL]
    made = [("baton split (default)", serve),
            ("baton split, --prefill-chunk 64", serve + ["--prefill-chunk", "64"]),
            ("baton colocated x1 (default)", serve + ["--colocated", "1"]),
            ("baton colocated x1, --prefill-chunk 32",
             serve + ["--colocated", "1", "--prefill-chunk", "32"]),
            ("baton colocated x2", serve + ["--colocated", "2"])]
    if llama:
        base = [llama, "-m", MODEL, "-c", "32768", "-np", "5", "-t", str(threads), "--no-webui"]
        made.append(("llama.cpp (default)", base))
        for size in ("512", "64", "32"):
            made.append((f"llama.cpp -b {size} -ub {size}", base + ["-b", size, "-ub", size]))
    return made


def wait_ready(port, process):
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit("the server did not get ready")


def measure(command, quiet_s):
    port = free_port()
    with tempfile.NamedTemporaryFile() as log, tempfile.NamedTemporaryFile() as out:
        process = subprocess.Popen(command + ["--port", str(port)], stdout=log, stderr=log)
        try:
            wait_ready(port, process)
            subprocess.run([BATON, "bench", "--base-url", f"http://127.0.0.1:{port}",
                            "--interference", "--streams", "4", "--quiet", f"{quiet_s}s",
                            "--long-prompts", "3", "--long-len", "2000", "--prompt", "text",
                            "--json", out.name], check=True, stdout=subprocess.DEVNULL,
                           timeout=600)
            return json.load(open(out.name))
        finally:
            process.terminate()
            process.wait(60)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama", help="llama-server to compare with")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quiet", type=int, default=8, help="seconds")
    parser.add_argument("--only", default="", help="part of a setup's name")
    given = parser.parse_args()
    chosen = [s for s in setups(given.llama, given.threads) if given.only in s[0]]
    results = {name: [] for name, _ in chosen}
    for _ in range(given.repeat):
        for name, command in chosen:
            result = measure(command, given.quiet)
            results[name].append(result)
            print(name, json.dumps(result), file=sys.stderr, flush=True)
    columns = [("quiet ITL p50", "median_quiet_itl_ms"), ("quiet p99", "p99_quiet_itl_ms"),
               ("disturbed ITL p50", "median_disturbed_itl_ms"),
               ("disturbed p99", "p99_disturbed_itl_ms"),
               ("disturbed max", "max_disturbed_itl_ms"),
               ("TTFT of the long prompts, mean", "mean_long_ttft_ms")]
    print("| setup, ms (median of " + str(given.repeat) + ") | " +
          " | ".join(title for title, _ in columns) + " | disturbed p99 / quiet p99 |")
    print("|---" * (len(columns) + 2) + "|")
    for name, runs in results.items():
        cells = [f"{statistics.median(r[key] for r in runs):,.1f}" for _, key in columns]
        ratio = statistics.median(r["p99_disturbed_itl_ms"] / r["p99_quiet_itl_ms"] for r in runs)
        print(f"| {name} | " + " | ".join(cells) + f" | {ratio:.2f} |")


if __name__ == "__main__":
    main()
