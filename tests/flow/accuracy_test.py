#!/usr/bin/env python3
"""baton bench accuracy: the reference is no distance from itself, a class and a file are as far as they are.

usage: accuracy_test.py BATON
"""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

from baton import SMALL_MODELS, Server, main

MODEL = os.path.join(SMALL_MODELS, "llama-q4_0.gguf")
CONTEXT = 32
HALF = CONTEXT // 2
TEXT = "".join(f"Line {n}: the quick brown fox, number {n * n}, jumps over {n} lazy dogs.\n" for n in range(40))


def accuracy(binary, text, *more, fails=False):
    done = subprocess.run([binary, "bench", "accuracy", MODEL, "--text", text, "--tokens", "128", "--ctx", str(CONTEXT),
                           "--threads", "1", *more, "--json", "-"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else json.loads(done.stdout)


def logits_file(path, ids, vocabulary, rows, context=CONTEXT):
    """What llama-perplexity --kl-divergence-base writes, with every token as likely as another."""
    row = struct.pack("<2f", 0, -math.log(vocabulary)) + b"\0" * ((vocabulary + 1) // 2 * 4)
    with open(path, "wb") as file:
        file.write(b"_logits_" + struct.pack("<3i", context, vocabulary, len(ids) // context))
        file.write(struct.pack(f"<{len(ids)}i", *ids) + row * rows)


def test_reference(binary):
    """float with f32 is the reference: no divergence at all; int8 is some way off, f16 keys less than that."""
    with tempfile.NamedTemporaryFile("w") as text:
        text.write(TEXT)
        text.flush()
        same = accuracy(binary, text.name, "--kernels", "float", "--kv-dtype", "f32")
        assert same["positions"] == 4 * (HALF - 1) and same["chunks"] == 4, same
        row, = same["results"]
        assert row["kl_max"] == 0 and row["same_top"] == 1, same
        assert row["perplexity"] == same["reference"]["perplexity"] > 1, same
        half, = accuracy(binary, text.name, "--kernels", "float", "--kv-dtype", "f16")["results"]
        int8, = accuracy(binary, text.name, "--kernels", "int8")["results"]
        assert int8["name"] == "cpu-int8, KV F16", int8
        assert 0 < half["kl_mean"] < int8["kl_mean"] < 0.1, (half, int8)
        assert 0 < int8["kl_median"] <= int8["kl_p99"] <= int8["kl_max"], int8


def test_file(binary):
    """A file of llama-perplexity is compared position by position, and refused when it is of something else."""
    with tempfile.TemporaryDirectory() as folder, Server(binary, MODEL, "--kv-bytes", "8M") as server:
        text, file = os.path.join(folder, "text"), os.path.join(folder, "logits")
        with open(text, "w", encoding="utf-8") as to:
            to.write(TEXT)
        ids = server.call("POST", "/tokenize", {"prompt": TEXT})["tokens"][:4 * CONTEXT]
        vocabulary = server.call("GET", "/tokenizer_info")["vocab_size"]
        logits_file(file, ids, vocabulary, 4 * (HALF - 1))
        found = accuracy(binary, text, "--logits", file)
        by_class, by_file, class_rounded, reference_rounded = found["results"]
        assert by_file["name"] == file and found["positions"] == 4 * (HALF - 1), found
        assert abs(by_file["perplexity"] / vocabulary - 1) < 1e-5, (found, vocabulary)
        assert by_file["kl_mean"] > 10 * by_class["kl_mean"], found
        beside = found["beside_logits"]
        assert abs(beside["kl_difference"] - class_rounded["kl_mean"] + by_file["kl_mean"]) < 1e-6, found
        assert 0 < beside["standard_error"] < by_file["kl_mean"], found
        assert abs(class_rounded["kl_mean"] - by_class["kl_mean"]) < 1e-4, found
        assert abs(reference_rounded["kl_mean"]) < 1e-4, found
        logits_file(file, ids[:2 * CONTEXT], vocabulary, 2 * (HALF - 1))
        assert accuracy(binary, text, "--logits", file)["chunks"] == 2
        for changed, said in (((ids[:40] + [7, 7] + ids[42:], vocabulary, 99), "token ids of the same text; chunk 1"),
                              ((ids, vocabulary + 1, 99), "vocabulary"),
                              ((ids, vocabulary, 99, 64), "chunks of 32 tokens"),
                              ((ids, vocabulary, HALF), "another position")):
            logits_file(file, *changed)
            assert said in accuracy(binary, text, "--logits", file, fails=True), said


main([test_reference, test_file], sys.argv)
