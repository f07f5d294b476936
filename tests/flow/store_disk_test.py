"""The store's disk tier in a running deployment: a damaged block is computed again, the others come from
there, and a full disk is named and costs nobody an answer."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from baton import SMALL, Server, main
from failover_test import whole
from handoff_test import stores_are_up

SIZE = ["--ctx", "512", "--kv-bytes", "8M", "--prefix-cache-bytes", "0", "--silence", "10s"]
BLOCK = 16
BLOCKS = 10
HEAD, RECORD = 4096, 8192  # a segment's head; a block of 6144 bytes and its own head


def stat(server, pattern):
    """The number that `baton kv stat` has there."""
    return int(re.search(pattern, server.kv_stat())[1])


def body_of(seed, tokens=BLOCKS * BLOCK + 5):
    return {"prompt": [(seed + 7 * i) % 290 + 5 for i in range(tokens)], "max_tokens": 4,
            "temperature": 0, "ignore_eos": True}


def flip(folder, at):
    """One bit of the only segment."""
    name, = [n for n in os.listdir(folder) if n.startswith("segment-")]
    with open(f"{folder}/{name}", "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def damaged_block_is_computed_again(binary):
    """A bit flips on the disk, and the store dies and is back: what is before the block, and behind it,
    is as good as before."""
    with tempfile.TemporaryDirectory(prefix="baton-test-") as folder:
        with Server(binary, SMALL, *SIZE, "--store", "16M", "--store-disk", folder) as server:
            stores_are_up(server)
            want = whole(server, body_of(1))
            server.wait_until(lambda: stat(server, r"disk +(\d+) blocks") == BLOCKS, 10, "all is on disk")
            store = server.pid_of("store")
            os.kill(store, signal.SIGSTOP)
            flip(folder, HEAD + 5 * RECORD + 1000)
            os.kill(store, signal.SIGKILL)
            server.wait_until(lambda: server.pid_of("store") != store, 10, "another store")
            stores_are_up(server)
            assert stat(server, r"disk +(\d+) blocks") >= BLOCKS - 1
            got = whole(server, body_of(1))
            assert got.said() == want.said()
            cached = got.usage["prompt_tokens_details"]["cached_tokens"]
            assert 5 * BLOCK <= cached < BLOCKS * BLOCK, cached
            assert stat(server, r"(\d+) on disk, \d+ disk failures") > 0

            def kept_again():
                again = whole(server, body_of(1))
                assert again.said() == want.said()
                return again.usage["prompt_tokens_details"]["cached_tokens"] == BLOCKS * BLOCK
            server.wait_until(kept_again, 10, "it is kept again")
            server.assert_all_free()


def disk_is_full(binary):
    """A disk of 1 MB, and more blocks than that: the log names it, and every prompt has its answer, the
    first time and again."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        print("skip  disk_is_full: a small disk needs root and mount")
        return
    with tempfile.TemporaryDirectory(prefix="baton-test-") as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False).returncode:
            print("skip  disk_is_full: this machine mounts no tmpfs")
            return
        try:
            bodies = [body_of(i, 400) for i in range(8)]  # 200 blocks of 8 KiB
            with Server(binary, SMALL, *SIZE, "--store", "16M", "--store-disk", folder) as server:
                stores_are_up(server)
                want = [whole(server, b) for b in bodies]
                server.process.wait_for(r'event="disk tier off"[^\n]*No space left on device', 10)
                got = [whole(server, b) for b in bodies]
                assert [a.said() for a in got] == [a.said() for a in want]
                assert stat(server, r"(\d+) disk failures") > 0
                # Memory has them all.
                assert all(a.usage["prompt_tokens_details"]["cached_tokens"] == 384 for a in got)
                server.assert_all_free()
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


if __name__ == "__main__":
    main([damaged_block_is_computed_again, disk_is_full], sys.argv)
