"""Clients and peers that do what they should not: everything stays up, memory stays bounded, real
requests go on."""
import array
import json
import os
import random
import re
import resource
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time

from baton import SLOW, SMALL, Process, Server, free_port, main, together

SIZE = ["--ctx", "512", "--kv-bytes", "8M"]
BODY = {"prompt": list(range(5, 60)), "max_tokens": 16, "ignore_eos": True, "temperature": 0}
GROWTH_BYTES = (96 << 20) * (4 if SLOW > 1 else 1)  # what abuse may cost a process


def rss_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) << 10


def fd_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Watched:
    """Asserts at the end that the processes still run, and are about as large as they were."""

    def __init__(self, server, pids):
        self.server, self.pids = server, pids

    def __enter__(self):
        self.want = self.server.complete(**BODY)["choices"][0]["text"]
        self.rss = {name: rss_bytes(pid) for name, pid in self.pids.items()}
        self.fds = {name: fd_count(pid) for name, pid in self.pids.items()}
        return self

    def assert_serves(self):
        assert self.server.complete(**BODY)["choices"][0]["text"] == self.want

    def __exit__(self, kind, *_):
        if kind is not None:
            return
        self.assert_serves()
        for name, pid in self.pids.items():
            growth = rss_bytes(pid) - self.rss[name]
            assert growth < GROWTH_BYTES, f"{name} grew by {growth >> 20} MiB"
            self.server.wait_until(lambda n=name, p=pid: fd_count(p) <= self.fds[n] + 8, 15,
                                   f"descriptors of {name} are closed")
        self.server.assert_all_free()


def pids_of(server, *names):
    return {name: server.pid_of(name) for name in names}


def exchange(port, data, half_close=False, timeout_s=15):
    """Everything the server says to these bytes until it closes, or falls silent."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s * SLOW) as s:
        try:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            while True:
                part = s.recv(65536)
                if not part:
                    return got
                got += part
        except ConnectionResetError:
            return got


# ---- HTTP

def post(head, body=b'{"prompt": [5], "max_tokens": 1}', length=True):
    lines = [b"POST /v1/completions HTTP/1.1", *head]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"7\r\n{\"promp\r\n0\r\n\r\n"
H = b"Host: x"

# what is sent, the statuses that may come back; after each of them the connection ends
MALFORMED = {
    "two lengths": (post([H, b"Content-Length: 5"]), {400}),
    "two equal lengths": (post([H, b"Content-Length: 32"]), {400}),
    "a list of lengths": (post([H, b"Content-Length: 32, 32"], length=False), {400}),
    "a negative length": (post([H, b"Content-Length: -1"], length=False), {400}),
    "a signed length": (post([H, b"Content-Length: +32"], length=False), {400}),
    "a length beyond 64 bits": (post([H, b"Content-Length: 99999999999999999999999"],
                                     length=False), {400, 413}),
    "length beside chunked": (post([H, b"Transfer-Encoding: chunked", b"Content-Length: 14"], CHUNKED,
                                   False), {400}),
    "chunked beside length": (post([H, b"Content-Length: 14", b"Transfer-Encoding: chunked"], CHUNKED,
                                   False), {400}),
    "chunked twice": (post([H, b"Transfer-Encoding: chunked, chunked"], CHUNKED, False), {400, 501}),
    "an unknown coding": (post([H, b"Transfer-Encoding: gzip"], b"", False), {400, 501}),
    "a chunk length that is none": (post([H, b"Transfer-Encoding: chunked"], b"zz\r\n", False), {400}),
    "a chunk length beyond 64 bits": (post([H, b"Transfer-Encoding: chunked"],
                                           b"f" * 40 + b"\r\n", False), {400, 413}),
    "a space before the colon": (post([H, b"Content-Type : application/json"]), {400}),
    "a space before the length's colon": (post([H, b"Content-Length : 32"], length=False), {400}),
    "no host": (post([]), {400}),
    "two hosts": (post([H, b"Host: y"]), {400}),
    "a NUL in a value": (post([H, b"X: a\0b"]), {400}),
    "a NUL in a name": (post([H, b"X\0: a"]), {400}),
    "a NUL in the path": (b"GET /li\0ve HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a bare carriage return": (post([H, b"X: a\rY: b"]), {400}),
    "a folded header": (post([H, b"X: a", b" b"]), {400}),
    "a header without a colon": (post([H, b"nonsense"]), {400}),
    "a header without a name": (post([H, b": x"]), {400}),
    "many headers": (post([H] + [b"X%d: y" % i for i in range(5000)]), {400, 413, 431}),
    "a long header": (post([H, b"X: " + b"y" * 300000]), {400, 413, 431}),
    "a long path": (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {400, 414, 431}),
    "another version": (b"GET /live HTTP/3.7\r\nHost: x\r\n\r\n", {400, 505}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + os.urandom(150), {400}),
    "an unknown method": (b"BREW /live HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405, 501}),
    "noise": (random.Random(3).randbytes(5000), {400}),
    "a smuggled request": (post([H, b"Transfer-Encoding: chunked", b"Content-Length: 6"],
                                b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", False), {400}),
}


def malformed_http(binary):
    with Server(binary, SMALL, *SIZE) as server:
        with Watched(server, pids_of(server, "router")) as watched:
            for name, (data, statuses) in MALFORMED.items():
                for pieces in (1, 7):
                    step = len(data) // pieces + 1
                    with socket.create_connection(("127.0.0.1", server.port), 10 * SLOW) as s:
                        got = b""
                        try:
                            for at in range(0, len(data), step):
                                s.sendall(data[at:at + step])
                            while part := s.recv(65536):
                                got += part
                        except (ConnectionResetError, BrokenPipeError):
                            pass
                        except TimeoutError:
                            raise AssertionError(f"{name}: no answer, got {got[:200]}") from None
                    heads = re.findall(rb"^HTTP/1\.1 (\d+)", got, re.MULTILINE)
                    # A sender that still sends when the answer comes may lose it to a reset.
                    if heads or len(data) < 60000:
                        assert len(heads) == 1 and int(heads[0]) in statuses, (name, got[:300])
                        assert b"onnection: close" in got, (name, got[:300])
            watched.assert_serves()


def half_closed(binary):
    """Who closes the sending half counts as gone: nothing is computed for it, nothing stays open."""
    with Server(binary, SMALL, *SIZE, "--step-delay", "20ms") as server:
        with Watched(server, pids_of(server, "router")):
            for stream in (False, True):
                body = json.dumps(dict(BODY, stream=stream, max_tokens=400)).encode()
                with socket.create_connection(("127.0.0.1", server.port), 10 * SLOW) as s:
                    s.sendall(post([H], body))
                    server.wait_until(lambda: server.sum("baton_worker_sequences",
                                                         state="running") > 0, 5, "it runs")
                    s.shutdown(socket.SHUT_WR)
                    # 400 steps of 20 ms would take 8 s.
                    server.assert_all_free(3)
                    while s.recv(65536):
                        pass
            for part in (b"GET /live HT", post([H, b"Content-Length: 5000"], b"{", False), b""):
                assert exchange(server.port, part, half_close=True)[:12] in (b"", b"HTTP/1.1 400")


def pipelining(binary):
    """Answers come in the order of the requests, whatever they cost."""
    with Server(binary, SMALL, *SIZE) as server:
        with Watched(server, pids_of(server, "router")):
            data, kinds = b"", []
            dice = random.Random(5)
            for i in range(60):
                kinds.append(dice.choice(["live", "tokenize", "complete", "nowhere"]))
                if kinds[-1] == "live":
                    data += b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
                elif kinds[-1] == "nowhere":
                    data += b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
                else:
                    body = json.dumps({"prompt": "a " * (i + 1)} if kinds[-1] == "tokenize" else
                                      {"prompt": [5 + i], "max_tokens": 2}).encode()
                    path = b"/tokenize" if kinds[-1] == "tokenize" else b"/v1/completions"
                    data += b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
                        path, len(body)) + body
            data += b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            got = exchange(server.port, data)
            codes = [int(c) for c in re.findall(rb"HTTP/1\.1 (\d+)", got)]
            assert codes == [404 if k == "nowhere" else 200 for k in kinds] + [200], codes
            counts = [int(c) for c in re.findall(rb'"count": ?(\d+)', got)]
            assert counts == sorted(counts) and len(counts) == kinds.count("tokenize"), counts


def slow_and_idle(binary):
    """1000 idle connections and clients that trickle: others are served, the slow ones are cut."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # the server raises it itself
    server = Server(binary, SMALL, *SIZE)
    with server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
        with Watched(server, pids_of(server, "router", "prefill-0", "decode-0")) as watched:
            idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
            try:
                watched.assert_serves()
                for s in idle[:500]:
                    s.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nX: ")
                for s in idle[500:]:
                    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
                watched.assert_serves()
                # More than there is room for: told so, at once.
                more = []
                for _ in range(40):
                    more.append(socket.create_connection(("127.0.0.1", server.port)))
                last = more[-1]
                last.settimeout(5 * SLOW)
                assert last.recv(4096).startswith(b"HTTP/1.1 503"), "too many connections"
                for s in more:
                    s.close()
                # A head has 10 s, however it trickles.
                start = time.monotonic()
                cut = 0
                while time.monotonic() - start < 14 and cut < 500:
                    cut = 0
                    for s in idle[:500]:
                        s.setblocking(False)
                        try:
                            s.send(b"y")
                            cut += s.recv(1000) != b"?"
                        except BlockingIOError:
                            pass
                        except OSError:
                            cut += 1
                    time.sleep(0.5)
                assert cut == 500, f"only {cut} of 500 that trickle were cut"
                watched.assert_serves()
            finally:
                for s in idle:
                    s.close()


def flood(binary):
    """Clients that connect, ask and hang up as fast as they can; a stream goes on meanwhile."""
    with Server(binary, SMALL, *SIZE, "--queue", "64") as server:
        with Watched(server, pids_of(server, "router", "prefill-0", "decode-0")) as watched:
            end = time.monotonic() + 4
            request = post([H], json.dumps(dict(BODY, stream=True, max_tokens=300)).encode())
            abrupt = struct.pack("ii", 1, 0)

            def attack(number):
                dice = random.Random(number)
                count = 0
                while time.monotonic() < end:
                    try:
                        s = socket.create_connection(("127.0.0.1", server.port), 5)
                        s.sendall(request[:dice.choice([0, 30, len(request), len(request)])])
                        if dice.random() < 0.5:
                            time.sleep(dice.random() * 0.02)
                        if dice.random() < 0.5:
                            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abrupt)
                        s.close()
                        count += 1
                    except OSError:
                        pass
                return count

            def live():
                times = 0
                while time.monotonic() < end:
                    assert server.call("GET", "/live", timeout_s=5)
                    times += 1
                return times

            counts = together([lambda i=i: attack(i) for i in range(8)] + [live])
            assert sum(counts[:8]) > 100 and counts[8] > 3, counts
            server.assert_all_free(10)
            watched.assert_serves()


# ---- peers

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                       "../../src/wire/frame.h")) as header:
    WIRE_VERSION = int(re.search(r"#define WIRE_VERSION (\d+)", header.read()).group(1))
VERSION_AT = 4
FRAME_HELLO, FRAME_REFUSE, FRAME_READY = 1, 2, 3
REGISTER, HEARTBEAT, TOKENS = 0x0100, 0x0101, 0x0106
ROLE_OPERATOR = 6


def frame(kind, payload=b"", number=0, flags=0, bulk=0, length=None):
    return struct.pack("<IHHII", len(payload) if length is None else length, kind, flags, bulk,
                       number) + payload


def hello(version=WIRE_VERSION, parts=0, role=ROLE_OPERATOR, incarnation=77, magic=0x4e544142, ranks=1):
    return struct.pack("<III32s32s32sIIIIIIQ64s32s", magic, version, parts, b"f" * 32, b"l" * 32,
                       b"class", 1, 16, 0, ranks, role, 0, incarnation, b"stranger", b"n" * 32)


class Target:
    """A worker port (of the router) or a transfer port (of a worker)."""

    def __init__(self, name, where):
        self.name, self.where = name, where
        self.unix = where.startswith("unix:")

    def connect(self):
        if self.unix:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(15 * SLOW)
            s.connect(self.where[5:])
        else:
            host, port = self.where.rsplit(":", 1)
            s = socket.create_connection((host, int(port)), 15 * SLOW)
        return s

    def say(self, data, then=None):
        """What it answers until it closes. then: called with the socket when data is sent."""
        got = b""
        with self.connect() as s:
            try:
                s.sendall(data)
                if then:
                    then(s)
                while part := s.recv(65536):
                    got += part
            except (ConnectionResetError, BrokenPipeError):
                pass
            except TimeoutError:
                raise AssertionError(f"{self.name}: the connection was left open") from None
        return got

    def handshake(self):
        """A socket whose handshake is over: of somebody who claims no model."""
        s = self.connect()
        s.sendall(frame(FRAME_HELLO, hello()))
        head = s.recv(16, socket.MSG_WAITALL)
        length, kind = struct.unpack("<IH", head[:6])
        text = s.recv(length, socket.MSG_WAITALL)
        assert kind == FRAME_HELLO, text
        s.sendall(frame(FRAME_READY, number=1))
        return s


def finish_sending(s):
    try:
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it was faster and has closed


def hostile_bytes(target):
    """Before the handshake: each ends the connection, at once or by its deadline."""
    dice = random.Random(9)
    for size in (1, 15, 16, 17, 300, 5000, 300000):
        target.say(dice.randbytes(size), finish_sending)
    for huge in (1025, 1 << 20, 0x7fffffff, 0xffffffff):
        assert target.say(frame(FRAME_HELLO, length=huge)) == b""
        assert target.say(frame(FRAME_HELLO, hello(), bulk=huge)) == b""
    assert target.say(frame(FRAME_HELLO, hello(), number=5)) == b""
    assert target.say(frame(FRAME_HELLO, hello(), flags=0xfffe)) == b""
    assert target.say(frame(FRAME_HELLO, hello(), flags=1)) == b""
    assert target.say(frame(FRAME_HELLO, hello(magic=1))) == b""
    assert target.say(frame(FRAME_HELLO, hello(incarnation=0))) == b""
    assert target.say(frame(FRAME_HELLO, hello(ranks=0))) == b""
    assert target.say(frame(FRAME_HELLO, hello()[:-1])) == b""
    assert target.say(frame(FRAME_HELLO, b"")) == b""
    assert target.say(frame(FRAME_READY)) == b""
    assert target.say(frame(REGISTER, b"x" * 100)) == b""
    for part in (1, 16, 20, 100):
        target.say(frame(FRAME_HELLO, hello())[:part], finish_sending)
    # Refused by name, both versions said.
    got = target.say(frame(FRAME_HELLO, hello(version=999)))
    assert struct.unpack("<H", got[4:6])[0] == FRAME_REFUSE, got
    assert b"version" in got and b"999" in got, got
    got = target.say(frame(FRAME_HELLO, hello(parts=1)))
    assert struct.unpack("<H", got[4:6])[0] == FRAME_REFUSE and b"fingerprint" in got, got


def hostile_frames(target):
    """After a handshake that is right: each ends the connection, or is dropped."""
    dice = random.Random(10)
    for kind in [*range(0, 8), *range(0x0100, 0x0112), *range(0x0200, 0x0210), 0x0300, 0xffff]:
        for payload in (b"", b"\0" * 40, b"\xff" * 100, dice.randbytes(500)):
            with target.handshake() as s:
                try:
                    s.sendall(frame(kind, payload, number=2) + frame(kind, payload, number=3))
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
                except (ConnectionResetError, BrokenPipeError):
                    pass
    for length in (0xffffffff, (64 << 20) + 1):
        with target.handshake() as s:
            s.sendall(frame(REGISTER, length=length, number=2))
            try:
                while s.recv(65536):
                    pass
            except ConnectionResetError:
                pass


def hostile_crowd(target, hold):
    """Many at once who never speak, who stop in mid-handshake, and who announce much and send little."""
    for i in range(300):
        s = target.connect()
        hold.append(s)
        if i % 3 == 1:
            s.sendall(frame(FRAME_HELLO, hello())[:50])
    for _ in range(60):
        try:
            s = target.handshake()
            hold.append(s)
            s.sendall(frame(REGISTER, b"x" * 1000, length=60 << 20, number=2))
        except (OSError, struct.error):
            pass


def hostile_descriptors(target):
    """Descriptors that nobody asked for are closed."""
    with open(os.devnull, "rb") as null:
        fds = array.array("i", [null.fileno()] * 20)
        for data in (frame(FRAME_HELLO, hello()), b"x" * 16):
            with target.connect() as s:
                for _ in range(20):
                    try:
                        s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                    except OSError:
                        break


def hostile(server, watched, targets):
    stop = threading.Event()

    def real():
        """Real requests go on all the while."""
        times = 0
        while not stop.is_set():
            watched.assert_serves()
            times += 1
        return times

    def attack():
        hold = []
        try:
            for target in targets:
                hostile_bytes(target)
                hostile_frames(target)
                if target.unix:
                    hostile_descriptors(target)
            for target in targets:
                hostile_crowd(target, hold)
            watched.assert_serves()
            # Their time is over after at most 5 s.
            start = time.monotonic()
            for s in hold:
                s.settimeout(7 * SLOW)
                try:
                    while s.recv(65536):
                        pass
                except TimeoutError:
                    raise AssertionError("a silent connection was left open") from None
                except OSError:
                    pass
            assert time.monotonic() - start < 8 * SLOW
        finally:
            stop.set()
            for s in hold:
                s.close()

    _, times = together([attack, real])
    assert times > 3, times
    server.assert_all_free()


def hostile_unix(binary):
    with Server(binary, SMALL, *SIZE) as server:
        folder = os.path.dirname(server.process.wait_for(r"workers=unix:(\S+)").group(1))
        targets = [Target(name, f"unix:{folder}/{name}.sock")
                   for name in ("router", "prefill-0", "decode-0")]
        with Watched(server, pids_of(server, "router", "prefill-0", "decode-0")) as watched:
            hostile(server, watched, targets)


def hostile_tcp(binary):
    folder = tempfile.mkdtemp()
    server = Server(binary, SMALL)
    control = f"127.0.0.1:{free_port()}"
    ports = {role: f"127.0.0.1:{free_port()}" for role in ("prefill", "decode")}
    children = {"router": Process("router", [binary, "router", "--port", str(server.port), "--workers",
                                             control, "--expect-workers", "2", SMALL])}
    try:
        for role, where in ports.items():
            children[role] = Process(role, [
                binary, role, "--router", control, "--transfer", f"unix:{folder}/{role}.sock",
                "--transfer-tcp", where, "--carrier", "tcp", *SIZE, SMALL])
        children["router"].wait_for('event="ready"')
        server.process = children["router"]
        targets = [Target("router", control)] + [Target(r, w) for r, w in ports.items()]
        with Watched(server, {name: c.pid for name, c in children.items()}) as watched:
            hostile(server, watched, targets)
        for name in ("decode", "prefill", "router"):
            assert children[name].stop() == 0, name
            assert "Sanitizer" not in children[name].log(), children[name].log()[-8000:]
    except BaseException:
        for child in children.values():
            sys.stderr.write(child.log()[-6000:])
        raise
    finally:
        for child in children.values():
            child.process.kill()
            child.discard()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main([malformed_http, half_closed, pipelining, slow_and_idle, flood, hostile_unix, hostile_tcp],
         sys.argv)
