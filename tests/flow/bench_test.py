#!/usr/bin/env python3
"""baton bench against a small server whose speed is known: counts, keys, times, prompts, failures.

usage: bench_test.py BATON
"""
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BATON = sys.argv.pop(1) if len(sys.argv) > 1 else "build/release/baton"
FIRST_S = 0.060
GAP_S = 0.020


class Server(ThreadingHTTPServer):
    """Answers in a fixed time and remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.lock = threading.Lock()
        self.bodies, self.arrivals = [], []
        self.running = self.running_max = 0
        self.stalled = threading.Event()  # set while a long prompt is "computed"
        self.key = None
        self.fail_at = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self):
        if self.server.key and self.headers.get("Authorization") != "Bearer " + self.server.key:
            self.reply(401, {"error": {"message": "no key", "type": "x", "code": None}})
            return True
        return False

    def do_GET(self):
        if not self.refuse():
            self.reply(200, {"object": "list", "data": [{"id": "fake-\"model\"", "object": "model"}]})

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, value):
        self.chunk("data: " + json.dumps(value) + "\n\n")

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refuse():
            return
        with server.lock:
            server.bodies.append((self.path, body))
            server.arrivals.append(time.monotonic())
            number = len(server.bodies)
            server.running += 1
            server.running_max = max(server.running_max, server.running)
        try:
            if server.fail_at == number:
                self.reply(429, {"error": {"message": "too busy", "type": "x", "code": None}})
                return
            self.stream(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.running -= 1

    def stream(self, body):
        server = self.server
        chat = "messages" in body
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        count = body["max_completion_tokens"] if chat else body["max_tokens"]
        tokens = len(prompt.split()) if isinstance(prompt, str) else len(prompt)
        long = tokens >= 500
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if chat:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        if long:
            server.stalled.set()
            time.sleep(0.3)
            server.stalled.clear()
        time.sleep(FIRST_S)
        for i in range(count):
            if i > 0:
                time.sleep(GAP_S)
                while server.stalled.is_set() and not long:
                    time.sleep(0.005)
            # A comment, and an event in two pieces, as servers and networks send them.
            self.chunk(": ping\n\n")
            # A character that is not whole yet; one that some take for the end of a string.
            text = ("x\0" if i % 5 == 2 else "x") if i % 5 else ""
            choice = {"index": 0, "finish_reason": None}
            choice.update({"delta": {"content": text}} if chat else {"text": text})
            data = "data: " + json.dumps({"choices": [choice]}) + "\n\n"
            self.chunk(data[:9])
            self.chunk(data[9:])
        last = {"index": 0, "finish_reason": "length"}
        last.update({"delta": {}} if chat else {"text": ""})
        self.event({"choices": [last]})
        self.event({"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": count}})
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")


class BenchTest(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def bench(self, *arguments, code=0):
        done = subprocess.run([BATON, "bench", "--base-url", self.server.url, *arguments],
                              capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def bench_json(self, *arguments):
        done = self.bench(*arguments, "--json", "-")
        self.assertEqual(done.stderr, "")  # no progress in a pipe
        return json.loads(done.stdout)

    def test_progress_on_a_terminal(self):
        terminal, slave = pty.openpty()
        try:
            child = subprocess.Popen([BATON, "bench", "--base-url", self.server.url, "--num-prompts", "8",
                                      "--max-concurrency", "1", "--input-len", "5", "--output-len", "25"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave)
            self.addCleanup(child.kill)
            self.assertEqual(child.wait(120), 0)
            shown = os.read(terminal, 65536).decode()
        finally:
            os.close(slave)
            os.close(terminal)
        self.assertRegex(shown, r"\r\d of 8 done, \d running, 0 failed")

    def test_keys_counts_and_times(self):
        found = self.bench_json("--num-prompts", "6", "--max-concurrency", "2", "--input-len", "50",
                                "--output-len", "10")
        self.assertEqual(found["completed"], 6)
        self.assertEqual(found["failed"], 0)
        self.assertEqual(found["total_input_tokens"], 300)
        self.assertEqual(found["total_output_tokens"], 60)
        self.assertEqual(found["model_id"], 'fake-"model"')
        self.assertEqual(found["tokenizer_id"], 'fake-"model"')
        self.assertEqual((found["backend"], found["endpoint_type"]), ("openai", "openai"))
        self.assertIsNone(found["label"])
        self.assertRegex(found["date"], r"^\d{8}-\d{6}$")
        self.assertEqual(found["max_concurrency"], 2)
        self.assertEqual(found["request_rate"], "inf")
        self.assertIsNone(found["request_goodput"])
        self.assertEqual(self.server.running_max, 2)
        for name in ("ttft", "tpot", "itl", "e2el"):
            for figure in ("mean", "median", "std", "p99"):
                self.assertIsInstance(found[f"{figure}_{name}_ms"], float)
        for name in ("duration", "request_throughput", "output_throughput",
                     "total_token_throughput"):
            self.assertGreater(found[name], 0)
        # Lower bounds only: the machine may be slow, never fast.
        self.assertGreaterEqual(found["median_ttft_ms"], FIRST_S * 1000 - 1)
        self.assertGreaterEqual(found["mean_itl_ms"], GAP_S * 1000 - 1)
        self.assertGreaterEqual(found["mean_tpot_ms"], GAP_S * 1000 - 1)
        self.assertGreaterEqual(found["median_e2el_ms"], (FIRST_S + 9 * GAP_S) * 1000 - 1)
        self.assertAlmostEqual(found["output_throughput"], 60 / found["duration"], places=6)
        self.assertAlmostEqual(found["total_token_throughput"], 360 / found["duration"], places=6)
        for path, body in self.server.bodies:
            self.assertEqual(path, "/v1/completions")
            self.assertEqual(len(body["prompt"]), 50)
            self.assertEqual(body["max_tokens"], 10)
            self.assertIs(body["ignore_eos"], True)
            self.assertIs(body["stream"], True)
        self.assertEqual(len({tuple(body["prompt"]) for _, body in self.server.bodies}), 6)

    def test_table_and_file(self):
        with tempfile.NamedTemporaryFile() as to:
            done = self.bench("--num-prompts", "2", "--output-len", "2", "--goodput", "ttft:100000",
                              "--goodput", "tpot:100000", "--json", to.name)
            found = json.loads(to.read())
        for line in ("Successful requests:                     2", "Request goodput (req/s):",
                     "Mean TTFT (ms):", "P99 TPOT (ms):", "Median ITL (ms):", "P99 E2EL (ms):"):
            self.assertIn(line, done.stdout)
        self.assertAlmostEqual(found["request_goodput"], found["request_throughput"])

    def test_goodput_counts_only_the_good(self):
        found = self.bench_json("--num-prompts", "2", "--output-len", "2", "--goodput", "ttft:1")
        self.assertEqual(found["request_goodput"], 0)

    def test_chat_and_text(self):
        found = self.bench_json("--endpoint", "chat", "--num-prompts", "2", "--input-len", "30",
                                "--output-len", "4", "--no-ignore-eos", "--model", "m")
        self.assertEqual(found["total_input_tokens"], 60)
        self.assertEqual(found["total_output_tokens"], 8)
        self.assertEqual(found["endpoint_type"], "openai-chat")
        self.assertEqual(found["backend"], "openai-chat")
        # The role's chunk comes at once and is no token.
        self.assertGreaterEqual(found["median_ttft_ms"], FIRST_S * 1000 - 1)
        path, body = self.server.bodies[0]
        self.assertEqual(path, "/v1/chat/completions")
        self.assertEqual(body["model"], "m")
        self.assertNotIn("ignore_eos", body)

    def test_seed_and_rate(self):
        common = ("--num-prompts", "20", "--input-len", "20", "--output-len", "1", "--prefix-len",
                  "5", "--range-ratio", "0.5", "--request-rate", "40", "--seed", "7")
        self.bench_json(*common)
        first = sorted(json.dumps(b["prompt"]) for _, b in self.server.bodies)
        spread = max(self.server.arrivals) - min(self.server.arrivals)
        self.assertGreater(spread, 0.1)  # 19 gaps of 25 ms on average
        prompts = [b["prompt"] for _, b in self.server.bodies]
        self.assertEqual(len({tuple(p[:5]) for p in prompts}), 1)
        self.assertGreater(len({len(p) for p in prompts}), 3)
        self.assertTrue(all(15 <= len(p) <= 35 for p in prompts))
        self.server.bodies.clear()
        self.bench_json(*common)
        again = sorted(json.dumps(b["prompt"]) for _, b in self.server.bodies)
        self.assertEqual(first, again)

    def test_trace(self):
        rows = [(0, 900, 3, [3, 9]), (10, 700, 2, [3, 4]), (2000, 100, 1, [5])]
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as trace:
            for at, given, made, ids in rows:
                trace.write(json.dumps({"timestamp": at, "input_length": given,
                                        "output_length": made, "hash_ids": ids}) + "\n")
            trace.flush()
            found = self.bench_json("--trace", trace.name, "--speed", "4")
            self.assertEqual(found["completed"], 3)
            self.assertEqual(found["total_input_tokens"], 1700)
            self.assertEqual(found["total_output_tokens"], 6)
            self.assertGreaterEqual(found["duration"], 0.5)
            prompts = {len(b["prompt"]): b["prompt"] for _, b in self.server.bodies}
            self.assertEqual(prompts[900][:512], prompts[700][:512])
            self.assertNotEqual(prompts[900][512:600], prompts[700][512:600])
            found = self.bench_json("--trace", trace.name, "--speed", "inf", "--limit", "2",
                                    "--length-scale", "0.1")
            self.assertEqual(found["total_input_tokens"], 160)

    def test_key_and_failures(self):
        self.server.key = "secret"
        done = self.bench("--num-prompts", "1", code=1)
        self.assertIn("401", done.stderr)
        self.assertIn("no key", done.stderr)
        self.server.fail_at = 2
        found = self.bench_json("--api-key", "secret", "--num-prompts", "3", "--output-len", "1")
        self.assertEqual((found["completed"], found["failed"]), (2, 1))
        done = subprocess.run([BATON, "bench", "--base-url", "http://127.0.0.1:1"],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("127.0.0.1:1", done.stderr)
        for arguments in (["--base-url", "https://a"], ["--goodput", "ttfx:1"],
                          ["--trace", "/nonexistent"],
                          ["--endpoint", "chat", "--prompt", "tokens"]):
            done = self.bench("--api-key", "secret", *arguments, code=1)
            self.assertNotEqual(done.stderr, "")
        self.bench("--num-prompts", "0", code=2)

    def test_interference(self):
        found = self.bench_json("--interference", "--streams", "2", "--quiet", "1s",
                                "--long-prompts", "2", "--long-len", "600")
        self.assertEqual(len(found["long_ttfts_ms"]), 2)
        self.assertEqual(found["long_input_tokens"], 1200)
        self.assertGreaterEqual(min(found["long_ttfts_ms"]), 350)
        # The fake server stops its streams for 300 ms for each long prompt.
        self.assertGreaterEqual(found["max_disturbed_itl_ms"], 250)
        self.assertLess(found["median_quiet_itl_ms"], 200)
        self.assertGreater(found["max_disturbed_itl_ms"], found["median_quiet_itl_ms"])
        # Quiet is before and after, and both have samples.
        self.assertLess(found["median_before_itl_ms"], 200)
        self.assertGreater(found["median_before_itl_ms"], 0)
        self.assertLess(found["median_after_itl_ms"], 200)
        self.assertGreater(found["median_after_itl_ms"], 0)
        self.assertGreaterEqual(found["quiet_duration"], 2)
        # Begun at fixed times: each has its whole period.
        found = self.bench_json("--interference", "--streams", "2", "--quiet", "200ms",
                                "--long-prompts", "3", "--long-len", "600", "--long-every", "700ms")
        self.assertEqual(len(found["long_ttfts_ms"]), 3)
        self.assertGreaterEqual(found["disturbed_duration"], 2.1)
        done = self.bench("--interference", "--streams", "1", "--quiet", "200ms", "--long-prompts",
                          "1", "--long-len", "600")
        for line in ("ITL quiet (ms)", "ITL disturbed (ms)", "TTFT of long prompts (ms)"):
            self.assertIn(line, done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
