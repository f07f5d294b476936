#!/usr/bin/env python3
"""What arithmetic costs: KL of baton's classes and of llama.cpp from baton's float class, on one text.

    bench/accuracy.py --llama PATH/llama-perplexity > table.md
    bench/accuracy.py --llama PATH/llama-perplexity --text BOOK --tokens 40960 --kv f16,f32

The reference is `--kernels float` with keys and values in f32. llama-perplexity writes its
log-probabilities into a pipe that `baton bench accuracy --logits` reads: nothing of them is kept. Both
see the same token ids (baton checks that), in chunks of 512; the second half of each is compared.
Without --text it is four licences that every Debian has, one after another; the checksum is printed.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..")
BATON = os.path.join(ROOT, "build/release/baton")
MODEL = os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf")
LICENCES = [f"/usr/share/common-licenses/{name}" for name in ("GPL-3", "GFDL-1.3", "LGPL-2.1", "MPL-2.0")]
CONTEXT = 512


def text_of(paths, folder):
    """One file with all of the texts: its path and SHA-256."""
    data = b"".join(open(path, "rb").read() for path in paths)
    path = os.path.join(folder, "text")
    with open(path, "wb") as file:
        file.write(data)
    return path, hashlib.sha256(data).hexdigest()


def measure(options, text, *more):
    command = [options.baton, "bench", "accuracy", options.model, "--text", text, "--tokens",
               str(options.tokens), "--ctx", str(CONTEXT), "--json", "-", *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=options.timeout, check=False)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return json.loads(done.stdout)


def measure_beside(options, text, folder):
    """The default class and llama.cpp's, position by position, through a pipe."""
    pipe = os.path.join(folder, "llama.cpp")
    os.mkfifo(pipe)
    chunks = options.tokens // CONTEXT
    command = [options.llama, "-m", options.model, "-f", text, "--no-escape", "-c", str(CONTEXT), "-b",
               str(CONTEXT), "--chunks", str(chunks), "-t", str(len(os.sched_getaffinity(0))),
               "--kl-divergence-base", pipe, *options.llama_options.split()]
    with open(os.path.join(folder, "log"), "w+b") as log:
        with subprocess.Popen(command, stdout=log, stderr=log) as llama:
            try:
                return measure(options, text, "--logits", pipe)
            except (SystemExit, subprocess.TimeoutExpired) as problem:
                llama.kill()
                log.seek(0)
                raise SystemExit(f"{problem}\n{log.read().decode()[-2000:]}") from problem


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default=BATON)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--llama", help="llama-perplexity; without it, baton alone")
    parser.add_argument("--llama-options", default="", help="more options for it")
    parser.add_argument("--text", action="append", help="a file; may be given again")
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--kernels", default="int8,float", help="classes, by comma")
    parser.add_argument("--kv", default="f16", help="types of keys and values, by comma")
    parser.add_argument("--timeout", type=float, default=1800)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, checksum = text_of(options.text or LICENCES, folder)
        beside = measure_beside(options, text, folder) if options.llama else None
        rows = beside["results"] if beside else []
        for kernels in options.kernels.split(","):
            for kv in options.kv.split(","):
                found = measure(options, text, "--kernels", kernels, "--kv-dtype", kv)
                if found["results"][0]["name"] not in [row["name"] for row in rows]:
                    rows += found["results"]
        print(f"{found['model']}: {' '.join(options.text or LICENCES)} (SHA-256 {checksum}), "
              f"{found['positions']} positions of {found['chunks']} chunks of {CONTEXT} tokens. "
              f"{found['reference']['name']}: perplexity {found['reference']['perplexity']:.4f}\n")
        if beside:
            print("{kl_difference:.6f} +- {standard_error:.6f}: mean KL of the class less llama.cpp's, both "
                  "rounded.\n".format(**beside["beside_logits"]))
        print("| | KL mean | median | 99 % | max | same top | perplexity |\n|---|---|---|---|---|---|---|")
        for row in rows:
            name = row["name"].replace(os.path.join(folder, ""), "")
            print(f"| {name} | {row['kl_mean']:.6f} | {row['kl_median']:.6f} | {row['kl_p99']:.5f} | "
                  f"{row['kl_max']:.4f} | {row['same_top']:.4f} | {row['perplexity']:.4f} |")


if __name__ == "__main__":
    sys.exit(main())
