#!/usr/bin/env python3
"""Make tests/vectors/directories: small models as Hugging Face directories.

    python3 tools/goldens/make_directories.py tests/vectors/models tests/vectors/directories \\
        tests/vectors/logits

Each directory has the weights of a small GGUF model, bit for bit (a quantised one: what the gguf
package dequantises it to), as transformers names and orders them, one of them in three shards.
transformers then loads the directory. In F32 the logits that it computes are compared with the
golden ones of the GGUF model: so those are the goldens of the directory, too. In F16 and BF16 the
vectors are rounded, which a GGUF file leaves in F32: such a directory gets a golden of its own.

Needs the packages gguf, numpy, torch, transformers, tokenizers and safetensors.
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import make_logits
from make_small_models import LLAMA3_ROPE, MODELS, TEMPLATE

# name: the GGUF model, the dtype, tensors of a shard (0: one file), where the template is
DIRECTORIES = {
    "llama-f32-tied": ("llama-f32-tied", torch.float32, 0, "jinja"),
    "llama3-f16": ("llama3-f16", torch.float16, 8, "config"),
    "qwen2-bf16-tied": ("qwen2-bf16-tied", torch.bfloat16, 0, "list"),
    "qwen3-f32": ("qwen3-q8_0", torch.float32, 0, "config"),
}


def config_of(reader, name):
    """config.json as transformers 4 wrote it: most checkpoints are older than version 5."""
    def field(key, default=None):
        found = reader.get_field(key)
        return default if found is None else found.contents()
    arch = field("general.architecture")
    width, heads = field(f"{arch}.embedding_length"), field(f"{arch}.attention.head_count")
    config = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
                           "qwen3": "Qwen3ForCausalLM"}[arch]],
        "model_type": arch, "hidden_act": "silu", "hidden_size": width,
        "intermediate_size": field(f"{arch}.feed_forward_length"),
        "num_hidden_layers": field(f"{arch}.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": field(f"{arch}.attention.head_count_kv", heads),
        "max_position_embeddings": field(f"{arch}.context_length"),
        "rms_norm_eps": round(float(field(f"{arch}.attention.layer_norm_rms_epsilon")), 9),
        "rope_theta": field(f"{arch}.rope.freq_base"), "rope_scaling": None,
        "vocab_size": len(field("tokenizer.ggml.tokens")),
        "tie_word_embeddings": not any(t.name == "output.weight" for t in reader.tensors),
        "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.51.0",
    }
    if arch == "qwen2":
        config |= {"use_sliding_window": False, "sliding_window": 128, "max_window_layers": 1}
    if arch == "qwen3":
        config |= {"head_dim": field(f"{arch}.attention.key_length"), "attention_bias": False}
    if MODELS[name].get("llama3"):
        config["rope_scaling"] = {"rope_type": "llama3"} | LLAMA3_ROPE
    return arch, config


def write_tokenizer(folder, reader, template_place):
    tokenizer = make_logits.load_tokenizer(reader)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"add_bos_token": False, "bos_token": "<|im_start|>",
              "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
              "unk_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if template_place == "config":
        config["chat_template"] = TEMPLATE
    elif template_place == "list":
        config["chat_template"] = [{"name": "tool_use", "template": "{{ tools }}"},
                                   {"name": "default", "template": TEMPLATE}]
    else:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": [2, 0]}) + "\n")


def write_weights(folder, state, shard_tensors):
    if shard_tensors == 0:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(state)
    shards = [names[i:i + shard_tensors] for i in range(0, len(names), shard_tensors)]
    places = {}
    for number, part in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= {name: file for name in part}
    size = sum(t.numel() * t.element_size() for t in state.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=1) + "\n")


def golden_logits(path):
    """The kept logits of each sequence: [(ids, first, logits)]."""
    data = path.read_bytes()
    vocabulary, count, full, _, _ = np.frombuffer(data, "<u4", 5, 8)
    assert full == 1
    at, out = 28, []
    for _ in range(count):
        for _ in range(3):
            length = int(np.frombuffer(data, "<u4", 1, at)[0])
            at += 4 + length + -length % 4
        tokens, first, greedy = (int(n) for n in np.frombuffer(data, "<u4", 3, at))
        ids = np.frombuffer(data, "<u4", tokens, at + 12)
        at += 12 + 4 * (tokens + greedy)
        rows = np.frombuffer(data, "<f4", (tokens - first) * (vocabulary + 1), at)
        at += rows.nbytes
        out.append((ids.tolist(), first, rows.reshape(tokens - first, -1)[:, 1:]))
    return out


def check(folder, golden, own):
    """What transformers computes from the directory is what the golden says, or becomes it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    if own is not None:
        make_logits.write_small(folder.name, model, own)
        return
    worst = 0.0
    for ids, first, logits in golden_logits(golden):
        found = make_logits.logits_of(model, ids)[first:]
        worst = max(worst, float(np.abs(found - logits).max()))
    print(folder, "largest difference from the golden logits %.6f" % worst)
    assert worst < 1e-3


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    models, out, logits = (Path(argument) for argument in sys.argv[1:])
    for name, (source, dtype, shard_tensors, template) in DIRECTORIES.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        reader = gguf.GGUFReader(models / f"{source}.gguf")
        arch, config = config_of(reader, source)
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        state = make_logits.tensors_of(reader, arch, config["num_attention_heads"],
                                       config["num_key_value_heads"], False)
        write_weights(folder, {key: value.to(dtype) for key, value in state.items()},
                      shard_tensors)
        write_tokenizer(folder, reader, template)
        own = None if dtype == torch.float32 else logits / f"{name}.dir.golden"
        check(folder, logits / f"{source}.golden", own)


if __name__ == "__main__":
    main()
