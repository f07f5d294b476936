#!/usr/bin/env python3
"""What serve takes of memory: weights packed once on a host, however many workers map them.

usage: memory_test.py BATON
"""
import glob
import os
import re
import shutil
import sys
import tempfile

from baton import MODEL, PATIENT, SLOW, SMALL, SMALL_MODELS, Server, main

SIZE = ["--ctx", "2048", "--kv-bytes", "64M"]
if SLOW > 1:  # a step of the default size takes longer than a live worker's step may
    SIZE += ["--prefill-chunk", "64"]
BODY = {"prompt": list(range(5, 300)), "max_tokens": 16, "ignore_eos": True, "temperature": 0}
MIB = 1 << 20


def model_in(folder, model):
    to = os.path.join(folder, os.path.basename(model))
    os.link(model, to) if os.stat(model).st_dev == os.stat(folder).st_dev else shutil.copy(model, to)
    return to


def processes_of(server):
    pids = [server.process.pid]
    for pid in pids:
        for children in glob.glob(f"/proc/{pid}/task/*/children"):
            pids += [int(p) for p in open(children).read().split()]
    return pids


# Where a sanitizer keeps what it knows of the memory, on x86-64: first address, end.
SHADOWS = {"address,undefined": [(0x7fff7000, 0x10007fff8000)],
           "thread": [(0x10000000000, 0x200000000000), (0x300000000000, 0x400000000000), (0x600000000000, 0x620000000000)]}


def pss_bytes(pid):
    """The process's share of memory; a sanitizer's shadow is not the program's, nor what it adds to the program's file."""
    sanitizer = os.environ.get("BATON_SANITIZE")
    shadows = SHADOWS.get(sanitizer, [])
    program = os.readlink(f"/proc/{pid}/exe") if sanitizer else None  # 20 MiB a process with checks and their tables
    found = re.findall(r"^([0-9a-f]+)-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)\n(?:[A-Z]\w+: .*\n)*?Pss: +(\d+) kB",
                       open(f"/proc/{pid}/smaps").read(), re.M)
    assert found, f"no Pss in /proc/{pid}/smaps"
    return 1024 * sum(int(kib) for address, name, kib in found
                      if name != program and not any(first <= int(address, 16) < end for first, end in shadows))


def written_sums(log):
    """[(weights, pool, activations)] in bytes, of each worker's line "memory"."""
    found = re.findall(r"event=\"memory\" sum=\"weights ([\d.]+) MiB \+ KV pool ([\d.]+) MiB \(\d+ blocks of \d+ bytes\) \+ activations ([\d.]+)",
                       log)
    return [tuple(float(n) * MIB for n in sums) for sums in found]


def test_sum(binary):
    """PSS of all processes is within the sum that the log wrote, weights counted once."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(MODEL)) as folder:
        with Server(binary, model_in(folder, MODEL), *PATIENT, *SIZE) as server:
            for n in range(2):  # both pools hold 182 blocks of 16 tokens: all of them are used
                server.complete(**{**BODY, "prompt": list(range(5 + n, 1505 + n))})
            sums = written_sums(server.process.log())
            assert len(sums) == 2, server.process.log()
            weights = sums[0][0]
            assert sums[1][0] == weights
            pss = sum(pss_bytes(pid) for pid in processes_of(server))
            pools = sum(pool for _, pool, _ in sums)
            limit = weights + pools + 128e6
            print(f"PSS {pss / MIB:.1f} MiB, weights + pools + 128 MB = {limit / MIB:.1f} MiB")
            assert weights + 0.9 * pools < pss, (pss / MIB, limit / MIB)
            assert pss <= limit, (pss / MIB, limit / MIB)
            assert len(glob.glob(folder + "/*.packed")) == 1 and not glob.glob(folder + "/*.part")


def test_same_answers(binary):
    """Weights made, read, made anew over a damaged file, and private ones give the same tokens."""
    with tempfile.TemporaryDirectory() as folder:
        model = model_in(folder, os.path.join(SMALL_MODELS, "llama3-q4_k.gguf"))
        answers, inodes = [], []
        for damage in (None, None, b"\0" * 64, b"BATONPAK", "off"):
            packed = glob.glob(folder + "/*.packed")
            if isinstance(damage, bytes):
                with open(packed[0], "r+b") as file:
                    file.write(damage) if len(damage) > 8 else file.truncate(5000)
            option = ["--packed-weights", "off"] if damage == "off" else []
            with Server(binary, model, "--kv-bytes", "8M", *option) as server:
                answers.append(server.complete(**{**BODY, "logprobs": 3})["choices"][0]["logprobs"]["token_logprobs"])
            inodes.append(os.stat(glob.glob(folder + "/*.packed")[0]).st_ino)
        assert all(a == answers[0] for a in answers), answers
        assert inodes[0] == inodes[1] and inodes[1] != inodes[2] != inodes[3] == inodes[4], inodes


def test_no_place(binary):
    """A folder that cannot be written to costs the sharing, not the service, and the log says so."""
    with Server(binary, SMALL, "--kv-bytes", "8M", "--packed-weights", "/nonexistent/folder") as server:
        server.complete(**BODY)
        assert "weights are not shared" in server.process.log()


def test_others_file_is_not_trusted(binary):
    """A packed file that others may write to is made anew."""
    with tempfile.TemporaryDirectory() as folder:
        model = model_in(folder, SMALL)
        for _ in range(2):
            with Server(binary, model, "--kv-bytes", "8M") as server:
                server.complete(**BODY)
            packed, = glob.glob(folder + "/*.packed")
            inode = os.stat(packed).st_ino
            os.chmod(packed, 0o666)
        with Server(binary, model, "--kv-bytes", "8M") as server:
            server.complete(**BODY)
        assert os.stat(packed).st_ino != inode and os.stat(packed).st_mode & 0o022 == 0


def pool_policies(server):
    """What the kernel says of each pool: {worker's name: policy}."""
    policies = {}
    for pid in processes_of(server):
        name = re.search(r"--name=([^\0]+)", open(f"/proc/{pid}/cmdline").read())
        pools = re.findall(r"^[0-9a-f]+ (\S+) file=/memfd:baton-pool", open(f"/proc/{pid}/numa_maps").read(), re.M)
        if name and pools:
            assert len(set(pools)) == 1, pools
            policies[name.group(1)] = pools[0]
    return policies


def test_nodes(binary):
    """Pools lie where the log says, a copy for a node is a file of its own, and answers stay the same."""
    if not os.path.exists("/proc/self/numa_maps"):
        print("      this kernel has no memory policies: nothing to see")
        return
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        model = model_in(folder, SMALL)
        for numa in ("off", "local", "interleave", "copy", "auto"):
            for made in glob.glob(folder + "/*.packed"):
                os.remove(made)
            with Server(binary, model, "--kv-bytes", "8M", "--numa", numa) as server:
                answers[numa] = server.complete(**BODY)["choices"][0]["text"]
                log, policies = server.process.log(), pool_policies(server)
            told = dict(re.findall(r'INFO (\S+) event="placement" pool=(\S+)', log))
            assert set(policies) == {"prefill-0", "decode-0"}, policies
            if numa == "off" or "memory is not placed" in log:
                assert not told and set(policies.values()) == {"default"}, (told, policies)
            else:
                assert told == policies and all(re.fullmatch(r"prefer:\d+|interleave:[\d,-]+", p) for p in told.values()), (told, policies)
            own = glob.glob(folder + "/*.node*.packed")
            alone = [p for p in told.values() if p.startswith("prefer")]
            if numa == "copy" and alone:
                assert sorted(re.search(r"node(\d+)", p).group(1) for p in own) == sorted({p[7:] for p in alone}), (own, alone)
            if numa in ("off", "local", "interleave"):
                assert not own and len(glob.glob(folder + "/*.packed")) == 1, own
    assert len(set(answers.values())) == 1, answers


main([test_sum, test_same_answers, test_no_place, test_others_file_is_not_trusted, test_nodes], sys.argv)
