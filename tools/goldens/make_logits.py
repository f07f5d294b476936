#!/usr/bin/env python3
"""Make the golden logits of tests/vectors/logits with an independent implementation.

    python3 tools/goldens/make_logits.py small tests/vectors/models tests/vectors/logits
    python3 tools/goldens/make_logits.py smollm2 models/SmolLM2-135M-Instruct.Q4_1.gguf \\
        tests/vectors/logits

Needs the packages gguf, numpy, torch, transformers and tokenizers. Weights are dequantised by the
gguf package, put into transformers' own model classes in float32, and every position of fixed
token sequences is computed in one pass without a cache. The format is in tests/vectors/README.md.
"""
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers import decoders

from make_small_models import LLAMA3_ROPE, MODELS

TOP, SAMPLES = 32, 64
LEAD = 0.05

CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")
HOUSE = """The old house stood at the end of the lane, where the road turned into a path and the \
path into grass. Nobody had lived there since the winter of 1962, when the river came over its \
banks and took the bridge, the mill and two of the barns. Children said that a light moved behind \
the upper windows on nights without a moon. Their parents said that it was the reflection of the \
trains, which crossed the valley a mile away, and went on with their supper."""
CODE = """def binary_search(items, wanted):
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == wanted:
            return middle
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    return -1
"""
WORLD = "Grüße aus Köln! Привет, мир. 今日は良い天気です。 مرحبا 🌍🚀 {\"price\": 12.50, \"count\": 3}"
PROMPTS = [  # name, text, tokens of greedy continuation
    ("capital", "The capital of France is", 24),
    ("chat-capital", CHAT.format("Name the capital of France."), 24),
    ("house", HOUSE, 0),
    ("code", CODE, 16),
    ("world", WORLD, 0),
    ("chat-steps", CHAT.format("List three steps to make a cup of tea."), 48),
]


def tensors_of(reader, arch, heads, kv_heads, tied):
    """The file's tensors as float32 under transformers' names."""
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
             "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        layer = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        stem, kind = parts[-2], parts[-1]
        if arch == "llama" and stem in ("attn_q", "attn_k"):
            # llama files keep the pairs of a rotation side by side; transformers keeps halves.
            count = heads if stem == "attn_q" else kv_heads
            data = data.reshape(count, -1, 2, data.shape[-1]).swapaxes(1, 2).reshape(data.shape)
        state[f"{layer}{names[stem]}.{kind}"] = torch.from_numpy(data.copy())
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def load_model(path, llama3):
    """A transformers model with the file's weights; its config is made from the metadata."""
    reader = gguf.GGUFReader(path)

    def field(key, default=None):
        found = reader.get_field(key)
        return default if found is None else found.contents()

    arch = field("general.architecture")
    width, heads = field(f"{arch}.embedding_length"), field(f"{arch}.attention.head_count")
    kv_heads = field(f"{arch}.attention.head_count_kv", heads)
    tied = not any(t.name == "output.weight" for t in reader.tensors)
    rope = {"rope_type": "default", "rope_theta": field(f"{arch}.rope.freq_base")}
    if llama3:
        rope |= {"rope_type": "llama3"} | LLAMA3_ROPE
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM)}[arch]
    config = config_class(
        vocab_size=len(field("tokenizer.ggml.tokens")), hidden_size=width,
        intermediate_size=field(f"{arch}.feed_forward_length"),
        num_hidden_layers=field(f"{arch}.block_count"), num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=field(f"{arch}.attention.key_length", width // heads),
        max_position_embeddings=field(f"{arch}.context_length"),
        rms_norm_eps=field(f"{arch}.attention.layer_norm_rms_epsilon"),
        rope_parameters=rope, tie_word_embeddings=tied, attn_implementation="eager")
    model = model_class(config).float().eval()
    missing, extra = model.load_state_dict(tensors_of(reader, arch, heads, kv_heads, tied),
                                           strict=False)
    assert not extra and all("rotary" in name for name in missing), (missing, extra)
    return reader, model


def load_tokenizer(reader):
    """The tokenizers package over the file's vocabulary: what SmolLM2's tokenizer.json says."""
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    kinds = reader.get_field("tokenizer.ggml.token_type").contents()
    merges = reader.get_field("tokenizer.ggml.merges").contents()
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)},
                                     merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                  for token, kind in zip(tokens, kinds) if kind == 3])
    return tokenizer


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].float().numpy()


@torch.no_grad()
def continue_greedily(model, ids, count, stop):
    """Up to count tokens, the end token included when it comes. Ends early before a token that
    leads the next best by less than LEAD, which rounding could turn round."""
    out = []
    while len(out) < count and (not out or out[-1] not in stop):
        last = logits_of(model, ids + out)[-1]
        second, best = np.sort(last)[-2:]
        if best - second < LEAD:
            break
        out.append(int(np.argmax(last)))
    return out


def packed_text(text):
    data = text.encode()
    return struct.pack("<I", len(data)) + data + bytes(-len(data) % 4)


def packed_sequence(rng, name, prompt, ids, first, logits, greedy, continuation, full):
    """One sequence: names and tokens, then what is kept of the logits from position first on."""
    out = [packed_text(name), packed_text(prompt), packed_text(continuation),
           struct.pack("<III", len(ids), first, len(greedy)),
           np.array(ids, "<u4").tobytes(), np.array(greedy, "<u4").tobytes()]
    for row in logits[first:]:
        wide = row.astype(np.float64)
        total = wide.max() + np.log(np.exp(wide - wide.max()).sum())
        out.append(struct.pack("<f", total))
        if full:
            out.append(row.astype("<f4").tobytes())
            continue
        top = np.argsort(-row, kind="stable")[:TOP]
        others = rng.choice(len(row), SAMPLES, replace=False)
        for ids_kept in (top, others):
            out.append(ids_kept.astype("<u4").tobytes())
            out.append(row[ids_kept].astype("<f4").tobytes())
    return b"".join(out)


def write_golden(path, vocabulary, sequences, full):
    head = struct.pack("<8sIIIII", b"GOLDEN01", vocabulary, len(sequences), int(full),
                       0 if full else TOP, 0 if full else SAMPLES)
    path.write_bytes(head + b"".join(sequences))
    print(path, path.stat().st_size)


def write_small(name, model, path):
    """The golden of one small model."""
    rng = np.random.Generator(np.random.PCG64(7))
    rows = model.config.vocab_size
    sequences = []
    for label, count, first, follow in (("random", 48, 0, 16), ("single", 1, 0, 0),
                                        ("repeat", 12, 0, 16), ("far", 300, 292, 0)):
        ids = [int(i) for i in rng.integers(3, rows, count)]
        if label == "repeat":
            ids = ids[:4] * 3
        greedy = continue_greedily(model, ids, follow, ())
        logits = logits_of(model, ids)
        print(name, label, "deviation %.2f" % logits.std(), "greedy", len(greedy))
        sequences.append(packed_sequence(rng, label, "", ids, first, logits, greedy, "", True))
    write_golden(path, rows, sequences, True)


def make_small(models_folder, out_folder):
    for name, facts in MODELS.items():
        _, model = load_model(models_folder / f"{name}.gguf", facts.get("llama3", False))
        write_small(name, model, out_folder / f"{name}.golden")


def make_smollm2(path, out_folder):
    reader, model = load_model(path, False)
    tokenizer = load_tokenizer(reader)
    stop = (reader.get_field("tokenizer.ggml.eos_token_id").contents(),)
    rng = np.random.Generator(np.random.PCG64(7))

    def sequence(name, text, ids, first, greedy_count):
        greedy = continue_greedily(model, ids, greedy_count, stop)
        continuation = tokenizer.decode(greedy, skip_special_tokens=True)
        print(name, len(ids), len(greedy), repr(continuation))
        return packed_sequence(rng, name, text, ids, first, logits_of(model, ids), greedy,
                               continuation, False)

    sequences = [sequence(name, text, tokenizer.encode(text).ids, 0, count)
                 for name, text, count in PROMPTS]
    write_golden(out_folder / "smollm2.golden", model.config.vocab_size, sequences, False)

    # Far positions: three prompts in a row, again and again, and only the last 16 positions kept.
    text = (HOUSE + "\n\n" + CODE + "\n" + WORLD + "\n\n") * 3
    ids = tokenizer.encode(text).ids
    far = [sequence("far", text, ids, len(ids) - 16, 0)]
    write_golden(out_folder / "smollm2-far.golden", model.config.vocab_size, far, False)


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("small", "smollm2"):
        sys.exit(__doc__)
    out_folder = Path(sys.argv[3])
    out_folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if sys.argv[1] == "small":
        make_small(Path(sys.argv[2]), out_folder)
    else:
        make_smollm2(Path(sys.argv[2]), out_folder)


if __name__ == "__main__":
    main()
