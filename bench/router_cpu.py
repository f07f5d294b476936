#!/usr/bin/env python3
"""What a token costs the router: its CPU time over the tokens that it relayed.

    bench/router_cpu.py [--streams 1,8,32] [--tokens 400] [--profile FILE]

The time that the router's threads had a core (/proc/PID/task/*/schedstat) while so many streams run, over
their tokens; HTTP, JSON, detokenizing and metrics are all of it. --profile: perf record of the
router during the last, as text. Needs the model.
"""
import argparse
import json
import subprocess
import time

from served import BATON, Served, cpu_seconds, together


def measure(server, streams, tokens):
    router = server.child("router")
    before, begun = cpu_seconds(router), time.monotonic()
    results = together([lambda i=i: server.ask([100 + i, 7, 9], tokens) for i in range(streams)])
    took, cpu = time.monotonic() - begun, cpu_seconds(router) - before
    count = sum(len(times) for _, times, _ in results)
    return {"streams": streams, "tokens": streams * tokens, "chunks": count, "seconds": round(took, 2),
            "router_cpu_s": round(cpu, 3), "us_per_token": round(cpu / (streams * tokens) * 1e6, 1),
            "tokens_s": round(streams * tokens / took, 1), "core": round(cpu / took, 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--baton", default=BATON)
    parser.add_argument("--profile")
    args = parser.parse_args()
    counts = [int(n) for n in args.streams.split(",")]
    with Served(["--ctx", "2048", "--decode-batch", "64", "--kv-bytes", "512M"], args.baton) as server:
        server.ask([1, 2, 3], 8)
        for streams in counts:
            perf = None
            if args.profile and streams == counts[-1]:
                perf = subprocess.Popen(["perf", "record", "-q", "-g", "-o", args.profile + ".data",
                                         "-p", str(server.child("router"))],
                                        stderr=subprocess.DEVNULL)
            print(json.dumps(measure(server, streams, args.tokens)), flush=True)
            if perf:
                perf.terminate()
                perf.wait()
                with open(args.profile, "w") as out:
                    subprocess.run(["perf", "report", "-i", args.profile + ".data", "--no-children",
                                    "-g", "none", "--stdio"], stdout=out, check=True,
                                   stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
