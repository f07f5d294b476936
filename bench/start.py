#!/usr/bin/env python3
"""How long a server takes from exec to ready, with its files in the page cache and without.

    bench/start.py [--repeat 5] [-- OPTIONS OF SERVE]

Ready is the first 200 of /health, asked for every 2 ms. The model lies in a folder of its own, so that packed
weights are made where it says so and found where it says so. Cold: its pages were written back and dropped
(POSIX_FADV_DONTNEED, looked after with mincore), so the disk is read; what the disk's own cache or the host of
a virtual machine keeps is not cold. Needs the model.
"""
import argparse
import ctypes
import glob
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from served import BATON, MODEL, free_port


def resident_pages(path):
    """(pages in the page cache, pages of the file)"""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    size = os.path.getsize(path)
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    with open(path, "rb") as file:
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    seen = ctypes.create_string_buffer(pages)
    if libc.mincore(at, size, seen) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    libc.munmap(at, size)
    return sum(byte & 1 for byte in seen.raw[:pages]), pages


def cache(path, keep):
    """Read a file into the page cache, or drop it from there."""
    with open(path, "rb") as file:
        if keep:
            while file.read(1 << 20):
                pass
            return
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    resident, pages = resident_pages(path)
    if resident > pages // 100:
        raise SystemExit(f"{path}: {resident} of {pages} pages would not leave the page cache")


def start_seconds(baton, model, options):
    port = free_port()
    begun = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([baton, "serve", "--port", str(port), *options, model], stdout=log, stderr=log)
        try:
            while time.monotonic() < begun + 120:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                        if answer.status == 200:
                            return time.monotonic() - begun
                except OSError:
                    if process.poll() is not None:
                        break
                time.sleep(0.002)
            log.seek(0)
            raise SystemExit(f"not ready:\n{log.read().decode()[-2000:]}")
        finally:
            process.terminate()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default=BATON)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("options", nargs="*", help="of baton serve")
    given = parser.parse_args()
    cases = [(packed, warm) for packed in (False, True) for warm in (True, False)]
    seconds = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.realpath(given.model))) as folder:
        model = os.path.join(folder, os.path.basename(given.model))
        shutil.copy(given.model, model)
        start_seconds(given.baton, model, given.options)
        for _ in range(given.repeat):
            for packed, warm in cases:
                for path in glob.glob(folder + "/*.packed"):
                    if not packed:
                        os.unlink(path)
                for path in glob.glob(folder + "/*"):
                    cache(path, warm)
                seconds[packed, warm].append(start_seconds(given.baton, model, given.options))
    print("| packed weights | page cache | exec to ready, s: median (least to most) |\n|---|---|---|")
    for (packed, warm), taken in seconds.items():
        print(f"| {'there' if packed else 'made'} | {'warm' if warm else 'cold'} | "
              f"{statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f}) |")


if __name__ == "__main__":
    sys.exit(main())
