"""A store that is a Redis Cluster: blocks come from all of its masters, and one of them dies."""
import sys
import time

from baton import PATIENT, SLOW, SMALL, RedisCluster, Server, main, together
from failover_test import SMALL_KV, STEPS, streamed, whole
from gather_test import BLOCK, conversation, why
from handoff_test import stores_are_up

PROMPT = conversation(1, 480)
FULL = (len(PROMPT) - 1) // BLOCK
ASKED = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "logprobs": 1}
KINDS = {"greedy": {"prompt": PROMPT[:40], "temperature": 0},
         "several": {"prompt": PROMPT[20:53], "temperature": 1, "seed": 8, "n": 2}}
STREAMS = {k: dict(b, max_tokens=300, ignore_eos=True) for k, b in KINDS.items()}


def reused(server):
    return server.sum("baton_prompt_tokens_reused_total", source="store") / BLOCK


def master_killed(binary):
    """No worker keeps a block: what a prompt has been computed for comes from the three masters. One is
    killed in mid-stream and its replica takes over: no client sees it, and then all blocks come again."""
    with Server(binary, SMALL, *SMALL_KV, *PATIENT, "--colocated", "1") as server:
        want = {k: whole(server, b).said() for k, b in STREAMS.items()}
        wanted = whole(server, ASKED).said()
    with RedisCluster() as redis, Server(binary, SMALL, *STEPS, *PATIENT, "--prefix-cache-bytes", "0", "--store",
                                         redis.address) as server:
        stores_are_up(server)

        def all_kept():  # on a busy machine Redis may be silent for so long that blocks are dropped
            assert whole(server, ASKED).said() == wanted
            return sum(redis.blocks(port) for port in redis.masters()) >= FULL
        server.wait_until(all_kept, 20 * SLOW, "all blocks in the cluster")
        masters = redis.masters()
        held = {port: redis.blocks(port) for port in masters}
        assert min(held.values()) > 0, held
        base = reused(server)
        before = {port: redis.gets(port) for port in masters}
        again = server.complete(**ASKED)
        timeline = why(server, again["id"])
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == FULL * BLOCK, timeline
        assert f"own 0, peers 0, store {FULL * BLOCK}," in timeline, timeline
        assert reused(server) == base + FULL
        asked = {port: redis.gets(port) - n for port, n in before.items()}
        assert min(asked.values()) > 0, asked

        victim, replica = next(iter(masters.items()))

        def kill():
            server.wait_until(lambda: server.sum("baton_worker_sequences", state="running") >= 3, 10, "all run")
            redis.wait_until(redis.is_replicated, "replicas that have all")
            redis.kill(victim)
            assert whole(server, ASKED).said() == wanted  # while nobody has that part of the slots
            redis.wait_until(lambda: replica in redis.masters(), "master in its place")
            return time.monotonic()

        *got, taken_over = together([lambda b=b: (streamed(server, b), time.monotonic()) for b in STREAMS.values()] +
                                    [kill])
        for kind, (answer, ended) in zip(STREAMS, got):
            assert answer.error is None, answer.error
            assert answer.said() == want[kind], kind
            assert SLOW > 1 or ended > taken_over, "the stream was over too soon to see it"
        stores_are_up(server)

        def all_from_the_store():
            base = reused(server)
            assert whole(server, ASKED).said() == wanted
            return reused(server) == base + FULL
        server.wait_until(all_from_the_store, 20 * SLOW, "a prompt of which all blocks are there")
        assert redis.gets(replica) > 0
        assert server.sum("baton_failovers_total") == 0
        assert server.sum("baton_request_failures_total") == 0
        server.assert_all_free(8)


if __name__ == "__main__":
    main([master_killed], sys.argv)
