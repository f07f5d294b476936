"""What happens when something goes away: workers, clients, the router, room."""
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from baton import (PATIENT, SLOW, SMALL, SMALL_MODELS, Failed, Process, Server, free_port, main,
                   together)

PROMPT = list(range(5, 60))
LONG = {"prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "temperature": 0}
SLOW_STEPS = ["--step-delay", "20ms", "--ctx", "512", "--kv-bytes", "8M"]


def collect(server, body, started=None):
    """Texts of a stream, its error (or None), and the time between its last two events."""
    texts, error, at = [], None, []
    for now, event in server.stream(**body):
        at.append(now)
        if started is not None:
            started.append(now)
        if event is None:
            break
        if "error" in event:
            error = event["error"]
        else:
            texts += [c["text"] for c in event["choices"]]
    return "".join(texts), error, at


def decode_killed(binary):
    """Its streams go on elsewhere within 2 s, with the same tokens; nobody sees an error."""
    with Server(binary, SMALL, *SLOW_STEPS, "--decode-workers", "2") as server:
        started = []

        def stream():
            return collect(server, LONG)

        def kill():
            server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") == 4)
            time.sleep(0.3)
            os.kill(server.pid_of("decode-0"), signal.SIGKILL)
            started.append(time.monotonic())

        results = together([stream] * 4 + [kill])[:4]
        assert all(error is None for _, error, _ in results), results
        assert len({text for text, _, _ in results}) == 1, results
        gaps = [max(b - a for a, b in zip(at, at[1:])) for _, _, at in results]
        assert max(gaps) < 2, "a stream stood still"
        # The supervisor has started it again.
        server.wait_until(lambda: server.call("GET", "/health")["decode_workers"] == 2, 20)
        answer = server.complete(**dict(LONG, max_tokens=5))
        assert answer["usage"]["completion_tokens"] == 5
        server.assert_all_free()


def prefill_killed(binary):
    """A request that has no token yet is computed by another worker; nobody sees an error."""
    with Server(binary, SMALL, "--step-delay", "300ms", "--prefill-chunk", "16", "--ctx", "512",
                "--kv-bytes", "8M", "--prefill-workers", "2") as server:
        body = dict(LONG, max_tokens=4)

        def kill():
            time.sleep(0.6)
            os.kill(server.pid_of("prefill-0"), signal.SIGKILL)

        results = together([lambda: server.complete(**body)] * 4 + [kill])[:4]
        assert len({r["choices"][0]["text"] for r in results}) == 1
        server.assert_all_free()


def decode_killed_early(binary):
    """While the prompt is still computed: another decode worker takes the answer, nobody sees it."""
    with Server(binary, SMALL, "--step-delay", "200ms", "--prefill-chunk", "16", "--ctx", "512",
                "--kv-bytes", "8M", "--decode-workers", "2") as server:
        body = dict(LONG, max_tokens=4)

        def kill():
            server.wait_until(lambda: server.sum("baton_worker_blocks", worker="decode-0",
                                                 state="reserved") > 0, 5, "a reservation")
            os.kill(server.pid_of("decode-0"), signal.SIGKILL)

        results = together([lambda: server.complete(**body)] * 2 + [kill])[:2]
        assert len({r["choices"][0]["text"] for r in results}) == 1
        server.assert_all_free()


def last_decode_killed(binary):
    """With no decode worker left, prefill workers decode until one is back."""
    with Server(binary, SMALL, *SLOW_STEPS) as server:
        want = server.complete(**dict(LONG, max_tokens=6))["choices"][0]["text"]
        os.kill(server.pid_of("decode-0"), signal.SIGKILL)
        server.process.wait_for("worker lost")
        assert server.complete(**dict(LONG, max_tokens=6))["choices"][0]["text"] == want


def client_gone(binary):
    """A client that hangs up stops its work on both workers and frees its blocks."""
    with Server(binary, SMALL, *SLOW_STEPS, "--prefill-chunk", "16") as server:
        for wait_s in (0.0, 0.05, 0.3, 1.0):
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.request("POST", "/v1/completions",
                               json.dumps(dict(LONG, stream=True, n=3)))
            time.sleep(wait_s * SLOW)
            connection.sock.close()
            connection.close()
        server.assert_all_free()
        assert server.sum("baton_generation_tokens_total") < 4 * 3 * 400 / 2


def stop_string_frees(binary):
    """A stop string ends the work, not only the text."""
    with Server(binary, SMALL, *SLOW_STEPS) as server:
        text = server.complete(**dict(LONG, max_tokens=40))["choices"][0]["text"]
        stop = text[8:12]
        answer = server.complete(**dict(LONG, stop=[stop]))["choices"][0]
        assert answer["finish_reason"] == "stop"
        assert answer["text"] == text[:text.index(stop)], (answer, text)
        server.assert_all_free(2)
        # The same at the first token, which another worker has picked; and for one of several.
        first = server.complete(**dict(LONG, max_tokens=1))["choices"][0]["text"]
        for n in (1, 3):
            answer = server.complete(**dict(LONG, stop=[first], n=n))
            assert all(c["text"] == "" for c in answer["choices"]), answer
            server.assert_all_free(2)


def priority(binary):
    """Of those that wait, a smaller priority number goes first."""
    with Server(binary, SMALL, "--step-delay", f"{100 * SLOW}ms", "--ctx", "512",
                "--kv-bytes", "8M", "--prefill-batch-tokens", "16") as server:
        order = []

        def one(number):
            time.sleep(0.05 * SLOW if number else 0)
            server.complete(**dict(LONG, max_tokens=1, priority=-number))
            order.append(number)
        together([lambda n=n: one(n) for n in (0, 0, 0, 0, 5)])
        assert order.index(5) < 4, order


def healthy(server):
    """What /health says; a server that takes no connection is not."""
    try:
        return server.call("GET", "/health")["status"] == "ok"
    except ConnectionError:
        return False
    except Failed as refused:
        assert refused.code == 503 and refused.body["status"] in ("loading", "draining"), refused
        return False


def loading(binary):
    """Without its workers a router lives, but is not healthy; a request says why."""
    folder, port = tempfile.mkdtemp(), free_port()
    where = f"unix:{folder}/router.sock"
    router = Process("router", [binary, "router", "--port", str(port), "--workers", where,
                                "--expect-workers", "1", SMALL])
    server = Server(binary, SMALL)
    server.port = port
    try:
        router.wait_for("listening|http=")
        assert server.call("GET", "/live") and not healthy(server)
        try:
            server.complete(**LONG)
            raise AssertionError("a request was taken without workers")
        except Failed as refused:
            assert refused.code == 503 and refused.body["error"]["code"] == "no_workers", refused
        worker = Process("decode", [binary, "decode", "--router", where, "--ctx", "512",
                                    "--kv-bytes", "8M", SMALL])
        server.wait_until(lambda: healthy(server), 20, "healthy")
        assert worker.stop() == 0
        worker.discard()
        server.wait_until(lambda: not healthy(server), 5, "not healthy any more")
    finally:
        assert router.stop() == 0
        router.discard()


def drain(binary):
    """SIGTERM: what runs comes to its end, nothing new begins, everything exits with 0."""
    with Server(binary, SMALL, *SLOW_STEPS) as server:
        def stream():
            return collect(server, dict(LONG, max_tokens=100))

        def terminate():
            server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") == 2)
            server.process.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            try:
                server.complete(**LONG)
                raise AssertionError("a new request was taken while draining")
            except (Failed, ConnectionError) as refused:
                assert not isinstance(refused, Failed) or refused.code == 503
            assert not healthy(server)

        results = together([stream, stream, terminate])[:2]
        assert all(error is None and at for _, error, at in results), results
        assert server.process.process.wait(10 * SLOW) == 0


def second_signal(binary):
    """A second SIGTERM stops at once."""
    server = Server(binary, SMALL, *SLOW_STEPS)
    server.__enter__()
    connection, answer = server.request("POST", "/v1/completions", dict(LONG, stream=True))
    answer.readline()
    server.process.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.process.process.poll() is None
    started = time.monotonic()
    server.process.process.send_signal(signal.SIGTERM)
    server.process.process.wait(5 * SLOW)
    assert time.monotonic() - started < 2 * SLOW
    connection.close()
    server.process.discard()


def queue_full(binary):
    """More than the queue takes: 429 with Retry-After, and the rest is served."""
    with Server(binary, SMALL, "--step-delay", "100ms", "--ctx", "512", "--kv-bytes", "8M",
                "--queue", "4", "--prefill-batch-tokens", "16") as server:
        def one():
            try:
                return server.complete(**dict(LONG, max_tokens=2))
            except Failed as refused:
                return refused
        results = together([one] * 16)
        refused = [r for r in results if isinstance(r, Failed)]
        assert 0 < len(refused) < 16
        for r in refused:
            assert r.code == 429 and r.headers["Retry-After"], r
            assert r.body["error"]["code"] == "queue_full"
        assert server.sum("baton_requests_rejected_total") == len(refused)
        server.assert_all_free()


def preemption(binary):
    """Blocks for two sequences and eight that want them: all finish, with the same tokens."""
    bodies = [dict(LONG, prompt=list(range(4 + i, 40 + i)), max_tokens=380) for i in range(8)]
    with Server(binary, SMALL, "--ctx", "512", "--kv-bytes", "64M") as server:
        want = [server.complete(**b)["choices"][0]["text"] for b in bodies]
    none = ["--swap-bytes", "0"]
    for options in ([*none, "--prefix-cache-bytes", "0"], none, []):
        # 6 KiB a block: room for about two and a half whole sequences.
        with Server(binary, SMALL, "--ctx", "512", "--kv-bytes", "400K", *options) as server:
            got = together([lambda b=b: server.complete(**b)["choices"][0]["text"]
                            for b in bodies])
            assert got == want, [(i, a, b) for i, (a, b) in enumerate(zip(got, want)) if a != b][:2]
            server.wait_until(lambda: server.sum("baton_num_preemptions_total") > 0, 2,
                              "a preemption")
            if options == []:
                server.wait_until(lambda: server.sum("baton_swap_blocks_total") > 0, 2, "a swap")
            else:
                assert server.sum("baton_swap_blocks_total") == 0
            server.assert_all_free()


def swapped_clients_leave(binary):
    """Those whose blocks are in the host's memory hang up: nothing of them stays there."""
    with Server(binary, SMALL, "--ctx", "512", "--kv-bytes", "400K", "--step-delay",
                "10ms") as server:
        bodies = [dict(LONG, prompt=list(range(4 + i, 40 + i)), max_tokens=380) for i in range(8)]
        streams = [server.stream(**b) for b in bodies]
        for stream in streams:
            next(stream)
        server.wait_until(lambda: server.sum("baton_worker_blocks", state="swapped") > 0, 10,
                          "a block in the host's memory")
        for stream in streams:
            stream.close()
        server.assert_all_free(1)


def one_by_one(binary):
    """router, prefill and decode started by hand; a lost router is found again."""
    folder = tempfile.mkdtemp()
    port = free_port()
    where = f"unix:{folder}/router.sock"

    def router():
        return Process("router", [binary, "router", "--port", str(port), "--workers", where,
                                  "--expect-workers", "2", SMALL])

    def worker(role):
        return Process(role, [binary, role, "--router", where, "--ctx", "512", "--kv-bytes", "8M",
                              "--transfer", f"unix:{folder}/{role}.sock", SMALL])

    children = {"decode": worker("decode"), "prefill": worker("prefill"), "router": router()}
    server = Server(binary, SMALL)
    server.port = port
    try:
        children["router"].wait_for('event="ready"')
        want = server.complete(**dict(LONG, max_tokens=8))["choices"][0]["text"]
        os.kill(children["router"].pid, signal.SIGKILL)
        children["router"].process.wait()
        children["router"].discard()
        children["router"] = router()
        children["router"].wait_for('event="ready"')
        assert server.complete(**dict(LONG, max_tokens=8))["choices"][0]["text"] == want
        server.assert_all_free()
        for name in ("decode", "prefill", "router"):
            assert children[name].stop() == 0, name
    finally:
        for child in children.values():
            child.process.kill()
            child.discard()


def strangers(binary):
    """A worker with another model, block size, class or KV type is refused by name, and exits
    with 1. What counts is what --kv-dtype comes to, not how it was said."""
    other = os.path.join(SMALL_MODELS, "llama-q4_0.gguf")
    with Server(binary, SMALL, "--ctx", "512", "--kv-bytes", "8M") as server:
        folder = os.path.dirname(
            server.process.wait_for(r"workers=unix:(\S+)").group(1))
        for options, words in (([other], ["fingerprint"]),
                               (["--block-tokens", "32", SMALL], ["block tokens", "16", "32"]),
                               (["--kernels", "float", SMALL], ["class", "float", "int8"]),
                               (["--kv-dtype", "f32", SMALL], ["kv dtype", "F32", "F16"]),
                               (["--kv-dtype", "q8_0", SMALL], ["kv dtype", "Q8_0", "F16"])):
            stranger = Process("stranger", [binary, "prefill", "--router",
                                            f"unix:{folder}/router.sock", "--ctx", "512",
                                            "--kv-bytes", "8M", *options])
            assert stranger.process.wait(20 * SLOW) == 1
            log = stranger.log()
            assert "refused" in log, log
            for word in words:
                assert word in log, (word, log)
            stranger.discard()
        friend = Process("friend", [binary, "prefill", "--router", f"unix:{folder}/router.sock",
                                    "--ctx", "512", "--kv-bytes", "8M", "--kv-dtype", "f16",
                                    "--kernels", "int8", SMALL])
        friend.wait_for('event="router reached"')
        assert friend.stop() == 0
        friend.discard()
        assert server.complete(**dict(LONG, max_tokens=4))["usage"]["completion_tokens"] == 4


def one_name_for_two(binary):
    """Two processes under one name do not push each other out in turn: the second is refused by name,
    the first goes on; and the name is free when it has gone."""
    with Server(binary, SMALL, *SLOW_STEPS, "--decode-workers", "2", *PATIENT) as server:
        where = server.router_address()

        def second(name):
            return Process("second", [binary, "decode", "--name", name, "--router", where, "--ctx",
                                      "512", "--kv-bytes", "8M", SMALL])
        taken = second("decode-1")
        answer, error, _ = collect(server, dict(LONG, max_tokens=100))
        assert answer and error is None
        assert taken.process.wait(20 * SLOW) == 1
        words = f"a worker of the name decode-1 is here and alive (pid {server.pid_of('decode-1')})"
        assert words in taken.log() and "--name" in taken.log(), taken.log()
        taken.discard()
        assert "worker lost" not in server.process.log()

        for _ in range(2):
            free = second("decode-x")
            free.wait_for('event="router reached"')
            server.wait_until(lambda: server.call("GET", "/health")["decode_workers"] == 3)
            free.process.kill()
            free.process.wait()
            free.discard()


def cannot_start(binary):
    """Each says what was expected, what was found and what to do; nothing is left running."""
    narrow = os.path.join(SMALL_MODELS, "llama-f32-tied.gguf")  # heads of 16
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            (["serve", "--port", port, SMALL], "in use"),
            (["serve", "/nowhere.gguf"], "/nowhere.gguf"),
            (["serve", "--prefill-workers", "0", "--decode-workers", "0", SMALL], "no workers"),
            (["router", "--host", "0.0.0.0", SMALL], "key"),
            (["serve", "--kv-bytes", "16K", "--ctx", "512", "--port", "0", SMALL], "KV pool"),
            (["serve", "--kv-bytes", "9000G", "--block-tokens", "256", "--port", "0", SMALL],
             "available"),
            (["decode", "--cpus", "4000", SMALL], "4000"),
            (["prefill", "--transfer-tcp", "0.0.0.0:0", SMALL], "--trust-network"),
            (["prefill", "--transfer-tcp", "0.0.0.0:0", "--trust-network", SMALL],
             "--transfer-advertise"),
            (["prefill", "--transfer-advertise", "10.0.0.1:5", SMALL], "--transfer-tcp"),
            (["serve", "--prefil-workers", "2", SMALL], "prefill-workers"),
            (["serve", "--port", "0", "--kv-dtype", "q8_0", narrow], "--kv-dtype"),
            (["prefill", "--kv-dtype", "q4_0", SMALL], "q8_0"),
        ]
        for args, word in cases:
            child = subprocess.run([binary, *args], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   timeout=30 * SLOW)
            text = child.stdout.decode()
            assert child.returncode in (1, 2), (args, child.returncode, text)
            assert word in text, (args, word, text)


if __name__ == "__main__":
    main([decode_killed, decode_killed_early, prefill_killed, last_decode_killed, client_gone,
          stop_string_frees, priority, loading, drain, second_signal, queue_full, preemption,
          swapped_clients_leave, one_by_one,
          strangers, one_name_for_two, cannot_start], sys.argv)
