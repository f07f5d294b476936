"""Hugging Face directories and dummy weights, served end to end by split workers."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from baton import SMALL_MODELS, Server, main, together

DIRECTORIES = os.path.join(SMALL_MODELS, "..", "directories")
WIDE = ["--kv-bytes", "16M", "--ctx", "512"]
PROMPTS = [[5, 17, 200, 44], list(range(3, 40)), [7] * 33 + [9], list(range(3, 280))]


def outcomes(server):
    bodies = [{"prompt": p, "max_tokens": 20, "ignore_eos": True, "logprobs": 2,
               "temperature": t, "seed": 11} for p in PROMPTS for t in (0, 0.9)]
    bodies.append({"prompt": "Then he and the ing on of \u00e9\u4e16 1234", "max_tokens": 20,
                   "temperature": 0, "logprobs": 1})
    answers = together([lambda b=b: server.complete(**b) for b in bodies])
    return [[(c["text"], c["logprobs"]["tokens"], c["logprobs"]["token_logprobs"])
             for c in answer["choices"]] for answer in answers]


def split_equals_colocated(binary):
    for name in ("llama-f32-tied", "llama3-f16", "qwen2-bf16-tied", "qwen3-f32"):
        folder = os.path.join(DIRECTORIES, name)
        with Server(binary, folder, *WIDE, "--colocated", "1") as server:
            expected = outcomes(server)
            assert server.call("GET", "/v1/models")["data"][0]["id"] == name
        for carrier in ("shm", "tcp"):
            with Server(binary, folder, *WIDE, "--carrier", carrier) as server:
                assert outcomes(server) == expected, f"{name} over {carrier}"
                chat = server.chat(messages=[{"role": "user", "content": "the"}], max_tokens=4)
                assert chat["usage"]["prompt_tokens"] > 4, chat
                assert server.sum("baton_handoffs_total", carrier=carrier) > 0
                server.assert_all_free()


def same_tokens_as_gguf(binary):
    """The same weights in both formats: the same greedy tokens, and the same ids of a text."""
    answers = []
    for model in (os.path.join(SMALL_MODELS, "llama-f32-tied.gguf"),
                  os.path.join(DIRECTORIES, "llama-f32-tied")):
        with Server(binary, model, *WIDE, "--kernels", "float") as server:
            bodies = [{"prompt": p, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
                      for p in PROMPTS]
            text = "Then he said that <|im_end|> it was 42 \u00e9\u4e16\n\n"
            answers.append(([server.complete(**b)["choices"][0]["text"] for b in bodies],
                            server.call("POST", "/tokenize", {"content": text})["tokens"]))
    assert answers[0] == answers[1], answers


def dummy_weights(binary):
    """The same random weights in every worker, with a tokenizer of bytes or a model's own."""
    folder = os.path.join(DIRECTORIES, "qwen3-f32")
    options = [*WIDE, "--dummy-weights", folder]
    with Server(binary, None, *options, "--colocated", "1") as server:
        expected = outcomes(server)
        text = "\u00e9 a"
        assert server.call("POST", "/tokenize", {"content": text})["tokens"] == list(text.encode())
    with Server(binary, None, *options, "--decode-workers", "2") as server:
        assert outcomes(server) == expected
        assert server.sum("baton_handoffs_total") > 0
        server.chat(messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    with Server(binary, folder, *options) as server:
        assert len(server.call("POST", "/tokenize", {"content": "the"})["tokens"]) < 3


def refused(binary, folder, words):
    """serve ends at once and says why."""
    done = subprocess.run([binary, "serve", "--port", "0", folder], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1, done
    assert words in done.stderr, f"expected {words!r} in:\n{done.stderr}"


def bad_directories_are_refused(binary):
    with tempfile.TemporaryDirectory(prefix="baton-test-") as top:
        def copy(name="llama3-f16"):
            folder = os.path.join(top, "model")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(os.path.join(DIRECTORIES, name), folder)
            return folder

        folder = copy()
        os.unlink(os.path.join(folder, "model-00002-of-00003.safetensors"))
        refused(binary, folder, "the shard model-00002-of-00003.safetensors is missing")
        folder = copy()
        config = os.path.join(folder, "config.json")
        with open(config) as f:
            values = json.load(f)
        with open(config, "w") as f:
            json.dump(values | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, f)
        refused(binary, folder, 'quantised by "gptq" is not supported')
        refused(binary, top, "no config.json")


if __name__ == "__main__":
    main([split_equals_colocated, same_tokens_as_gguf, dummy_weights,
          bad_directories_are_refused], sys.argv)
