"""baton serve itself: model files that are none, its processes, its folder, its signals."""
import contextlib
import fcntl
import glob
import os
import pty
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import time

from baton import SLOW, SMALL, SMALL_MODELS, Failed, Server, free_port, main

SIZE = ["--ctx", "512", "--kv-bytes", "8M"]
BODY = {"prompt": list(range(5, 60)), "max_tokens": 8, "ignore_eos": True, "temperature": 0}


# ---- a GGUF file as far as its parts have to be found

class Parts:
    """Where things are in a GGUF file: .values {key: offset}, .tensors {name: (offset of the count of
    dimensions, dimensions)}, .end of the table."""

    SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, data):
        self.data, self.at = data, 8
        tensors, values = self.number("<Q"), self.number("<Q")
        self.values, self.tensors = {}, {}
        for _ in range(values):
            key = self.text()
            kind = self.number("<I")
            self.values[key] = self.at
            self.skip(kind)
        for _ in range(tensors):
            name, at = self.text(), self.at
            dims = [self.number("<Q") for _ in range(self.number("<I"))]
            self.tensors[name] = (at, len(dims))
            self.at += 12
        self.end = self.at

    def number(self, form):
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def text(self):
        length = self.number("<Q")
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def skip(self, kind):
        if kind == 8:
            self.text()
        elif kind == 9:
            kind, count = self.number("<I"), self.number("<Q")
            for _ in range(count):
                self.skip(kind)
        else:
            self.at += self.SIZES[kind]


def changed(data, at, new):
    return data[:at] + new + data[at + len(new):]


def put(data, at, form, value):
    return changed(data, at, struct.pack(form, value))


def words_of(data):
    """{name: (file, what the message must say)}"""
    parts = Parts(data)
    first, _ = parts.tensors["blk.0.attn_q.weight"]
    dims = first + 4
    architecture = parts.values["general.architecture"] + 8
    tokenizer = parts.values["tokenizer.ggml.model"] + 8
    cases = {"empty": (b"", "GGUF"),
             "text": (b"{\"model\": \"this is no model\"}\n" * 100, "GGUF"),
             "another magic": (b"GGML" + data[4:], "GGUF"),
             "version 1": (put(data, 4, "<I", 1), "version 1"),
             "version 99": (put(data, 4, "<I", 99), "version 99"),
             "big endian": (put(data, 4, ">I", 3), "big-endian"),
             "tensors beyond the file": (put(data, 8, "<Q", 1 << 40), "tensor"),
             "values beyond the file": (put(data, 16, "<Q", 1 << 62), "metadata"),
             "an unknown architecture": (changed(data, architecture, b"mamba"), "mamba"),
             "an unknown tokenizer": (changed(data, tokenizer, b"gpt9"), "gpt9"),
             "a type that is not built": (put(data, dims + 16, "<I", 16), "IQ2_XXS"),
             "a type that is none": (put(data, dims + 16, "<I", 12345), "12345"),
             "a dimension of 0": (put(data, dims, "<Q", 0), "blk.0.attn_q.weight"),
             "dimensions that overflow": (changed(data, dims, struct.pack("<QQ", 1 << 63, 1 << 63)),
                                          "blk.0.attn_q.weight"),
             "an offset beyond the file": (put(data, dims + 20, "<Q", 1 << 60), "blk.0.attn_q.weight"),
             "an offset that overflows": (put(data, dims + 20, "<Q", (1 << 64) - 32),
                                          "blk.0.attn_q.weight"),
             "five dimensions": (put(data, first, "<I", 5), "dimension"),
             "no layers": (put(data, parts.values["llama.block_count"], "<I", 0), "block_count"),
             "more layers than tensors": (put(data, parts.values["llama.block_count"], "<I", 60000),
                                          "block_count"),
             "no heads": (put(data, parts.values["llama.attention.head_count"], "<I", 0), "head_count"),
             "a width that does not fit": (put(data, parts.values["llama.embedding_length"], "<I", 128),
                                           "")}
    for length in (1, 4, 23, 24, 60, 1000, parts.end // 2, parts.end - 1, parts.end + 1,
                   (parts.end + len(data)) // 2, len(data) - 1):
        cases[f"cut off after {length}"] = (data[:length], "")
    return cases


MARK = f"BATON_TEST_STARTED_BY={os.getpid()}"  # in the environment of all that this test starts


def left_running():
    """Command lines of the processes that carry the mark."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{path}/environ", "rb") as file:
                marked = MARK.encode() in file.read().split(b"\0")
            with open(f"{path}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marked and line:  # a zombie has no line
            found.append(line)
    return found


def refused(binary, path, word, *options, most_s=5):
    """serve ends with 1, says why with the file's name, and leaves nothing behind."""
    start = time.monotonic()
    done = subprocess.run([binary, "serve", "--port", "0", *SIZE, *options, path],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60 * SLOW, check=False,
                          env=dict([MARK.split("=")], **os.environ))
    text = done.stdout.decode(errors="replace")
    assert done.returncode == 1, (path, done.returncode, text[-2000:])
    reasons = re.findall(r'reason="(.*)"', text)
    assert reasons and word in reasons[0] and len(reasons[0]) > 20, (path, word, text[-2000:])
    assert not re.search(r'event="died".*signal=|event="ending"|ready:|Sanitizer', text), text[-2000:]
    assert time.monotonic() - start < most_s * SLOW, text[-2000:]
    assert not left_running(), left_running()
    return reasons[0]


def model_files(binary):
    """Each wrong file is named, with what is wrong about it, and nothing is left running."""
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "wrong.gguf")
    try:
        with open(SMALL, "rb") as file:
            data = file.read()
        for name, (content, word) in words_of(data).items():
            with open(path, "wb") as file:
                file.write(content)
            reason = refused(binary, path, word)
            assert path in reason, (name, reason)
        refused(binary, folder, "config.json")
        refused(binary, "/dev/zero", "regular file")
        refused(binary, os.path.join(folder, "missing.gguf"), "missing.gguf")
        pipe = os.path.join(folder, "pipe.gguf")
        os.mkfifo(pipe)
        refused(binary, pipe, "regular file")
    finally:
        shutil.rmtree(folder)


def flipped_bits(binary):
    """One wrong bit somewhere in the header: refused, or served, but nothing dies of it."""
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "flipped.gguf")
    dice = random.Random(11)
    try:
        with open(SMALL, "rb") as file:
            data = bytearray(file.read())
        end = Parts(bytes(data)).end
        served = 0
        for _ in range(30):
            at, bit = dice.randrange(end), 1 << dice.randrange(8)
            data[at] ^= bit
            with open(path, "wb") as file:
                file.write(data)
            data[at] ^= bit
            server = Server(binary, path, *SIZE)
            try:
                with server:
                    server.complete(prompt=[5, 6], max_tokens=2)
                    assert "died" not in server.process.log(), server.process.log()
                    served += 1
            except AssertionError:
                log = server.process.log()
                assert server.process.process.wait(10 * SLOW) == 1, (at, bit, log[-3000:])
                assert "reason=" in log, (at, bit, log[-3000:])
                assert not re.search(r'event="died".*signal=', log), (at, bit, log[-3000:])
                assert "Sanitizer" not in log, log[-4000:]
                server.process.discard()
        assert served < 30
    finally:
        shutil.rmtree(folder)


def template_beyond(binary):
    """A chat template that is beyond the interpreter is named at load; only /v1/completions works."""
    with open(SMALL, "rb") as file:
        data = file.read()
    at = Parts(data).values["tokenizer.chat_template"] + 8
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "template.gguf")
        with open(path, "wb") as file:
            file.write(changed(data, at, b"{% include 'x' %}"))
        with Server(binary, path, *SIZE) as server:
            warned = server.process.wait_for(r"chat template not usable.*")
            assert "include" in warned.group(0), warned.group(0)
            try:
                server.chat(messages=[{"role": "user", "content": "hello"}])
                raise AssertionError("a chat without a template was answered")
            except Failed as refused_chat:
                assert refused_chat.code == 400, refused_chat
                assert refused_chat.body["error"]["code"] == "no_chat_template", refused_chat
            assert server.complete(**BODY)["usage"]["completion_tokens"] == 8


def too_large(binary):
    """Said before anything is loaded, with the sum."""
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "large.gguf")
    width, inner, times = 64, 96, 512  # of that file, and what it is made wider by
    wide, wide_inner = width * times, 1 << 20
    try:
        with open(os.path.join(SMALL_MODELS, "llama-f32-tied.gguf"), "rb") as file:
            data = file.read()
        # Its layers become some hundred GiB wide, in a file of holes.
        parts = Parts(data)
        header = bytearray(data[:parts.end])
        for key, value in (("embedding_length", wide), ("feed_forward_length", wide_inner),
                           ("attention.head_count", 4 * times)):
            struct.pack_into("<I", header, parts.values[f"llama.{key}"], value)
        end = 0
        for name, (at, count) in parts.tensors.items():
            dims = list(struct.unpack_from(f"<{count}Q", header, at + 4))
            if "attn_q." in name or "attn_output." in name:
                dims = [wide, wide]
            dims = [wide if d == width else wide_inner if d == inner else d for d in dims]
            struct.pack_into(f"<{count}Q", header, at + 4, *dims)
            struct.pack_into("<Q", header, at + 4 + 8 * count + 4, end)
            elements = dims[0] * (dims[1] if count > 1 else 1)
            end += (elements * 4 + 31) // 32 * 32
        with open(path, "wb") as file:
            file.write(header + data[parts.end:])
            try:
                file.truncate(len(data) + end)
            except OSError:
                print("skip  no sparse files here")
                return
        reason = refused(binary, path, "does not fit in memory", most_s=10)
        assert re.search(r"weights [\d.]+ MiB \+ KV pool .* = [\d.]+ MiB of [\d.]+ MiB available",
                         reason), reason
    finally:
        shutil.rmtree(folder)
    # The pool is what can be numbered at most: 1.6 TB of blocks of this size.
    reason = refused(binary, SMALL, "MiB", "--kv-bytes", "100000G", "--block-tokens", "256")
    assert re.search("do(es)? not fit in memory", reason) and "KV pool" in reason, reason
    reason = refused(binary, SMALL, "swap", "--swap-bytes", "100")
    assert "one block" in reason and "found 100" in reason, reason
    # Each of the workers fits, all together do not.
    with open("/proc/meminfo", encoding="ascii") as file:
        free = int(re.search(r"MemAvailable:\s+(\d+)", file.read()).group(1)) << 10
    reason = refused(binary, SMALL, "together", "--decode-workers", "9", "--kv-bytes", str(free // 6))
    assert "10 x (KV pool" in reason, reason


# ---- processes

def folder_of(server):
    return os.path.dirname(server.process.wait_for(r"workers=unix:(\S+)").group(1))


def gone(pids, timeout_s):
    end = time.monotonic() + timeout_s * SLOW
    while time.monotonic() < end:
        left = [pid for pid in pids if os.path.exists(f"/proc/{pid}") and
                open(f"/proc/{pid}/stat", encoding="ascii").read().split()[2] != "Z"]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {left} of {left_running()}")


@contextlib.contextmanager
def runtime_in(folder):
    """XDG_RUNTIME_DIR is that folder."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = folder
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def killed(binary):
    """serve is killed: its processes end, with and without work, and the next one cleans up."""
    # In a place of its own: any other serve of this user would clean up too.
    with tempfile.TemporaryDirectory(dir="/tmp") as base, runtime_in(base):
        for everybody in (False, True):
            killed_once(binary, everybody)


def killed_once(binary, everybody):
    server = Server(binary, SMALL, *SIZE, "--step-delay", "10ms")
    server.__enter__()
    pids = [server.pid_of(name) for name in ("router", "prefill-0", "decode-0")]
    folder = folder_of(server)
    connection, answer = server.request("POST", "/v1/completions",
                                        dict(BODY, max_tokens=100, stream=True))
    answer.readline()
    os.kill(server.process.pid, signal.SIGKILL)
    for pid in pids if everybody else []:
        os.kill(pid, signal.SIGKILL)
    server.process.process.wait()
    if not everybody:
        assert b"[DONE]" in answer.read(), "what runs comes to its end"
    connection.close()
    gone(pids, 10)
    assert os.path.isdir(folder)
    with Server(binary, SMALL, *SIZE) as other:
        assert not os.path.exists(folder), os.listdir(folder)
        assert other.complete(**BODY)["usage"]["completion_tokens"] == 8
        mine = folder_of(other)
    assert not os.path.exists(mine)
    server.process.discard()


def interrupted(binary):
    """Ctrl-C on a terminal: the terminal tells the whole group, and all end in order."""
    port = free_port()
    terminal, slave = pty.openpty()

    def session():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = subprocess.Popen([binary, "serve", "--port", str(port), *SIZE, SMALL], stdin=slave,
                             stdout=slave, stderr=slave, preexec_fn=session)
    os.close(slave)
    output = b""
    end = time.monotonic() + 60 * SLOW
    sent = False
    try:
        while time.monotonic() < end:
            try:
                part = os.read(terminal, 65536)
            except OSError:
                break
            if not part:
                break
            output += part
            if b"ready: http://" in output and not sent:
                sent = True
                os.write(terminal, b"\x03")
        assert child.wait(20 * SLOW) == 0, output.decode(errors="replace")[-3000:]
    finally:
        child.kill()
        os.close(terminal)
    text = output.decode(errors="replace")
    assert sent and 'event="ending" signal=2' in text, text[-3000:]
    assert "died" not in text and "signal=9" not in text, text[-3000:]
    assert text.count('event="draining" signal=15') == 3, text[-3000:]
    gone([int(pid) for pid in re.findall(r"child=\S+ pid=(\d+)", text)], 5)


def two_at_once(binary):
    """On two ports both work; on one port the second says so, and the first goes on."""
    with Server(binary, SMALL, *SIZE) as one, Server(binary, SMALL, *SIZE) as two:
        assert one.complete(**BODY)["choices"] == two.complete(**BODY)["choices"]
        assert folder_of(one) != folder_of(two)
        done = subprocess.run([binary, "serve", "--port", str(one.port), *SIZE, SMALL],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=30 * SLOW, check=False)
        text = done.stdout.decode()
        assert done.returncode == 1 and "in use" in text, (done.returncode, text)
        assert f"127.0.0.1:{one.port}" in text, text
        assert one.complete(**BODY)["choices"] == two.complete(**BODY)["choices"]


def allowed_cpus(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return re.search(r"Cpus_allowed_list:\s+(\S+)", file.read()).group(1)


def words_of_child(server, name):
    with open(f"/proc/{server.pid_of(name)}/cmdline", "rb") as file:
        return file.read().split(b"\0")


def options_reach_the_workers(binary):
    """Of every type; a flag that is lost on the way is not missed by anybody."""
    with Server(binary, SMALL, *SIZE, "--deterministic", "--prefill-chunk", "48", "--carrier",
                "shm", "--swap-bytes", "1M") as server:
        for name in ("prefill-0", "decode-0"):
            words = words_of_child(server, name)
            for word in (b"--deterministic", b"--prefill-chunk=48", b"--carrier=shm",
                         b"--swap-bytes=1048576"):
                assert word in words, (word, words)


def names_and_cores(binary):
    """ps shows who is who; the workers share out the cores."""
    cores = sorted(os.sched_getaffinity(0))
    with Server(binary, SMALL, *SIZE) as server:
        for name in ("router", "prefill-0", "decode-0"):
            words = words_of_child(server, name)
            assert words[:2] == [b"baton", name.split("-")[0].encode()], words
        lists = [allowed_cpus(server.pid_of(name)) for name in ("prefill-0", "decode-0")]
        if len(cores) == 2:
            assert lists == [str(c) for c in cores], lists
        elif len(cores) > 2:
            assert lists[0] != lists[1], lists
    with Server(binary, SMALL, *SIZE, "--cpus", str(cores[-1]), "--decode-workers", "2") as server:
        for name in ("prefill-0", "decode-0", "decode-1"):
            assert allowed_cpus(server.pid_of(name)) == str(cores[-1])
        assert server.complete(**BODY)["usage"]["completion_tokens"] == 8


def runtime_folder(binary):
    """Sockets lie in a folder that only the user may enter, in XDG_RUNTIME_DIR when that works."""
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        long = os.path.join(base, "x" * 80)
        os.mkdir(long)
        for value, where in ((base, base), (long, "/tmp"), ("/nowhere", "/tmp"), ("relative", "/tmp")):
            with runtime_in(value), Server(binary, SMALL, *SIZE) as server:
                folder = folder_of(server)
                assert os.path.dirname(folder) == where, (folder, where)
                assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
                assert {"router.sock", "prefill-0.sock", "decode-0.sock"} <= set(os.listdir(folder))
            assert not os.path.exists(folder)


if __name__ == "__main__":
    main([model_files, flipped_bits, template_beyond, too_large, killed, interrupted, two_at_once,
          names_and_cores, options_reach_the_workers, runtime_folder], sys.argv)
