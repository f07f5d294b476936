"""Prefill and decode workers that cannot reach each other, and a store that both reach. Hosts are
network namespaces, so this needs root."""
import os
import signal
import sys
import time

from baton import PATIENT, SLOW, SMALL, Server, main, together
from failover_test import streamed, whole
from handoff_test import compare, outcome, requests, run_all, stores_are_up
from network import Network, skip_unless_possible
from network_test import SMALL_SIZE, Cluster, body_of

STORE_PORT = 7200
HOSTS = ["router", "prefill0", "decode0", "store"]


class StoredCluster(Cluster):
    """With a store on the host of that name."""

    def __init__(self, net, binary, handoff, workers=("prefill0", "decode0"), options=(), router=()):
        self.store_address = f"{net.address('store', 'control')}:{STORE_PORT}"
        super().__init__(net, binary, SMALL, list(workers),
                         [*SMALL_SIZE, "--store", self.store_address, *options],
                         router=["--handoff", handoff, *router])

    def __enter__(self):
        self.start_store()
        super().__enter__()
        stores_are_up(self)
        return self

    def start_store(self):
        self.store = self.net.start("store", [
            self.binary, "store", "--listen", self.store_address, "--carrier", "tcp",
            "--transfer-tcp", f"0.0.0.0:{STORE_PORT + 1}", "--transfer-advertise",
            self.net.address("store"), *self.access, "--memory-bytes", "64M", *PATIENT])
        self.store.wait_for("store listens")

    def __exit__(self, kind, *rest):
        super().__exit__(kind, *rest)
        if kind is None:
            self.net.stop(self.store)

    def kill_store(self):
        os.kill(self.store.pid, signal.SIGKILL)
        self.store.process.wait()

    def store_is_back(self):
        self.wait_until(lambda: self.sum("baton_worker_store_up") == 0, 5, "both have lost it")
        self.net.processes.remove(self.store)
        self.store.discard()
        self.start_store()
        stores_are_up(self)

    def handed(self, carrier):
        return self.sum("baton_handoffs_total", carrier=carrier)


def colocated(binary, bodies):
    with Server(binary, SMALL, *SMALL_SIZE, "--colocated", "1") as server:
        return run_all(server, bodies)


def never_connect(binary):
    """--handoff store behind a firewall: every token as colocated, nothing fails, nothing is computed
    twice, second turns included. Links are slow, and the store advertises another address than it binds.
    The firewall is one: without the store's help nothing gets through."""
    bodies = requests(300, 512)
    turns = [body_of(60 + i, cache_salt="t") for i in range(3)]
    turns += [dict(b, prompt=b["prompt"] + list(range(40, 90))) for b in turns]
    expected, turned = colocated(binary, bodies), colocated(binary, turns)
    with Network(HOSTS) as net:
        net.firewall("prefill0", "decode0")
        for host in HOSTS[1:]:
            net.throttle(host, 20e6)
        with StoredCluster(net, binary, "store") as server:
            compare("apart", bodies, expected, run_all(server, bodies))
            loaded = together([lambda b=b: outcome(server.complete(**b)) for b in bodies])
            compare("apart, all at once", bodies, expected, loaded)
            compare("apart, turns", turns, turned, run_all(server, turns))
            server.assert_all_free()
            server.assert_same_workers()
            assert server.handed("store") >= 2 * (len(bodies) - 3)
            assert server.sum("baton_handoffs_total") == server.handed("store")
            assert server.sum("baton_failovers_total") == 0
            assert server.sum("baton_recomputed_tokens_total") == 0
            for host, other in (("prefill0", "decode0"), ("decode0", "prefill0")):
                assert server.log_has(host, 'connected" peer="store"')
                assert not server.log_has(host, f'connected" peer="{other}"')
        with StoredCluster(net, binary, "direct") as server:
            assert outcome(server.complete(**body_of(100))) == colocated(binary, [body_of(100)])[0]
            assert server.sum("baton_failovers_total") == 1
            assert server.sum("baton_handoffs_total") == 0


def store_lost_while_apart(binary):
    """--handoff store, and the store dies under load and comes back: every request has its answer
    meanwhile, computed where it is decoded, and the store is used again."""
    bodies = [body_of(100 + 17 * i) for i in range(6)]
    expected = colocated(binary, bodies)
    with Network(HOSTS) as net:
        net.firewall("prefill0", "decode0")
        with StoredCluster(net, binary, "store") as server:
            def kill():
                time.sleep(0.02)
                server.kill_store()

            salted = [dict(b, cache_salt="a") for b in bodies]
            got = together([lambda b=b: outcome(server.complete(**b)) for b in salted] + [kill])[:-1]
            compare("the store dies", bodies, expected, got)
            start = time.monotonic()
            compare("no store", bodies, expected, run_all(server, bodies))
            assert time.monotonic() - start < 5 * SLOW
            server.assert_all_free(8)
            server.store_is_back()
            before = server.handed("store")
            salted = [dict(b, cache_salt="b") for b in bodies]
            compare("it is back", bodies, expected, run_all(server, salted))
            assert server.handed("store") == before + len(bodies)
            server.assert_all_free()
            server.assert_same_workers()


def stand_in_for_each_other(binary):
    """--handoff both: direct; when that does not get through, by the store; when the store is lost,
    direct; and direct again when it gets through."""
    bodies = [body_of(100 + 17 * i) for i in range(4)]
    expected = colocated(binary, bodies)

    def salted(salt):
        return [dict(b, cache_salt=salt) for b in bodies]

    with Network(HOSTS) as net:
        with StoredCluster(net, binary, "both") as server:
            compare("direct", bodies, expected, run_all(server, salted("a")))
            # The prefill worker tells of a handoff that has ended; an answer may have ended before.
            server.wait_until(lambda: server.handed("tcp") == len(bodies), 3, "direct")
            assert server.handed("store") == 0
            net.firewall("prefill0", "decode0")
            # One finds out, and the others need not.
            compare("apart", bodies, expected, run_all(server, salted("b")))
            assert server.sum("baton_failovers_total") == 1
            assert server.handed("store") == len(bodies) - 1
            net.firewall("prefill0", "decode0", up=False)
            time.sleep(4)  # a connection that got nowhere tries again, or is given up
            server.kill_store()
            server.wait_until(lambda: server.sum("baton_worker_store_up") == 0, 5, "both know it")
            compare("no store", bodies, expected, run_all(server, salted("c")))
            server.wait_until(lambda: server.handed("tcp") == 2 * len(bodies), 3, "direct again")
            server.store_is_back()
            time.sleep(10)  # for so long the two are taken to be apart
            compare("all is back", bodies, expected, run_all(server, salted("d")))
            server.wait_until(lambda: server.handed("tcp") == 3 * len(bodies), 3, "direct")
            server.assert_all_free()
            server.assert_same_workers()


def streams_go_on(binary):
    """kill -9 of the decode worker in mid-stream, and later in the same streams the store's links are cut: what
    goes on comes from the store, and no token is lost or changed. When the links are back it is used again."""
    bodies = [body_of(60 + i, max_tokens=300, temperature=1, seed=i) for i in range(3)]
    short = body_of(80)
    with Server(binary, SMALL, *SMALL_SIZE, *PATIENT, "--colocated", "1") as server:
        want = [whole(server, b).said() for b in bodies]
        wanted = whole(server, short).said()
    hosts = ["router", "prefill0", "decode0", "decode1", "store"]
    with Network(hosts) as net:
        for host in ("decode0", "decode1"):
            net.firewall("prefill0", host)
        with StoredCluster(net, binary, "store", hosts[1:4], ["--step-delay", "20ms", "--prefix-cache-bytes", "0"],
                           PATIENT) as server:
            def running(host):
                return server.sum("baton_worker_sequences", state="running", worker=host)

            def blow():
                server.wait_until(lambda: running("decode0") + running("decode1") == len(bodies), 10, "all run")
                time.sleep(0.5)
                before = server.sum("baton_resumed_tokens_total", source="store")
                victim = max(("decode0", "decode1"), key=running)
                lost = running(victim)
                dead.append(server.children.pop(victim))
                dead[0].process.kill()
                left = "decode1" if victim == "decode0" else "decode0"
                server.wait_until(lambda: running(left) == len(bodies), 10, "all go on")
                assert server.sum("baton_failovers_total", phase="decode") == lost > 0
                assert server.sum("baton_resumed_tokens_total", source="store") - before >= lost * 64
                # Of each what a block lacks, and a block that nobody had acknowledged.
                assert server.sum("baton_recomputed_tokens_total") <= lost * (15 + 16)
                for link in ("control", "data"):
                    net.cut("store", link)
                cut_at = time.monotonic()
                assert whole(server, short).said() == wanted  # computed where it is decoded
                # Its blocks were on their way when the store fell silent: it waited for them, and no second time.
                assert server.children["prefill0"].log().count('event="store does not answer"') == 1
                assert time.monotonic() - cut_at < 3 + 3 * SLOW
                server.wait_until(lambda: server.sum("baton_worker_store_up") == 0, 4, "both have noticed")
                return time.monotonic()

            dead = []
            *got, noticed_at = together([lambda b=b: (streamed(server, b), time.monotonic()) for b in bodies] +
                                          [blow])
            for (answer, ended), expected in zip(got, want):
                assert answer.error is None, answer.error
                assert answer.said() == expected
                assert ended > noticed_at, "the stream was over too soon to see it"
            server.assert_all_free(8)
            # Its connection is made anew: what was lost TCP would send again ever more seldom, after a long cut
            # minutes later.
            server.children["prefill0"].wait_for('event="store lost"')
            for link in ("control", "data"):
                net.join("store", link)
            stores_are_up(server)
            before = server.handed("store")

            def handed_again():
                assert whole(server, dict(short, cache_salt=str(time.monotonic()))).said() == wanted
                return server.handed("store") > before

            server.wait_until(handed_again, 15, "a handoff by the store")
            server.assert_all_free()
            net.processes.remove(dead[0])  # as it should be
            dead[0].process.wait()
            dead[0].discard()


if __name__ == "__main__":
    skip_unless_possible()
    main([never_connect, store_lost_while_apart, stand_in_for_each_other, streams_go_on], sys.argv)
