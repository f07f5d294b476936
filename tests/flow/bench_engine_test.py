#!/usr/bin/env python3
"""baton bench engine and baton bench floor: what they print is complete and possible.

usage: bench_engine_test.py BATON
"""
import json
import os
import subprocess
import sys
import unittest

BATON = sys.argv.pop(1) if len(sys.argv) > 1 else "build/release/baton"
MODELS = os.path.join(os.path.dirname(__file__), "..", "vectors", "models")
MODEL = os.path.join(MODELS, "llama-q4_0.gguf")
BF16_MODEL = os.path.join(MODELS, "qwen2-bf16-tied.gguf")


def bench(*arguments):
    return subprocess.run([BATON, "bench", *arguments], capture_output=True, text=True, timeout=120)


class BenchEngine(unittest.TestCase):
    def test_results(self):
        done = bench("engine", MODEL, "--prefill", "24", "--decode", "3", "--batch", "1,3", "--depth", "0,17",
                     "--threads", "2", "--repeat", "1", "--json", "-")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["threads"], 2)
        self.assertEqual(report["numerics_class"], "cpu-int8")
        self.assertGreater(report["floor"]["read_bytes_per_s"], 0)
        cases = [(r["depth"], r["batch"], "prefill" if "prefill_tok_s" in r else "decode") for r in report["results"]]
        self.assertEqual(cases, [(depth, batch, kind) for depth in (0, 17)
                                 for batch, kind in ((1, "prefill"), (1, "decode"), (3, "decode"))])
        for (_, _, kind), result in zip(cases, report["results"]):
            self.assertGreater(result[kind + "_tok_s"], 0)
            self.assertGreater(result[kind + "_floor_ratio"], 0)

    def test_class(self):
        done = bench("engine", BF16_MODEL, "--kernels", "bf16", "--prefill", "24", "--decode", "2", "--batch", "1",
                     "--repeat", "1", "--json", "-")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["numerics_class"], "cpu-bf16")
        for result in report["results"]:
            kind = "prefill" if "prefill_tok_s" in result else "decode"
            self.assertGreater(result[kind + "_floor_ratio"], 0)

    def test_what_does_not_fit_is_left_out(self):
        done = bench("engine", MODEL, "--prefill", "8", "--decode", "2", "--batch", "1", "--depth", "1000000",
                     "--repeat", "1", "--json", "-")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["results"], [])
        self.assertIn("left out", done.stderr)

    def test_wrong_arguments(self):
        for arguments, said in ((["--batch", "1,,2"], "--batch"), (["--depth", "-1"], "--depth"),
                                (["--kernels", "fast"], "fast"), (["--variant", "mmx"], "mmx")):
            done = bench("engine", MODEL, *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(said, done.stderr)
        self.assertEqual(bench("engine").returncode, 2)

    def test_floor(self):
        done = bench("floor", "--threads", "2", "--repeat", "1", "--json", "-")
        self.assertEqual(done.returncode, 0, done.stderr)
        floors = json.loads(done.stdout)["floors"]
        self.assertEqual([f["threads"] for f in floors], [1, 2])
        for floor in floors:
            self.assertGreater(floor["float_operations_per_s"], 1e8)
            self.assertGreater(floor["int8_operations_per_s"], 1e8)
            self.assertGreater(floor["bf16_operations_per_s"], 1e8)
            self.assertGreater(floor["read_bytes_per_s"], 1e8)


if __name__ == "__main__":
    unittest.main()
