"""Failures that users of other servers met in the field, one test of that name each; the number behind a
name is a report of it. Three have theirs elsewhere: survivors_pin_a_dead_peers_memory and
sigstop_missed_where_sigkill_is_caught (fault_test.py), store_lease_against_in_flight_read
(tests/unit/store/store_test.c)."""
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from baton import PATIENT, SLOW, SMALL, Failed, Process, Server, free_port, main, together
from failover_test import streamed, whole, workers_are_back
from hands import Hands

SIZE = ["--ctx", "512", "--kv-bytes", "8M"]
BODY = {"prompt": list(range(5, 75)), "max_tokens": 24, "ignore_eos": True, "temperature": 0}
LONG = dict(BODY, max_tokens=400)
CHUNKED = [*SIZE, "--step-delay", "40ms", "--prefill-chunk", "16", "--prefix-cache-bytes", "0"]


def lost(server, name=""):
    return server.process.log().count(f'event="worker lost" worker={name}')


def requests_that_never_end(binary):
    """dynamo#13088, sglang#10110, #29482. Each worker in turn stands still and nobody may give it up:
    whoever waits for it gets an error that is named, at the end of --request-timeout."""
    limit_s = 2
    with Server(binary, SMALL, *CHUNKED, "--request-timeout", f"{limit_s}s", "--silence", "1h",
                "--stuck", "1h") as server:
        for name in ("prefill-0", "decode-0"):
            pid = server.pid_of(name)
            os.kill(pid, signal.SIGSTOP)
            try:
                def ask(stream):
                    begun = time.monotonic()
                    try:
                        answer = streamed(server, LONG) if stream else whole(server, LONG)
                        error = answer.error
                    except Failed as failed:
                        error = failed.body["error"]
                    return error, time.monotonic() - begun
                for error, seconds in together([lambda s=s: ask(s) for s in (True, False, True)]):
                    assert error and error["code"] == "timeout", (name, error)
                    assert seconds < limit_s + 1 * SLOW, (name, seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
            # Far below the limit, which holds for this one too.
            assert whole(server, dict(BODY, max_tokens=4)).error is None, name
            server.assert_all_free()


def restart_of_a_peer_crashes_the_survivor(binary):
    """vllm#49238, ucx#11629. Either side is killed while it is handed to or hands over, again and
    again: the other one is the process that it was, and hands over with the new one."""
    with Server(binary, SMALL, *CHUNKED, *PATIENT) as server:
        want = whole(server, BODY).said()
        for name, survivor in (("decode-0", "prefill-0"), ("prefill-0", "decode-0")):
            lives = server.pid_of(survivor)
            for after_s in (0.1, 0.2):
                def kill():
                    time.sleep(after_s * SLOW)
                    os.kill(server.pid_of(name), signal.SIGKILL)
                before = lost(server, name)
                answers = together([lambda: streamed(server, BODY)] * 3 + [kill])[:3]
                assert [a.said() for a in answers] == [want] * 3, (name, [a.error for a in answers])
                server.wait_until(lambda: lost(server, name) > before, 10, "the loss")
                workers_are_back(server, 1, 1)
                handoffs = server.sum("baton_handoffs_total")
                assert whole(server, BODY).said() == want
                server.wait_until(lambda: server.sum("baton_handoffs_total") > handoffs, 5,
                                  "a handoff between the two")
            assert server.pid_of(survivor) == lives and lost(server, survivor) == (
                0 if survivor == "prefill-0" else 2)
        server.assert_all_free()


def thread_of(pid, name):
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as comm:
            if comm.read().strip() == name:
                return int(thread)
    raise AssertionError(f"process {pid} has no thread {name}")


def progress_thread_crash(binary):
    """sglang#35189. The thread that moves blocks crashes: the worker does not live on without it, it is
    another incarnation a moment later, and no request fails."""
    # A sanitizer makes a report, which fails the test, of SIGSEGV and not of SIGABRT.
    number = signal.SIGSEGV if SLOW == 1 else signal.SIGABRT
    with Server(binary, SMALL, *CHUNKED, *PATIENT) as server:
        want = whole(server, BODY).said()
        for name in ("prefill-0", "decode-0"):
            pid = server.pid_of(name)

            def crash():
                time.sleep(0.15 * SLOW)
                subprocess.run([sys.executable, "-c", "import ctypes, sys; a = sys.argv;"
                                "sys.exit(ctypes.CDLL(None).syscall(234, *map(int, a[1:])))",
                                str(pid), str(thread_of(pid, "transfer")), str(int(number))],
                               check=True)  # tgkill
            answers = together([lambda: streamed(server, BODY)] * 3 + [crash])[:3]
            assert [a.said() for a in answers] == [want] * 3, (name, [a.error for a in answers])
            server.wait_until(lambda: server.pid_of(name) != pid, 20, "another incarnation")
            workers_are_back(server, 1, 1)
            assert whole(server, BODY).said() == want
            server.assert_all_free()


def kv_leak_after_abort(binary):
    """vllm#46283, #36958, #44100. Clients leave at moments that walk through the phases of a request:
    every block is free again, on both sides, and the prefix cache still has what it had."""
    with Server(binary, SMALL, *SIZE, "--step-delay", "40ms", "--prefill-chunk", "16",
                *PATIENT) as server:
        whole(server, BODY)
        for step in range(12):
            body = dict(LONG, prompt=[200 + step, *range(5, 75)], n=2)
            if step < 6:  # before its first event
                connection = http.client.HTTPConnection("127.0.0.1", server.port)
                connection.request("POST", "/v1/completions", json.dumps(dict(body, stream=True)))
                time.sleep(0.05 * step * SLOW)
                connection.sock.close()
                connection.close()
            else:
                stream = server.stream(**body)
                for _ in range(step - 5):
                    next(stream)
                stream.close()
        server.assert_all_free(1 if SLOW == 1 else 5)
        assert whole(server, BODY) and server.complete(**BODY)["usage"]["prompt_tokens_details"][
            "cached_tokens"] == 64


def decode_on_partial_kv(binary):
    """sglang#30233, vllm#44238, LMCache#4463. The prefill worker dies or stops at moments that walk
    through the handoff: never a token of an answer that was computed on a part of the blocks."""
    body = dict(BODY, max_tokens=8)
    for number, silence in ((signal.SIGKILL, "10s"), (signal.SIGSTOP, f"{SLOW}s")):
        with Server(binary, SMALL, *CHUNKED, "--step-delay", "150ms", "--prefill-workers", "2",
                    "--silence", silence) as server:
            want = whole(server, body).said()
            in_handoff = []
            for turn in range(4):
                workers_are_back(server, 2, 1)
                pids = {n: server.pid_of(n) for n in ("prefill-0", "prefill-1")}
                hit = []

                def strike():  # five chunks of 150 ms, and a heartbeat each 250 ms
                    busy, end = [], time.monotonic() + 10 * SLOW
                    while not busy and time.monotonic() < end:
                        busy = [n for n in pids
                                if server.sum("baton_worker_leases", worker=n) > 0]
                    time.sleep(0.08 * turn)
                    hit.append(pids[(busy or ["prefill-0"])[0]])
                    os.kill(hit[0], number)
                    in_handoff.append(bool(busy))
                answers = together([lambda: streamed(server, body)] * 2 + [strike])[:2]
                if number == signal.SIGSTOP:
                    time.sleep(1.2 * SLOW)  # its silence has been noticed
                    os.kill(hit[0], signal.SIGCONT)
                assert [a.said() for a in answers] == [want] * 2, (turn, [a.error for a in answers])
            assert any(in_handoff) and server.sum("baton_failovers_total") > 0, in_handoff
            server.assert_all_free()


def client_errors_counted_as_worker_failure(binary):
    """sglang#25811: a 4xx counted as worker failure. Hundreds of bad requests take nothing from the
    workers: none is lost, avoided or blamed, and good requests among them are answered."""
    bad = [({"prompt": list(range(5, 75)) * 40, "max_tokens": 4}, 400),
           ({"prompt": "x", "max_tokens": -1}, 400), ({"prompt": []}, 400),
           ({"prompt": [10 ** 9]}, 400), ({"prompt": "x", "temperature": "hot"}, 400),
           ({"prompt": "x", "tools": []}, 400), ({"model": "another", "prompt": "x"}, 404)]
    with Server(binary, SMALL, *SIZE, *PATIENT) as server:
        want = whole(server, BODY).said()
        health = server.call("GET", "/health")

        def refused():
            for turn in range(15):
                for body, code in bad:
                    try:
                        server.complete(**body)
                        raise AssertionError(f"taken: {body}")
                    except Failed as failed:
                        assert failed.code == code, (body, failed)
        answers = together([refused] * 3 + [lambda: [whole(server, BODY).said() for _ in range(5)]])
        assert answers[3] == [want] * 5
        assert server.call("GET", "/health") == health and lost(server) == 0
        assert server.sum("baton_failovers_total") == 0


def lines_of(server, body):
    """Of a stream, the lines that say something, and the longest silence before one, in seconds."""
    at, silence, lines = time.monotonic(), 0, []
    connection, answer = server.request("POST", "/v1/completions", dict(body, stream=True))
    assert answer.status == 200
    for line in answer:
        if line.strip():
            now = time.monotonic()
            silence, at = max(silence, now - at), now
            lines.append(line.decode().strip())
    connection.close()
    return lines, silence


def busy_taken_for_dead(binary):
    """sglang#22511. A step takes three times as long as a worker may be silent: it says that it lives
    meanwhile, and is not given up. Nor does its client take the server for dead, which writes at least
    every 10 s."""
    with Server(binary, SMALL, *SIZE, "--silence", f"{2 * SLOW}s", "--prefill-chunk", "40",
                "--stuck", f"{60 * SLOW}s", "--step-delay", f"{6 * SLOW}s") as server:
        lines, silence = lines_of(server, dict(BODY, max_tokens=2))
        assert lines[0] == ": ping" and lines[-1] == "data: [DONE]", lines
        events = [json.loads(line[6:]) for line in lines[:-1] if line != ": ping"]
        assert events[-1]["choices"][0]["finish_reason"] == "length", events
        assert silence < 10.1 + 0.9 * SLOW, silence
        assert lost(server) == 0 and server.sum("baton_failovers_total") == 0


def bound_address_is_not_the_advertised_one(binary):
    """vllm#27083, #53018. The holder binds all addresses and advertises one: that one is connected to."""
    port = free_port()
    with Hands(binary, options=("--carrier", "tcp", "--step-delay", "5ms"), options_of={
            "prefill-a": ("--transfer-tcp", f"0.0.0.0:{port}", "--transfer-advertise",
                          f"127.0.0.7:{port}")}) as hands:
        door = hands.doors[0]
        answer = streamed(door, BODY)
        assert answer.error is None and door.sum("baton_handoffs_total", carrier="tcp") == 1
        assert door.sum("baton_failovers_total") == 0
        far = subprocess.run(["ss", "-Htn", "state", "established", "dst", f"127.0.0.7:{port}"],
                             capture_output=True, text=True, check=True).stdout
        assert f"127.0.0.7:{port}" in far, far


def memory_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


def unbounded_queue_under_overload(binary):
    """vllm#49330. Fifty times what the queue takes: the rest is refused at once, those taken are
    answered, and the router holds no memory for the others."""
    with Server(binary, SMALL, "--step-delay", f"{50 * SLOW}ms", *SIZE, "--queue", "8",
                "--prefill-batch-tokens", "16", *PATIENT) as server:
        whole(server, BODY)
        before = memory_of(server.pid_of("router"))

        def ask():
            refusals = []
            while True:
                begun = time.monotonic()
                try:
                    return server.complete(**dict(BODY, max_tokens=2)), refusals
                except Failed as failed:
                    assert failed.code == 429 and failed.body["error"]["code"] == "queue_full", failed
                    refusals.append(time.monotonic() - begun)
                    if len(refusals) == 20:
                        return None, refusals
                    time.sleep(0.02)
        results = together([ask] * 20)
        refusals = sorted(s for _, seconds in results for s in seconds)
        served = [r for r, _ in results if r is not None]
        assert len(served) >= 8 and len(refusals) > 50, (len(served), len(refusals))
        assert len({r["choices"][0]["text"] for r in served}) == 1
        assert refusals[len(refusals) // 2] < 0.5 * SLOW, refusals
        assert memory_of(server.pid_of("router")) - before < 32 << 20
        server.assert_all_free()


def no_retry_after(binary):
    """Whoever is refused for lack of room, of workers, or because the server drains, is told when to
    come back; the openai client does by itself."""
    import openai
    with Server(binary, SMALL, "--step-delay", "50ms", *SIZE, "--queue", "1",
                "--prefill-batch-tokens", "16", *PATIENT) as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none",
                               max_retries=9)
        told = []

        def ask():
            try:
                server.complete(**dict(BODY, max_tokens=2))
            except Failed as failed:
                told.append((failed.code, failed.headers.get("Retry-After")))

        def patient():
            time.sleep(0.05)
            return client.completions.create(model=client.models.list().data[0].id,
                                             prompt=BODY["prompt"], max_tokens=2, temperature=0)
        answers = together([ask] * 8 + [patient] * 2)[8:]
        assert all(a.usage.completion_tokens == 2 for a in answers)
        assert told and all(code == 429 and int(after) >= 1 for code, after in told), told

    port, folder = free_port(), tempfile.TemporaryDirectory()
    router = Process("router", [binary, "router", "--port", str(port), "--workers",
                                f"unix:{folder.name}/router.sock", SMALL])
    try:
        router.wait_for("listening|http=")
        server.port = port
        told.clear()
        ask()
        assert told and told[0][0] == 503 and int(told[0][1]) >= 1, told
    finally:
        assert router.stop() == 0
        router.discard()
        folder.cleanup()


if __name__ == "__main__":
    main([requests_that_never_end, restart_of_a_peer_crashes_the_survivor, progress_thread_crash,
          kv_leak_after_abort, decode_on_partial_kv, client_errors_counted_as_worker_failure,
          busy_taken_for_dead, bound_address_is_not_the_advertised_one, unbounded_queue_under_overload,
          no_retry_after], sys.argv)
