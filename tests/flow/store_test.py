"""The central store as a process: workers connect to it, operators ask it, others are refused."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

from baton import SMALL, Process, Server, free_port, main

SIZE = ["--ctx", "512", "--kv-bytes", "8M"]


def run(binary, *args, timeout_s=30):
    done = subprocess.run([binary, *args], capture_output=True, text=True, timeout=timeout_s)
    return done.returncode, done.stdout, done.stderr


class Store:
    def __init__(self, binary, *options):
        self.folder = tempfile.mkdtemp(prefix="baton-test-")
        self.address = f"unix:{self.folder}/store.sock"
        self.process = Process("store", [binary, "store", "--listen", self.address, *options])
        self.process.wait_for("store listens")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stop()
        self.process.discard()
        shutil.rmtree(self.folder)


def operators_ask(binary):
    port = free_port()
    with Store(binary, "--memory-bytes", "16M", "--metrics-port", str(port)) as store:
        code, out, _ = run(binary, "kv", "stat", "--store", store.address)
        assert code == 0 and re.search(r"keys +0", out), out
        code, out, _ = run(binary, "kv", "query", "--store", store.address, "ab" * 16)
        assert code == 0 and out == "0 of 1 leading keys are there\n", out
        assert run(binary, "kv", "query", "--store", store.address) == (0, "", "")
        code, out, _ = run(binary, "kv", "delete", "--store", store.address, "--all")
        assert code == 0 and out == "0 blocks deleted\n", out
        code, _, err = run(binary, "kv", "delete", "--store", store.address)
        assert code == 1 and "--tree" in err, err
        code, _, err = run(binary, "kv", "query", "--store", store.address, "xyz")
        assert code == 1 and "32 hexadecimal digits" in err, err
        code, _, err = run(binary, "kv", "export", "--store", store.address, f"{store.folder}/file")
        assert code == 1 and "no blocks yet" in err, err
        code, _, err = run(binary, "kv", "import", "--store", store.address, SMALL)
        assert code == 1 and "no segment of a store" in err, err
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
        assert b"baton_store_keys 0" in metrics, metrics


def workers_of_serve_connect(binary):
    with Store(binary, "--memory-bytes", "16M") as store:
        with Server(binary, SMALL, *SIZE, "--store", store.address) as server:
            server.wait_until(lambda: re.search(r"2 connections|3 connections", run(
                binary, "kv", "stat", "--store", store.address)[1]), what="two workers at the store")
            assert server.complete(prompt=list(range(5, 60)), max_tokens=4, temperature=0)
            # The store dies: requests go on.
            os.kill(store.process.pid, signal.SIGKILL)
            assert server.complete(prompt=list(range(5, 70)), max_tokens=4, temperature=0)


def bad_input_is_named(binary):
    code, _, err = run(binary, "store", "--listen", "0.0.0.0:0")
    assert code == 1 and "0.0.0.0" in err, err
    code, _, err = run(binary, "kv", "stat", "--store", f"127.0.0.1:{free_port()}")
    assert code == 1 and "refused" in err.lower(), err
    folder = tempfile.mkdtemp(prefix="baton-test-")
    with open(f"{folder}/segment-00000000", "wb") as file:  # of version 9
        file.write(b"BSEG" + (9).to_bytes(4, "little") + bytes(4096))
    code, _, err = run(binary, "store", "--listen", f"unix:{folder}/s", "--disk", folder)
    assert code == 1 and "version 9" in err, err
    shutil.rmtree(folder)


def benchmark_runs(binary):
    """`baton bench store` adds and gets over both carriers, compares every byte, and measures a Redis
    beside it; what the store cannot hold is an error and not a figure."""
    port = free_port()
    redis = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"],
                             stdout=subprocess.DEVNULL)
    try:
        for carrier in ("shm", "tcp"):
            with Store(binary, "--memory-bytes", "4M", "--carrier", carrier) as store:
                ask = ["bench", "store", "--store", store.address, "--carrier", carrier, "--layers",
                       "4", "--rounds", "3", "--pool-blocks", "64"]
                code, out, err = run(binary, *ask, "--blocks", "8", "--redis", f"127.0.0.1:{port}")
                assert code == 0, err
                for kind in ("add", "get", "memcpy", "tcp socket", "Redis SET", "Redis GET"):
                    rate = re.search(rf"^{kind}\D*([\d.]+) GB/s", out, re.MULTILINE)
                    assert rate and float(rate[1]) > 0, (kind, out)
                code, out, err = run(binary, *ask, "--blocks", "32", "--pool-blocks", "128", timeout_s=60)
                assert code == 0, err
                code, out, err = run(binary, *ask, "--blocks", "64", "--pool-blocks", "128", timeout_s=60)
                assert code == 1 and "GB/s" not in out and err, (out, err)
    finally:
        redis.kill()
        redis.wait()


if __name__ == "__main__":
    main([operators_ask, workers_of_serve_connect, bad_input_is_named, benchmark_runs], sys.argv)
