#!/usr/bin/env python3
"""What long prompts do to people who are reading: baton split, baton colocated and llama.cpp's server,
each at its defaults and at other chunk sizes, one after another, again and again in the same run.

    bench/interference.py --llama PATH/llama-server > table.md
    bench/interference.py --llama PATH/llama-server --setups split,llama --repeat 1 --rounds r.json

Each run: 4 streams decode, quiet for 6 s; then three prompts of 2000 words arrive one after another;
then quiet for 6 s again. Quiet is both: contexts grow, and steps with them, so before alone would flatter
whoever is measured at rest.
The table has the median over the rounds of each figure. With --rounds a round may be made in parts,
at times when the machine is free. Needs the model.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from served import BATON, MODEL, free_port


def setup(key, baton, llama, threads):
    """Of split, colocated, colocated-x2 and llama, or with tokens of a chunk (llama.cpp: of a batch)
    behind it, as in split-64: name, command without the port. None: not known."""
    serve = [baton, "serve", "--ctx", "8192", MODEL]
    kinds = {"split": ("baton split", serve, ["--prefill-chunk"]),
             "colocated": ("baton colocated", serve + ["--colocated", "1"], ["--prefill-chunk"]),
             "llama": ("llama.cpp", [llama, "-m", MODEL, "-c", "32768", "-np", "5", "-t", str(threads),
                                     "--no-webui"], ["-b", "-ub"])}
    kind, _, size = key.partition("-")
    if key == "colocated-x2":
        return "baton colocated, two workers", serve + ["--colocated", "2"]
    if kind not in kinds or (size and not size.isdigit()):
        return None
    name, command, options = kinds[kind]
    if not size:
        return f"{name} (default)", command
    sized = [word for option in options for word in (option, size)]
    return f"{name}, {' '.join(sized)}", command + sized


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


def measure(baton, command, quiet_s):
    port = free_port()
    with tempfile.NamedTemporaryFile() as log, tempfile.NamedTemporaryFile() as out:
        process = subprocess.Popen(command + ["--port", str(port)], stdout=log, stderr=log)
        try:
            wait_ready(port, process)
            subprocess.run([baton, "bench", "--base-url", f"http://127.0.0.1:{port}",
                            "--interference", "--streams", "4", "--quiet", f"{quiet_s}s",
                            "--long-prompts", "3", "--long-len", "2000", "--prompt", "text",
                            "--json", out.name], check=True, stdout=subprocess.DEVNULL,
                           timeout=600)
            return json.load(open(out.name))
        finally:
            process.terminate()
            process.wait(60)


def keep(path, name, result):
    """Append one result to the rounds of a file, so that a run may go on another time."""
    rounds = json.load(open(path)) if os.path.exists(path) else {}
    rounds.setdefault(name, []).append(result)
    with open(path + ".new", "w") as file:
        json.dump(rounds, file, indent=1)
    os.replace(path + ".new", path)


def print_table(rounds):
    columns = [("quiet ITL p50", "median_quiet_itl_ms"), ("quiet p99", "p99_quiet_itl_ms"),
               ("before p50 / p99", ("median_before_itl_ms", "p99_before_itl_ms")),
               ("after p50 / p99", ("median_after_itl_ms", "p99_after_itl_ms")),
               ("disturbed ITL p50", "median_disturbed_itl_ms"),
               ("disturbed p99", "p99_disturbed_itl_ms"),
               ("disturbed max", "max_disturbed_itl_ms"),
               ("TTFT of the long prompts, mean", "mean_long_ttft_ms")]
    print("| setup, ms (median of the rounds; p99: and their range) | rounds | " +
          " | ".join(title for title, _ in columns) + " | disturbed p99 / quiet p99 |")
    print("|---" * (len(columns) + 3) + "|")
    for name, runs in rounds.items():
        cells = []
        for _, key in columns:
            if isinstance(key, tuple):
                cells.append(" / ".join(f"{statistics.median(r[k] for r in runs):,.1f}" for k in key))
                continue
            values = [r[key] for r in runs]
            text = f"{statistics.median(values):,.1f}"
            if key.startswith("p99"):
                text += f" ({min(values):,.1f} to {max(values):,.1f})"
            cells.append(text)
        ratio = statistics.median(r["p99_disturbed_itl_ms"] / r["p99_quiet_itl_ms"] for r in runs)
        print(f"| {name} | {len(runs)} | " + " | ".join(cells) + f" | {ratio:.2f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--baton", default=BATON, help="binary to measure, and to measure with")
    parser.add_argument("--llama", help="llama-server to compare with")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of llama-server")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; 0: only print the table")
    parser.add_argument("--quiet", type=int, default=6, help="seconds")
    parser.add_argument("--setups", default="split,split-64,colocated,colocated-32,llama,llama-512,"
                        "llama-32", help="which of them, and in which order")
    parser.add_argument("--rounds", metavar="FILE",
                        help="JSON file to which each result is added; the table is over all in it")
    given = parser.parse_args()
    asked = [key for key in given.setups.split(",") if given.llama or not key.startswith("llama")]
    chosen = [setup(key, given.baton, given.llama, given.threads) for key in asked]
    if None in chosen:
        sys.exit("--setups: expected split, colocated and llama, each also with tokens behind it "
                 f"(split-64), and colocated-x2; found {asked[chosen.index(None)]}")
    path = given.rounds or os.path.join(tempfile.mkdtemp(), "rounds.json")
    for _ in range(given.repeat):
        for name, command in chosen:
            result = measure(given.baton, command, given.quiet)
            keep(path, name, result)
            print(name, json.dumps(result), file=sys.stderr, flush=True)
    print_table(json.load(open(path)))


if __name__ == "__main__":
    main()
