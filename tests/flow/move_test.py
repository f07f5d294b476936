"""A prompt that waits in one prefill worker's queue goes to another that falls idle."""
import re
import subprocess
import sys

from baton import SMALL, Server, main, together

# One prompt a batch, ten steps each: the last of four waits for three seconds.
QUEUED = ["--ctx", "512", "--kv-bytes", "8M", "--silence", "10s", "--step-delay", "100ms", "--prefill-chunk",
          "16", "--prefill-batch-tokens", "160", "--prefix-cache-bytes", "0", "--prefill-workers", "2"]
PROMPTS = [[5 + 7 * i + k % 200 for k in range(160)] for i in range(4)]


def ask(server, prompt):
    answer = server.complete(prompt=prompt, max_tokens=4, ignore_eos=True, temperature=0, logprobs=1)
    choice = answer["choices"][0]
    return answer["id"], (choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"])


def why(server, request_id):
    done = subprocess.run([server.binary, "why", "--server", f"127.0.0.1:{server.port}", request_id],
                          capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def a_prompt_leaves_a_queue(binary):
    """While one worker is no prefill worker all prompts queue at the other one. When it is again, it has
    nothing to do, and gets some of them: each is answered once, with the same tokens."""
    with Server(binary, SMALL, *QUEUED) as server:
        want = [ask(server, prompt)[1] for prompt in PROMPTS]
        server.ctl("role", "prefill-1", "decode")
        assert server.sum("baton_prompts_moved_total") == 0

        def both_again():
            server.wait_until(lambda: server.sum("baton_worker_sequences", worker="prefill-0") ==
                              len(PROMPTS), 10, "all prompts with one worker")
            server.ctl("role", "prefill-1", "prefill")
        got = together([lambda p=p: ask(server, p) for p in PROMPTS] + [both_again])[:-1]
        assert [tokens for _, tokens in got] == want
        server.assert_all_free()
        moved = 0
        for request_id, _ in got:
            timeline = why(server, request_id)
            worker = re.search(r"  chosen   prefill: (\S+),", timeline)
            assert worker, timeline
            if worker[1] == "prefill-1":
                assert "  moved    from the queue of prefill-0\n" in timeline, timeline
                moved += 1
            else:
                assert "  moved " not in timeline, timeline
        assert 1 <= moved < len(PROMPTS), moved
        assert server.sum("baton_prompts_moved_total") == moved
        assert server.sum("baton_failovers_total") == 0


if __name__ == "__main__":
    main([a_prompt_leaves_a_queue], sys.argv)
