"""On GPUs: disaggregated output equals colocated output by every carrier, and who dies harms nobody.

Needs a GPU and baton-cuda.so (BATON_CUDA_PLUGIN, or beside the binary); without: skipped. With
BATON_CUDA_DEVICES=cuda:0,cuda:1 prefill and decode workers are on two. tools/gpu-check runs it."""
import os
import re
import signal
import subprocess
import sys

from baton import SMALL, Failed, Process, Server, free_port, main, together
from gather_test import conversation, known_everywhere, same, turn
from handoff_test import compare, outcome, requests, run_all

DEVICES = os.environ.get("BATON_CUDA_DEVICES", "cuda:0")
PLUGIN = os.environ.get("BATON_CUDA_PLUGIN")
GPU = ["--kv-bytes", "64M", "--ctx", "512", "--deterministic", "--device", DEVICES,
       *(["--cuda-plugin", PLUGIN] if PLUGIN else [])]
IPC = "cuda-ipc"

SPLITS = [  # name, carrier that moves everything, options
    ("auto 1+1", IPC, []),
    ("cuda-ipc 2+2", IPC, ["--carrier", IPC, "--prefill-workers", "2", "--decode-workers", "2"]),
    ("cuda-ipc, small chunks", IPC, ["--carrier", IPC, "--prefill-chunk", "32"]),
    ("shm 1+1", "shm", ["--carrier", "shm"]),
    ("tcp 1+1", "tcp", ["--carrier", "tcp"]),
]


def equal_to_colocated(binary):
    bodies = requests(300, 512)
    with Server(binary, SMALL, *GPU, "--colocated", "1") as server:
        expected = run_all(server, bodies)
    for name, carrier, options in SPLITS:
        with Server(binary, SMALL, *GPU, *options) as server:
            compare(f"{name}, cold", bodies, expected, run_all(server, bodies))
            compare(f"{name}, cached", bodies, expected, run_all(server, bodies))
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare(f"{name}, all at once", bodies, expected, loaded)
            server.wait_until(lambda c=carrier: server.sum("baton_handoffs_total", carrier=c) >=
                              3 * (len(bodies) - 3), 3, f"{name}: a handoff for each request")
            assert server.sum("baton_handoffs_total") == server.sum("baton_handoffs_total",
                                                                    carrier=carrier)
            server.assert_all_free()


def second_turn_comes_from_the_decode_gpu(binary):
    """What the decode worker generated is fetched by the prefill worker, and computes as if it had
    been computed there."""
    first = conversation(1, 200)
    second = first + [17] * 64 + conversation(2, 40)
    options = [*GPU, "--step-delay", "20ms"]  # so that fetching is sooner than computing
    with Server(binary, SMALL, *options) as server:
        turn(server, first, 64, logit_bias={"17": 100})
        known_everywhere(server, (200 + 63) // 16)
        got, _ = turn(server, second)
        local, full = 200 // 16 * 16, (200 + 63) // 16 * 16
        assert server.sum("baton_prompt_tokens_reused_total", source="peer") == full - local
        assert server.sum("baton_handoffs_total", carrier=IPC) >= 2
        server.assert_all_free()
    with Server(binary, SMALL, *options, "--colocated", "1") as server:
        same(turn(server, second)[0], got, "second turn")


def pools_are_mapped_before_they_are_wanted(binary):
    """By each worker, all others', without a request; and again that of one that is back."""
    names = ("prefill-0", "decode-0", "decode-1")
    first = sorted((who, of) for who in names for of in names if who != of)
    again = sorted(first + [pair for pair in first if "decode-0" in pair])

    def mapped():
        return sorted(re.findall(r'(\S+) event="pool mapped" peer="([^"]*)"', server.process.log()))

    with Server(binary, SMALL, *GPU, "--decode-workers", "2", "--log-level", "debug") as server:
        server.wait_until(lambda: mapped() == first, 10, "all pools are mapped")
        os.kill(server.pid_of("decode-0"), signal.SIGKILL)
        server.wait_until(lambda: mapped() == again, 30, "and that of the one that is back")
        assert outcome_text(server.complete(prompt=list(range(3, 203)), max_tokens=8, temperature=0))
        server.wait_until(lambda: server.sum("baton_handoffs_total", carrier=IPC) == 1, 5, "a handoff")
        assert mapped() == again


def outcome_text(answer):
    return [c["text"] for c in answer["choices"]]


def killed(binary):
    """kill -9 of either side under load, again and again: every answer is whole and the same."""
    bodies = [{"prompt": [3 + (i * 7 + k) % 290 for k in range(300)], "max_tokens": 48,
               "temperature": 0, "ignore_eos": True} for i in range(24)]
    options = [*GPU, "--prefill-workers", "2", "--decode-workers", "2", "--step-delay", "5ms"]
    with Server(binary, SMALL, *GPU, "--colocated", "1") as server:
        expected = [outcome_text(server.complete(**b)) for b in bodies]
    for victim in ("decode-0", "prefill-0"):
        with Server(binary, SMALL, *options) as server:
            def kill(server=server, victim=victim):
                server.wait_until(lambda: server.sum("baton_handoffs_total") >= 3, 30, "handoffs")
                os.kill(server.pid_of(victim), signal.SIGKILL)
            results = together([lambda b=b: outcome_text(server.complete(**b)) for b in bodies] +
                               [kill])
            assert results[:-1] == expected, f"{victim} killed: another answer"
            server.assert_all_free(20)


def devices_that_do_not_see_each_other(binary):
    """Each process sees one GPU and calls it cuda:0: with one physical GPU they map each other;
    with two they cannot, and blocks go by way of the host."""
    count = len(DEVICES.split(","))
    port, folder = free_port(), os.environ.get("TMPDIR", "/tmp")
    gate = f"unix:{folder}/baton-cuda-test-{os.getpid()}.sock"
    plain = [a if a != DEVICES else "cuda:0" for a in GPU]
    router = Process("router", [binary, "router", "--port", str(port), "--workers", gate,
                                "--expect-workers", "2", SMALL])
    workers = []
    for i, role in enumerate(("prefill", "decode")):
        os.environ["CUDA_VISIBLE_DEVICES"] = str(i if count > 1 else 0)
        workers.append(Process(role, [binary, role, "--router", gate, *plain, SMALL]))
    del os.environ["CUDA_VISIBLE_DEVICES"]
    server = Server(binary, SMALL)
    server.port = port
    try:
        server.wait_until(lambda: ready(server), 60, "ready")
        body = {"prompt": list(range(3, 203)), "max_tokens": 8, "temperature": 0}
        first = outcome_text(server.complete(**body))
        assert outcome_text(server.complete(**body)) == first
        expected = "shm" if count > 1 else IPC
        server.wait_until(lambda: server.sum("baton_handoffs_total", carrier=expected) >= 2, 5,
                          f"handoffs by {expected}")
    finally:
        for process in [*workers, router]:
            process.stop()
            process.discard()


def ready(server):
    try:
        return server.call("GET", "/health") is not None
    except (OSError, Failed):
        return False


if __name__ == "__main__":
    try:
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        print("skipped: no GPU here")
        sys.exit(77)
    main([pools_are_mapped_before_they_are_wanted, equal_to_colocated, second_turn_comes_from_the_decode_gpu, killed,
          devices_that_do_not_see_each_other], sys.argv)
