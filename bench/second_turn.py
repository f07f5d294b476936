#!/usr/bin/env python3
"""The second turn of a chat: the time to its first token, by where its blocks come from.

    bench/second_turn.py build/release/baton models/MODEL.gguf [--turns 5] [--prompt 512] [--answer 64]

A conversation has a prompt, an answer, and some tokens more. Each way is a deployment of its own in which
only that way is open, as workers without a prefix cache forget what they had:

    pull       the prefill worker forgets, the decode worker has all: fetched from it
    at decode  the same, and what is left is computed on the decode worker (--local-tokens)
    store      both forget, the store has all
    recompute  nobody has anything
    chosen     all of these are open: what baton picks by itself

Prints a line for each, and where the tokens came from; the ways take turns, so that what else the machine
does falls on all of them alike. Then chats in words: how much of what the first turn left in full blocks the
second one reuses, as its text may become other tokens than the model chose."""
import argparse
import http.client
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

from served import free_port

QUESTIONS = [
    "Why is the sky blue?", "Write a haiku about rain.", "List five uses of a brick.",
    "How do I boil an egg?", "Explain recursion with an example in Python.", "Who was Ada Lovelace?",
    "Translate 'good morning' into French, German and Spanish.", "What is 17 times 23? Show the steps.",
    "Give me a recipe for pancakes with measures.", "Tell me a short story about a fox and a crow.",
]
FORGETS = ["--prefix-cache-bytes", "0"]
# name: of prefill, of decode, of the router, store?
WAYS = {
    "pull": (FORGETS, [], [], False),
    "at decode": (FORGETS, [], ["--local-tokens", "4096"], False),
    "store": (FORGETS, FORGETS, [], True),
    "recompute": (FORGETS, FORGETS, [], False),
    "chosen": (FORGETS, [], ["--local-tokens", "4096"], True),
}


class Deployment:
    """Router, one worker of each role on a core of its own, and a store."""

    def __init__(self, binary, model, way, ctx):
        prefill, decode, router, stored = WAYS[way]
        self.folder = tempfile.mkdtemp(prefix="baton-bench-")
        self.port, self.children = free_port(), []
        link, store = f"unix:{self.folder}/router", f"unix:{self.folder}/store"
        cores = sorted(os.sched_getaffinity(0))
        if stored:
            self.start(binary, "store", "--listen", store, "--transfer", f"unix:{self.folder}/ts",
                       "--memory-bytes", "1G")
        self.start(binary, "router", "--port", str(self.port), "--workers", link, "--expect-workers",
                   "2", *router, model)
        for number, (role, more) in enumerate((("prefill", prefill), ("decode", decode))):
            if stored:
                more = [*more, "--store", store]
            self.start(binary, role, "--name", role, "--router", link, "--transfer",
                       f"unix:{self.folder}/{role}", "--cpus", str(cores[number % len(cores)]),
                       "--ctx", str(ctx), *more, model)
        end = time.monotonic() + 60
        while not self.ready(2 if stored else 0):
            assert time.monotonic() < end, f"{way}: not ready; see {self.folder}"
            time.sleep(0.1)

    def start(self, *args):
        log = open(f"{self.folder}/{args[1]}.log", "w")  # noqa: SIM115 - the child's
        self.children.append(subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def metric(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics")[1].splitlines()
                   if line.startswith(name))

    def ready(self, stores):
        try:
            return self.get("/health")[0] == 200 and self.metric("baton_worker_store_up") >= stores
        except OSError:
            return False

    def chat(self, messages, tokens, seed):
        body = {"messages": messages, "max_tokens": tokens, "temperature": 0.8, "seed": seed}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer["choices"][0]["message"]["content"], answer["usage"]

    def ask(self, prompt, tokens):
        """Seconds to the first token, how many were reused, and the tokens' text."""
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True},
                "logit_bias": {"17": 100}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        first_s, usage = None, {}
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                first_s = first_s or time.monotonic() - start
                usage = json.loads(line[6:]).get("usage") or usage
        connection.close()
        return first_s, usage["prompt_tokens_details"]["cached_tokens"]

    def close(self):
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder)


def chats(args):
    """Tokens that second turns reuse, and those that they could if text came back as the same tokens:
    the full blocks of the first turn. Its last token has no keys and values."""
    reused, possible, whole = 0, 0, 0
    server = Deployment(args.binary, args.model, "pull", 2048)
    try:
        for turn in range(args.chats):
            asked = [{"role": "user", "content": QUESTIONS[turn % len(QUESTIONS)]}]
            text, first = server.chat(asked, 200, turn)
            time.sleep(0.3)
            asked += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
            _, second = server.chat(asked, 2, turn)
            full = (first["prompt_tokens"] + first["completion_tokens"] - 1) // 16 * 16
            cached = second["prompt_tokens_details"]["cached_tokens"]
            reused, possible, whole = reused + cached, possible + full, whole + (cached >= full)
    finally:
        server.close()
    print(f"{args.chats} chats in words: {reused} of {possible} tokens in full blocks reused "
          f"({100 * reused / possible:.1f} %), all of them in {whole} chats")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--more", type=int, default=32)
    parser.add_argument("--chats", type=int, default=30)
    parser.add_argument("--json")
    args = parser.parse_args()
    ctx = args.prompt + args.answer + args.more + 64
    dice = random.Random(1)
    seconds, reused = {w: [] for w in WAYS}, {w: [] for w in WAYS}
    running = {w: Deployment(args.binary, args.model, w, ctx) for w in WAYS}
    try:
        for turn in range(-1, args.turns):  # the first one teaches the rates, and is not counted
            first = [dice.randrange(20, 30000) for _ in range(args.prompt)]
            second = first + [17] * args.answer + [dice.randrange(20, 30000)
                                                   for _ in range(args.more)]
            for way, server in running.items():
                server.ask(first, args.answer)
                time.sleep(0.3)  # the last blocks are told of, and saved
                took_s, cached = server.ask(second, 2)
                if turn >= 0:
                    seconds[way].append(took_s)
                    reused[way].append(cached)
    finally:
        for server in running.values():
            server.close()
    print(f"second turn of {args.prompt} + {args.answer} + {args.more} tokens, {args.turns} turns each")
    for way, values in seconds.items():
        print(f"{way:10} first token after {statistics.median(values) * 1e3:8.1f} ms "
              f"({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f}), "
              f"{statistics.median(reused[way]):.0f} of "
              f"{(args.prompt + args.answer - 1) // 16 * 16} tokens reused")
    if args.chats:
        chats(args)
    if args.json:
        with open(args.json, "w") as out:
            json.dump({"seconds": seconds, "reused": reused}, out)


if __name__ == "__main__":
    main()
