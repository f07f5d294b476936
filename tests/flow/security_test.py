"""Who may speak: listening sockets, cluster keys that differ, key files that others may read, tenants."""
import os
import re
import subprocess
import sys
import tempfile
import time

from baton import PATIENT, SLOW, SMALL, Failed, Process, Redis, Server, free_port, main, over_rdma
from handoff_test import compare, outcome, requests

SMALL_SIZE = ["--ctx", "512", "--kv-bytes", "8M"]


def processes_of(pid):
    """pid and all below it."""
    found = [pid]
    for at in found:
        for task in os.listdir(f"/proc/{at}/task"):
            with open(f"/proc/{at}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


def listening(pids):
    """[(address in hexadecimal, port)] of the sockets of these processes that others may send to: TCP
    that listens, and UDP of any kind."""
    inodes = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                found = re.match(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
            except FileNotFoundError:
                continue
            if found:
                inodes.add(found[1])
    sockets = []
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", None), ("udp6", None)):
        with open(f"/proc/net/{name}") as file:
            for line in file.readlines()[1:]:
                field = line.split()
                if field[9] in inodes and state in (None, field[3]):
                    address, port = field[1].split(":")
                    sockets.append((address, int(port, 16)))
    return sockets


def is_loopback(address):
    return address.endswith("7F") if len(address) == 8 else \
        address == "00000000000000000000000001000000"


def make_key(binary, folder, name="key"):
    path = os.path.join(folder, name)
    subprocess.run([binary, "key", "--out", path], check=True)
    return path


def only_loopback(binary):
    """Every socket that a deployment listens on, whatever the carrier, with one that must be found."""
    rdma = over_rdma(binary)
    for carrier in ("auto", "tcp", "rdma") if rdma else ("auto", "tcp"):
        how = rdma if carrier == "rdma" else ["--carrier", carrier]
        with Server(binary, SMALL, *SMALL_SIZE, *how, "--prefill-workers", "2", "--store",
                    "16M") as server:
            server.wait_until(lambda: server.sum("baton_worker_up") == 3, 20, "all three are there")
            assert server.complete(prompt="hello", max_tokens=2)
            found = listening(processes_of(server.process.pid))
            assert all(is_loopback(address) for address, _ in found), found
            assert server.port in [port for _, port in found], found
            # The HTTP port, and with tcp one of each worker and of the store.
            # Over rdma each of them has one of UCX too.
            assert len(found) == {"auto": 1, "tcp": 5, "rdma": 9}[carrier], found
    with tempfile.TemporaryDirectory() as folder:
        key, port = make_key(binary, folder), free_port()
        router = Process("router", [binary, "router", "--port", "0", "--workers", f"0.0.0.0:{port}",
                                    "--cluster-key", key, SMALL])
        router.wait_for('event="listening"')
        found = listening([router.pid])
        assert [a for a, p in found if p == port] == ["00000000"], found
        assert len(found) == 2 and not all(is_loopback(address) for address, _ in found)
        assert router.stop() == 0
        router.discard()


def same_with_a_key(binary):
    """The same tokens, over every carrier."""
    bodies = requests(300, 512)
    with Server(binary, SMALL, *SMALL_SIZE, "--colocated", "1") as server:
        expected = [outcome(server.complete(**body)) for body in bodies]
    with tempfile.TemporaryDirectory() as folder:
        key = make_key(binary, folder)
        rdma = over_rdma(binary)
        for carrier in ("shm", "tcp", "rdma") if rdma else ("shm", "tcp"):
            how = rdma if carrier == "rdma" else ["--carrier", carrier]
            with Server(binary, SMALL, *SMALL_SIZE, *how, "--cluster-key", key) as server:
                compare(f"{carrier} with a key", bodies, expected,
                        [outcome(server.complete(**body)) for body in bodies])
                assert server.sum("baton_handoffs_total", carrier=carrier) > 0
                server.assert_all_free()


def other_keys(binary):
    """A worker with another key, or none, or one too many, ends with 1 and the reason; so says the
    router's log, and it serves on."""
    with tempfile.TemporaryDirectory() as folder:
        key, other = make_key(binary, folder), make_key(binary, folder, "other")
        for ours, theirs in ((key, other), (key, None), (None, key)):
            port = free_port()
            options = ["--cluster-key", ours] if ours else []
            router = Process("router", [binary, "router", "--port", "0", "--workers",
                                        f"127.0.0.1:{port}", *options, SMALL])
            router.wait_for('event="listening"')
            options = ["--cluster-key", theirs] if theirs else []
            start = time.monotonic()
            worker = subprocess.run([binary, "decode", "--router", f"127.0.0.1:{port}", *SMALL_SIZE,
                                     *options, SMALL], stdin=subprocess.DEVNULL,
                                    capture_output=True, timeout=30 * SLOW)
            assert worker.returncode == 1, worker
            assert b"cluster key: " in worker.stderr, worker.stderr
            assert time.monotonic() - start < 10 * SLOW
            router.wait_for(r'event="connection refused" reason="[^\n]*cluster key: ', 5)
            assert router.stop() == 0
            router.discard()


def bad_key_files(binary):
    """Refused by name, by every command, before anything starts."""
    with tempfile.TemporaryDirectory() as folder:
        key = make_key(binary, folder)
        assert os.stat(key).st_mode & 0o777 == 0o600
        again = subprocess.run([binary, "key", "--out", key], capture_output=True)
        assert again.returncode == 1 and b"not overwritten" in again.stderr, again
        empty = os.path.join(folder, "empty")
        with open(empty, "w"):
            os.chmod(empty, 0o600)
        os.chmod(key, 0o640)
        for command in ("serve", "router", "prefill", "decode"):
            for path, words in ((key, "mode 0640"), (empty, "holds no key"),
                                ("/nowhere.key", "/nowhere.key")):
                ended = subprocess.run([binary, command, "--cluster-key", path, SMALL],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, timeout=30 * SLOW)
                text = ended.stdout.decode()
                assert ended.returncode == 1 and words in text, (command, path, text)


def redis_password(binary):
    """Redis' password in a file: workers and operators reach Redis with it, and no command line of any process,
    no environment and no log has it. A file that others may use, and one that is of no use, is refused by name."""
    secret = "open%sesame 7"
    with tempfile.TemporaryDirectory() as folder, Redis("--requirepass", secret) as redis:
        path = os.path.join(folder, "password")
        with open(path, "w") as file:
            os.chmod(path, 0o600)
            file.write(secret + "\n")
        given = ["--store", redis.address, "--store-password-file", path]
        with Server(binary, SMALL, *SMALL_SIZE, *PATIENT, "--prefix-cache-bytes", "0", *given) as server:
            server.wait_until(lambda: server.sum("baton_worker_store_up") == 2, 10, "Redis is reached")
            body = {"prompt": list(range(10, 60)), "max_tokens": 1, "temperature": 0}
            server.complete(**body)
            server.wait_until(lambda: server.sum("baton_worker_save_blocks_total", result="acknowledged") == 3, 10,
                              "its blocks are kept")
            assert server.complete(**body)["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
            shown = []
            for pid in processes_of(server.process.pid):
                for what in ("cmdline", "environ"):
                    with open(f"/proc/{pid}/{what}", "rb") as file:
                        shown.append(file.read())
            assert sum(path.encode() in text for text in shown) == 3, shown  # serve and its workers
            assert not any(b"sesame" in text for text in shown), shown
            assert "sesame" not in server.process.log()

        def ended(*words):
            done = subprocess.run([binary, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=30 * SLOW)
            assert "sesame" not in done.stdout, done
            return done.returncode, done.stdout

        code, said = ended("kv", "stat", *given)
        assert code == 0 and ": 3 blocks" in said, said
        few = ["--layers", "2", "--blocks", "4", "--pool-blocks", "8", "--rounds", "3"]
        code, said = ended("bench", "store", *given, *few)
        assert code == 0 and "add, never summed" in said, said
        for words in (["kv", "stat"], ["bench", "store", *few]):
            code, said = ended(*words, "--store", "127.0.0.1:1", *given[2:])
            assert code == 1 and "--store-password-file is for a Redis" in said, said
        os.chmod(path, 0o640)
        worker = ["--router", f"127.0.0.1:{free_port()}", *SMALL_SIZE]
        for words in (["kv", "stat", *given], ["bench", "store", *few, *given],
                      ["prefill", *worker, *given, SMALL], ["decode", *worker, *given, SMALL],
                      ["serve", "--port", "0", *SMALL_SIZE, *given, SMALL]):
            code, said = ended(*words)
            assert code == 1 and f'password file "{path}" has mode 0640' in said, (words, said)
        code, said = ended("decode", *worker, "--store", "127.0.0.1:1", *given[2:], SMALL)
        assert code == 1 and "--store-password-file is for a Redis" in said, said
        code, said = ended("decode", *worker, *given[2:], SMALL)
        assert code == 1 and "no --store" in said, said


def tenants(binary):
    """Who asks for another's prompt learns nothing: not by cached_tokens, whatever salt it sends."""
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
        file.write("key-of-a\nkey-of-b\n")
        file.flush()
        with Server(binary, SMALL, *SMALL_SIZE, "--api-key-file", file.name, key="key-of-a") as server:
            prompt = list(range(10, 60))

            def cached(key, **more):
                server.key = key
                answer = server.complete(prompt=prompt, max_tokens=1, temperature=0, **more)
                return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

            assert cached("key-of-a") == 0
            assert cached("key-of-a") == 48
            assert cached("key-of-a", cache_salt="s") == 0
            assert cached("key-of-a", cache_salt="s") == 48
            assert cached("key-of-b") == 0
            assert cached("key-of-b", cache_salt="s") == 0
            assert cached("key-of-b", cache_salt="key-of-a") == 0
            assert cached("key-of-b") == 48
            assert cached("key-of-a") == 48
            try:
                cached("key-of-c")
                raise AssertionError("a key that nobody has")
            except Failed as refused:
                assert refused.code == 401, refused
    # Where nobody needs a key, what clients send as one separates nobody.
    with Server(binary, SMALL, *SMALL_SIZE) as server:
        for key, expected in (("EMPTY", 0), ("other", 48), (None, 48)):
            server.key = key
            answer = server.complete(prompt=prompt, max_tokens=1)
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == expected, key


if __name__ == "__main__":
    main([only_loopback, same_with_a_key, other_keys, bad_key_files, redis_password, tenants], sys.argv)
