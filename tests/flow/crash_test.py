"""A request that takes workers down ends by name, and takes nobody else with it."""
import os
import re
import signal
import sys
import threading
import time

from baton import SMALL, Failed, Server, main, together
from failover_test import streamed, whole, workers_are_back

SIZE = ["--ctx", "512", "--kv-bytes", "8M", "--log-level", "debug", "--silence", "2s"]
POISON_TOKENS = 77  # nobody else's prompt is so long: this is how the killer knows it
POISON = {"prompt": list(range(5, 5 + POISON_TOKENS)), "max_tokens": 40, "ignore_eos": True}


def body_of(seed):
    return {"prompt": list(range(9, 30 + seed)), "max_tokens": 8, "ignore_eos": True, "seed": seed,
            "temperature": 0.9}


class Killer:
    """Whoever is given the poison dies of it."""

    def __init__(self, server, after_s):
        self.server, self.after_s, self.over = server, after_s, False
        self.killed = []
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()

    def run(self):
        seen = 0
        while not self.over:
            given = re.findall(rf'event="routed" prefill=(\S+) .*prompt_tokens={POISON_TOKENS} ',
                               self.server.process.log())
            for worker in given[seen:]:
                time.sleep(self.after_s)  # steps are delayed: it is not done before
                self.killed.append(worker)
                os.kill(self.server.pid_of(worker), signal.SIGKILL)
            seen = len(given)
            time.sleep(0.01)


def poison(server):
    try:
        server.complete(**POISON)
        return None
    except Failed as failed:
        return failed


def poison_ends_by_name(binary):
    """Three workers die of it, and a fourth is spared."""
    with Server(binary, SMALL, *SIZE, "--step-delay", "100ms", "--prefill-chunk", "16",
                "--colocated", "2") as server:
        with Killer(server, 0.1) as killer:
            failed = poison(server)
            time.sleep(1)
        assert failed is not None and failed.code == 500, failed
        assert failed.body["error"]["code"] == "crashes_workers", failed.body
        assert "3 workers" in failed.body["error"]["message"], failed.body
        assert len(killer.killed) == 3, killer.killed
        workers_are_back(server, 2, 2)
        assert whole(server, body_of(1)).error is None
        server.assert_all_free()


def the_innocent_are_let_off(binary):
    """With it, again and again, on the workers that it takes down: all of them get their answers,
    token for token."""
    with Server(binary, SMALL, *SIZE, "--step-delay", "40ms", "--prefill-chunk", "16",
                "--colocated", "2") as server:
        want = [whole(server, body_of(i)).said() for i in range(6)]
        with Killer(server, 0.1) as killer:
            results = together([lambda i=i: streamed(server, body_of(i)) for i in range(6)] +
                               [lambda: poison(server)] +
                               [lambda i=i: streamed(server, body_of(i)) for i in range(6)])
        failed = results.pop(6)
        assert failed is not None and failed.body["error"]["code"] == "crashes_workers", failed
        assert len(killer.killed) == 3, killer.killed
        for n, answer in enumerate(results):
            assert answer.error is None, (n, answer.error)
            assert answer.said() == want[n % 6], n
        workers_are_back(server, 2, 2)
        server.assert_all_free()


def the_limit_is_an_option(binary):
    with Server(binary, SMALL, *SIZE, "--step-delay", "100ms", "--prefill-chunk", "16",
                "--colocated", "2", "--crashes", "1") as server:
        with Killer(server, 0.1) as killer:
            failed = poison(server)
        assert failed is not None and failed.body["error"]["code"] == "crashes_workers", failed
        assert len(killer.killed) == 1, killer.killed


def deaths_at_once_are_nobodys_fault(binary):
    """All workers die at the same moment: whoever ran there goes on when some are back."""
    with Server(binary, SMALL, *SIZE, "--step-delay", "40ms", "--colocated", "4") as server:
        bodies = [dict(body_of(i), max_tokens=40) for i in range(8)]
        want = [whole(server, b).said() for b in bodies]

        def kill_all():
            server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") >= 6)
            for i in range(4):
                os.kill(server.pid_of(f"colocated-{i}"), signal.SIGKILL)
        results = together([lambda b=b: streamed(server, b) for b in bodies] + [kill_all])[:8]
        for n, answer in enumerate(results):
            assert answer.error is None, (n, answer.error)
            assert answer.said() == want[n], n


if __name__ == "__main__":
    main([poison_ends_by_name, the_innocent_are_let_off, the_limit_is_an_option,
          deaths_at_once_are_nobodys_fault], sys.argv)
