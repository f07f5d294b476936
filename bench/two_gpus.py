#!/usr/bin/env python3
"""Prefill on one GPU and decode on another against both on each: handoffs, latencies, goodput.

    bench/two_gpus.py --baton BUILD/baton --devices cuda:0,cuda:1 --json FILE
    bench/two_gpus.py --devices cuda:0,cuda:0 ...      both workers on one GPU: all but the last digits

Random weights in the shape of a known model (--dummy-weights), random prompts. Each setup is one `baton serve`;
what is measured of it:
    idle          one request after another, by prompt length: TTFT, TPOT, and of each handoff the bytes, the
                  carrier, and the time that the prefill did not hide ("exposed": to the holder, until it was
                  acknowledged; landed: to the receiver, from the message that all is offered)
    each second   32 streams decode while an 8k prompt starts each second: ITL of the streams, TTFT of the prompts.
                  A prompt answers 16 tokens: for as many steps a 33rd row, at 8k, is beside the streams
    no pause      the same, each prompt when the one before is done
    second turn   a chat goes on: TTFT when the first answer is fetched from its decode worker, and when there is
                  no such answer and as many tokens are computed; how fast the answer came
    arrivals      Poisson, 2k tokens in, 256 out: what keeps to TTFT 500 ms and TPOT 30 ms
    killed        of two decode workers on one GPU, beside a store, one is killed with -9 while streams run
    serving       colocated, when asked for: 1024 tokens in, 128 out, 128 and 256 at once
    streaming     colocated, when asked for: 256 streams of short prompts and long answers, over HTTP
A part that fails is said and skipped; --seconds ends it all in time.
"""
import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))] if values else float("nan")


class Setup:
    def __init__(self, options, name, words):
        self.options, self.name = options, name
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.log = tempfile.NamedTemporaryFile(prefix="baton-two-gpus-", suffix=".log", delete=False).name
        command = [options.baton, "serve", "--port", str(self.port),
                   *([options.model] if options.model else ["--dummy-weights", options.dummy_weights]),
                   "--log-level", "debug", "--swap-bytes", "0", "--ctx", str(options.context), "--decode-batch",
                   "256", "--queue", "4096", *options.more, *words]
        start = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        while time.monotonic() - start < 90:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).read()
                self.ready_s = time.monotonic() - start
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"{name}: not ready:\n{self.text()[-1500:]}")

    def text(self, since=0):
        with open(self.log, errors="replace") as f:
            f.seek(since)
            return f.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def bench(self, *words, timeout_s=60):
        out = subprocess.run([self.options.bench or self.options.baton, "bench", "--base-url", f"http://127.0.0.1:{self.port}", "--json", "-",
                              *map(str, words)], capture_output=True, text=True, timeout=timeout_s, check=False)
        if out.returncode != 0:
            raise RuntimeError(f"bench {words}: {out.stderr[-500:]}")
        return json.loads(out.stdout)

    def complete(self, prompt, tokens, answer):
        """Answer is the token that all of the answer is; returns seconds to the first token."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "logit_bias": {str(answer): 100}}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        start, first = time.monotonic(), None
        with urllib.request.urlopen(request, timeout=60) as answer_lines:
            for line in answer_lines:
                if first is None and line.startswith(b"data:") and b'"text"' in line:
                    first = time.monotonic() - start
        return first


def landings(text):
    """Of each receive: where from, bytes, microseconds from the first offer, and after the last."""
    found = re.findall(r'event="blocks landed" from="([^"]*)" carrier=\S+ bytes=(\d+) us=(\d+) exposed_us=(\d+)', text)
    return [(name, int(size), int(us), int(exposed)) for name, size, us, exposed in found]


def handoffs(text, least_bytes=0, most_bytes=1 << 62):
    """Figures of the handoffs of so many bytes."""
    found = [f for f in re.findall(r'event="handed over" carrier=(\S+) bytes=(\d+) exposed_us=(\d+)', text)
             if least_bytes <= int(f[1]) <= most_bytes]
    landed = [exposed for name, size, _, exposed in landings(text)
              if least_bytes <= size <= most_bytes and name.startswith("prefill")]
    return {"count": len(found), "carriers": sorted({f[0] for f in found}),
            "MiB": int(found[-1][1]) / 2**20 if found else 0,
            "exposed_p50_us": percentile([int(f[2]) for f in found], 50),
            "exposed_p99_us": percentile([int(f[2]) for f in found], 99),
            "landed_p50_us": percentile(landed, 50), "landed_p99_us": percentile(landed, 99)}


def idle(setup, row):
    for tokens in setup.options.lengths:
        count = 4 if tokens > 16384 else setup.options.count
        setup.bench("--num-prompts", 2, "--max-concurrency", 1, "--input-len", tokens, "--output-len", 8, "--seed", 900)
        since = os.path.getsize(setup.log)
        got = setup.bench("--num-prompts", count, "--max-concurrency", 1, "--input-len", tokens, "--output-len", 33,
                          "--seed", tokens)
        time.sleep(0.1)
        row(f"idle, {tokens} tokens", ttft_p50_ms=got["median_ttft_ms"], ttft_max_ms=got["max_ttft_ms"],
            tpot_p50_ms=got["median_tpot_ms"], **handoffs(setup.text(since)))


def interference(setup, row, name="no pause", *words):
    since = os.path.getsize(setup.log)
    got = setup.bench("--interference", "--streams", 32, "--long-prompts", setup.options.count, "--long-len",
                      setup.options.long, "--quiet", f"{setup.options.quiet_s}s", "--seed", 77 + len(words), *words)
    time.sleep(0.1)
    text, large = setup.text(since), 64 << 20
    row(name, ratio_p99=got["p99_disturbed_itl_ms"] / max(1e-9, got["p99_quiet_itl_ms"]),
        **{k: v for k, v in got.items() if re.search(r"(p99|median|max)_.*itl_ms", k)},
        long_ttft_p50_ms=statistics.median(got["long_ttfts_ms"]), long_ttft_max_ms=max(got["long_ttfts_ms"]))
    row(f"{name}, handoffs of the prompts", **handoffs(text, least_bytes=large))
    row(f"{name}, handoffs of the streams", **handoffs(text, most_bytes=large))


def each_second(setup, row):
    interference(setup, row, "each second", "--long-every", "1s")


def second_turn(setup, row):
    first, said = setup.options.chat
    prompt = [2 + (i * 7919) % 20000 for i in range(first)]
    times, since = {"pulled": [], "computed": []}, os.path.getsize(setup.log)
    for i in range(setup.options.chats):
        own = prompt[:]
        own[0] = 3 + i
        setup.complete(own, said, 17)
        time.sleep(0.5)
        for name, token in (("pulled", 17), ("computed", 18)):
            times[name].append(1e3 * setup.complete(own + [token] * said + [5 + i] * 64, 2, 17))
    with urllib.request.urlopen(f"http://127.0.0.1:{setup.port}/metrics", timeout=5) as answer:
        reused = re.findall(r'reused_total\{[^}]*source="peer"[^}]*\} (\S+)', answer.read().decode())
    pulls = [(size, us, exposed) for name, size, us, exposed in landings(setup.text(since)) if name.startswith("decode")]
    row("second turn", tokens=first + said, answer=said, pulled_ttft_ms=percentile(times["pulled"], 50),
        computed_ttft_ms=percentile(times["computed"], 50), all_pulled=times["pulled"], all_computed=times["computed"],
        tokens_from_peers=sum(map(float, reused)), pulls=len(pulls),
        pull_us=percentile([us for _, us, _ in pulls], 50),
        pull_exposed_us=percentile([exposed for _, _, exposed in pulls], 50),
        pull_gb_s=percentile([size / us * 1e-3 for size, us, _ in pulls], 50))


def killed(setup, row):
    load = ["--num-prompts", 32, "--max-concurrency", 32, "--input-len", 200, "--output-len", 600]
    for name, kill in (("not killed", False), ("killed", True)):
        since = os.path.getsize(setup.log)
        with subprocess.Popen([setup.options.bench or setup.options.baton, "bench", "--base-url", f"http://127.0.0.1:{setup.port}", "--json",
                               "-", *map(str, load), "--seed", str(31 + kill)], stdout=subprocess.PIPE, text=True) as run:
            if kill:
                time.sleep(setup.options.kill_s)
                pid = int(re.findall(r'event="started" child=decode-0 pid=(\d+)', setup.text())[-1])
                os.kill(pid, signal.SIGKILL)
            got = json.loads(run.communicate(timeout=60)[0])
        time.sleep(1.2)  # heartbeats
        with urllib.request.urlopen(f"http://127.0.0.1:{setup.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        over = len(re.findall(r'event="failing over"', setup.text(since)))
        again = sum(map(float, re.findall(r'^baton_recomputed_tokens_total\S* (\S+)', text, re.M)))
        row(name, completed=got["completed"], failed=got["failed"], output_tokens=got["total_output_tokens"],
            failovers=over, recomputed_tokens=again, recomputed_each=again / max(1, over),
            itl_p50_ms=got["median_itl_ms"], itl_p99_ms=got["p99_itl_ms"], itl_max_ms=got["max_itl_ms"])


def arrivals(setup, row):
    tokens, answer = setup.options.request
    for rate in setup.options.rates:
        since = os.path.getsize(setup.log)
        got = setup.bench("--num-prompts", int(rate * setup.options.span_s), "--request-rate", rate, "--input-len",
                          tokens, "--output-len", answer, "--goodput", "ttft:500", "--goodput", "tpot:30", "--seed",
                          int(rate * 1000))
        row(f"arrivals, {rate} a second", goodput=got["request_goodput"], throughput=got["request_throughput"],
            **{k: got[k] for k in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "p99_itl_ms")})
        if setup.name.startswith("split"):
            row(f"arrivals, {rate} a second, handoffs", **handoffs(setup.text(since)))


def serving(setup, row):
    for at_once in (128, 256):
        got = setup.bench("--num-prompts", at_once * setup.options.rounds, "--max-concurrency", at_once, "--input-len",
                          1024, "--output-len", 128, "--seed", at_once, timeout_s=120)
        row(f"serving, {at_once} at once", **{k: got.get(k, float("nan")) for k in (
            "output_throughput", "median_ttft_ms", "median_tpot_ms", "median_itl_ms", "p99_itl_ms", "max_itl_ms",
            "duration")})


def streaming(setup, row):
    got = setup.bench("--num-prompts", 256, "--max-concurrency", 256, "--input-len", 16, "--output-len", 512, "--seed",
                      5, timeout_s=120)
    row("streaming, 256 at once", tokens_per_s=256e3 / got["median_tpot_ms"], **{k: got.get(k, float("nan")) for k in (
        "output_throughput", "median_tpot_ms", "median_itl_ms", "p99_itl_ms", "median_ttft_ms")})


def setups(options):
    pair = options.devices
    one, other = pair.split(",")[0], pair.split(",")[-1]
    split = ["--prefill-workers", "1", "--decode-workers", "1", "--prefill-chunk", "8192", "--device", pair]
    direct = ["--carrier", options.carrier, "--kv-bytes", options.kv_bytes]
    return {"split": ([*split, *direct], [idle, each_second, interference, second_turn, arrivals]),
            "split, pulls": ([*split, *direct, "--place", "pull"], [second_turn]),
            "colocated": (["--colocated", "1", "--prefill-chunk", str(options.chunk), "--device", one, *direct],
                          [idle, each_second, interference, serving, streaming]),
            "colocated x 2": (["--colocated", "2", "--prefill-chunk", "512", "--device", pair, *direct], [arrivals]),
            "two decode workers": (["--prefill-workers", "1", "--decode-workers", "2", "--prefill-chunk", "8192",
                                    "--device", f"{one},{other},{other}", "--kv-bytes", options.kill_kv_bytes, "--store",
                                    options.kill_kv_bytes], [killed]),
            "split by shm": ([*split, "--carrier", "shm", "--kv-bytes", options.kv_bytes], [idle]),
            "split, late offers": ([*split, *direct, "--offer", "late"], [idle])}


def numbers(text):
    return [int(n) for n in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default=os.path.join(HERE, "../build/release/baton"))
    parser.add_argument("--bench", help="another program to make the load with")
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--dummy-weights", default="llama-3.1-8b")
    parser.add_argument("--model", help="a file instead of random weights")
    parser.add_argument("--setups", default="split;split, pulls;colocated;colocated x 2;two decode workers",
                        help="names, with ; between them")
    parser.add_argument("--lengths", type=numbers, default=[512, 2048, 8192, 32768])
    parser.add_argument("--rates", type=numbers, default=[8, 14, 18])
    parser.add_argument("--request", type=numbers, default=[2048, 256])
    parser.add_argument("--chat", type=numbers, default=[4096, 1024])
    parser.add_argument("--chats", type=int, default=5)
    parser.add_argument("--quiet-s", type=int, default=4)
    parser.add_argument("--kill-s", type=float, default=2.5, help="when the worker is killed")
    parser.add_argument("--kill-kv-bytes", default="12G")
    parser.add_argument("--long", type=int, default=8192)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--chunk", type=int, default=512, help="--prefill-chunk of one colocated worker")
    parser.add_argument("--rounds", type=int, default=3, help="requests of serving, times as many at once")
    parser.add_argument("--span-s", type=float, default=7)
    parser.add_argument("--context", type=int, default=40960)
    parser.add_argument("--kv-bytes", default="32G")
    parser.add_argument("--carrier", default="cuda-ipc", help="of all but the setups by shm and with a store")
    parser.add_argument("--more", action="append", default=[], help="a further word for serve")
    parser.add_argument("--parts", default="idle,each_second,interference,second_turn,arrivals,killed")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--json")
    options = parser.parse_args()
    end, rows = time.monotonic() + options.seconds, []
    for name in options.setups.split(";"):
        words, parts = setups(options)[name]
        setup = None

        def row(part, name=name, **figures):
            rows.append({"setup": name, "part": part, **figures})
            print(f"{name}: {part}: " + ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}"
                                                  for k, v in figures.items()), flush=True)
        try:
            if time.monotonic() > end:
                raise RuntimeError("no time is left")
            setup = Setup(options, name, words)
            row("ready", seconds=setup.ready_s)
            for part in [p for p in parts if p.__name__ in options.parts.split(",")]:
                began = time.monotonic()
                if began > end:
                    raise RuntimeError(f"no time is left for {part.__name__}")
                try:
                    part(setup, row)
                except Exception as problem:  # noqa: BLE001 - the next part is still measured
                    print(f"{name}: {part.__name__} FAILED: {problem!r}\n{setup.text()[-600:]}", flush=True)
                print(f"    {time.monotonic() - began:.0f} s", flush=True)
        except Exception as problem:  # noqa: BLE001
            print(f"{name} FAILED: {problem}", flush=True)
        finally:
            if setup is not None:
                setup.stop()
                os.unlink(setup.log)
            if options.json:
                with open(options.json, "w") as f:
                    json.dump(rows, f, indent=1)


if __name__ == "__main__":
    sys.exit(main())
