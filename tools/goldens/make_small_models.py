#!/usr/bin/env python3
"""Make the small models of tests/vectors/models: random weights, every architecture and tensor type.

    python3 tools/goldens/make_small_models.py tests/vectors/models

Needs the packages gguf and numpy. Weights come from a generator seeded by the model's name, so a
second run writes the same files. Quantised types that the gguf package cannot make (Q4_K, Q5_K,
Q6_K) are packed here as random but valid groups. Each file has a byte-level BPE tokenizer and a
ChatML template, so that a whole server can load it; nothing it says means anything.
"""
import math
import sys
import zlib
from pathlib import Path

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BOS, EOS, UNKNOWN = 1, 2, 0
MERGES = """Ġ t;Ġ a;i n;h e;r e;o n;e r;Ġt he;a t;Ġ s;Ġ o;e n;Ġ c;e s;Ġ w;n d;i t;o r;i s;a l;Ġ p;
Ġ f;i ng;n g;Ġa nd;Ġo f;Ġ b;o u;Ġt o;a r;Ġ in;Ġ m;e d;Ġ d;Ġ h;Ġ ;a n;i c;Ġ e;o m;Ġi s;Ġ n;Ġth at;l l;
a s;e c;Ġ g;Ġ l;r o;i on;c t;Ġ re;s t;o w;y s""".replace("\n", "")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT_TOKENS = 1024

# Llama-3's rotation: long wavelengths are stretched, short ones kept, a ramp between.
LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 256}

# Real models are sure of most tokens; random ones toss coins, and then any rounding decides. So
# here a token's own direction stays visible through the layers, whose branches are damped by
# BRANCH, and the head knows it: a tied one tends to say the token again, one of its own (the
# embedding's rows in another order) to say the one that follows it in that order.
BRANCH = 0.5
FOLLOWER_STEP = 7  # no divisor in common with the 310 rows

# matrices: the type of all but those named. head "tied" has no output.weight.
MODELS = {
    "llama-f32-tied": dict(arch="llama", width=64, heads=4, kv_heads=2, head_dim=16, ffn=96,
                           layers=2, matrices=Q.F32, head="tied", theta=10000.0),
    "llama3-f16": dict(arch="llama", width=64, heads=4, kv_heads=2, head_dim=16, ffn=96, layers=2,
                       matrices=Q.F16, head="own", theta=10000.0, llama3=True),
    "llama-q4_0": dict(arch="llama", width=128, heads=4, kv_heads=4, head_dim=32, ffn=192,
                       layers=2, matrices=Q.Q4_0, embedding=Q.Q8_0, head="own", theta=10000.0),
    "llama-q4_1-tied": dict(arch="llama", width=96, heads=3, kv_heads=1, head_dim=32, ffn=256,
                            layers=3, matrices=Q.Q4_1, embedding=Q.Q8_0, head="tied",
                            theta=100000.0),
    "llama3-q4_k": dict(arch="llama", width=256, heads=4, kv_heads=1, head_dim=64, ffn=256,
                        layers=2, matrices=Q.Q4_K, embedding=Q.Q6_K, head="tied",
                        attn_v=Q.Q6_K, ffn_down=Q.Q6_K, theta=500000.0, llama3=True),
    "qwen2-bf16-tied": dict(arch="qwen2", width=64, heads=4, kv_heads=2, head_dim=16, ffn=96,
                            layers=2, matrices=Q.BF16, head="tied", theta=1000000.0),
    "qwen2-q5_k": dict(arch="qwen2", width=256, heads=4, kv_heads=2, head_dim=64, ffn=256,
                       layers=2, matrices=Q.Q5_K, embedding=Q.Q4_K, head="own",
                       theta=1000000.0),
    "qwen3-q8_0": dict(arch="qwen3", width=64, heads=4, kv_heads=2, head_dim=32, ffn=128, layers=2,
                       matrices=Q.Q8_0, head="own", theta=1000000.0),
    "qwen3-q6_k-tied": dict(arch="qwen3", width=256, heads=2, kv_heads=1, head_dim=128, ffn=256,
                            layers=2, matrices=Q.Q6_K, embedding=Q.Q6_K, head="tied",
                            theta=1000000.0),
}


def bytes_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes, in its vocabulary's order."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def vocabulary():
    """Tokens, their types and the merges that make them; a merge of unknown parts is left out."""
    tokens = SPECIALS + bytes_alphabet()
    merges = []
    for merge in MERGES.split(";"):
        parts = merge.strip().split(" ")
        if len(parts) != 2 or not all(parts) or any(part not in tokens for part in parts):
            continue
        if "".join(parts) not in tokens:
            tokens.append("".join(parts))
            merges.append(" ".join(parts))
    kinds = [gguf.TokenType.CONTROL] * len(SPECIALS)
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIALS))
    # 310 rows: no kernel may count on a round number of them.
    return tokens, kinds, merges


def k_scales(scales, minimums):
    """Eight 6-bit scales and minimums per group, packed into 12 bytes: [groups][8] -> [groups][12]."""
    packed = np.zeros((scales.shape[0], 12), np.uint8)
    packed[:, 0:4] = (scales[:, 0:4] & 63) | ((scales[:, 4:8] >> 4) << 6)
    packed[:, 4:8] = (minimums[:, 0:4] & 63) | ((minimums[:, 4:8] >> 4) << 6)
    packed[:, 8:12] = (scales[:, 4:8] & 15) | ((minimums[:, 4:8] & 15) << 4)
    return packed


def halves(values):
    return values.astype(np.float16).view(np.uint8).reshape(values.shape[0], -1)


def random_k(rng, groups, deviation, bits):
    """Q4_K or Q5_K groups whose values spread around 0 with about this deviation."""
    scales = rng.integers(8, 64, (groups, 8)).astype(np.uint8)
    minimums = np.clip(scales.astype(int) + rng.integers(-6, 7, (groups, 8)), 0, 63)
    top = 2 ** bits - 1
    d = deviation / (36 * top / math.sqrt(12)) * rng.uniform(0.7, 1.3, (groups, 1))
    head = [halves(d), halves(d * top / 2), k_scales(scales, minimums.astype(np.uint8))]
    quants = [rng.integers(0, 256, (groups, 128)).astype(np.uint8)]
    if bits == 5:
        quants.insert(0, rng.integers(0, 256, (groups, 32)).astype(np.uint8))
    return np.concatenate(head + quants, axis=1)


def random_q6_k(rng, groups, deviation):
    scales = rng.integers(20, 128, (groups, 16)) * rng.choice([-1, 1], (groups, 16))
    d = deviation / (74 * 18.5) * rng.uniform(0.7, 1.3, (groups, 1))
    return np.concatenate([rng.integers(0, 256, (groups, 192)).astype(np.uint8),
                           scales.astype(np.int8).view(np.uint8), halves(d)], axis=1)


def random_matrix(rng, kind, rows, columns, deviation):
    """Rows as the file stores them: bytes for packed types, numbers for F32 and F16."""
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
        groups = rows * columns // 256
        if kind == Q.Q6_K:
            packed = random_q6_k(rng, groups, deviation)
        else:
            packed = random_k(rng, groups, deviation, 4 if kind == Q.Q4_K else 5)
        return packed.reshape(rows, -1)
    values = (rng.standard_normal((rows, columns)) * deviation).astype(np.float32)
    if kind == Q.F32:
        return values
    return gguf.quants.quantize(values, kind)


def follower_rows(rows):
    """For each row of a head of its own, the token whose embedding it is."""
    return (np.arange(rows) * FOLLOWER_STEP + 3) % rows


def llama3_factors(head_dim, theta):
    """What rope_freqs.weight holds: divisors of the frequencies."""
    low = LLAMA3_ROPE["original_max_position_embeddings"] / LLAMA3_ROPE["low_freq_factor"]
    high = LLAMA3_ROPE["original_max_position_embeddings"] / LLAMA3_ROPE["high_freq_factor"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(LLAMA3_ROPE["factor"])
        else:
            ramp = (low / wavelength - 1) / (low / high - 1)
            factors.append(1 / ((1 - ramp) / LLAMA3_ROPE["factor"] + ramp))
    return np.array(factors, np.float32)


def write_metadata(writer, name, m):
    writer.add_name(name)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(m["width"])
    writer.add_block_count(m["layers"])
    writer.add_feed_forward_length(m["ffn"])
    writer.add_head_count(m["heads"])
    writer.add_head_count_kv(m["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5 if m["arch"] == "llama" else 1e-6)
    writer.add_rope_freq_base(m["theta"])
    if m["arch"] == "llama":
        writer.add_rope_dimension_count(m["head_dim"])
    if m["arch"] == "qwen3":
        writer.add_key_length(m["head_dim"])
        writer.add_value_length(m["head_dim"])
    tokens, kinds, merges = vocabulary()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    return len(tokens)


def write_model(path, name, m):
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    writer = gguf.GGUFWriter(path, m["arch"])
    rows = write_metadata(writer, name, m)

    def matrix(tensor, kind, rows, columns, gain):
        data = random_matrix(rng, kind, rows, columns, gain / math.sqrt(columns))
        writer.add_tensor(tensor, data, raw_dtype=kind)
        return data

    def vector(tensor, count, middle, spread):
        values = middle + spread * rng.uniform(-1, 1, count)
        writer.add_tensor(tensor, values.astype(np.float32))

    kind = m["matrices"]
    q, kv = m["heads"] * m["head_dim"], m["kv_heads"] * m["head_dim"]
    embedding_kind = m.get("embedding", kind)
    embedding = matrix("token_embd.weight", embedding_kind, rows, m["width"], 3.0)
    if m.get("llama3"):
        writer.add_tensor("rope_freqs.weight", llama3_factors(m["head_dim"], m["theta"]))
    for i in range(m["layers"]):
        block = f"blk.{i}."
        vector(block + "attn_norm.weight", m["width"], 1.0, 0.5)
        matrix(block + "attn_q.weight", kind, q, m["width"], 1.2)
        matrix(block + "attn_k.weight", kind, kv, m["width"], 1.2)
        matrix(block + "attn_v.weight", m.get("attn_v", kind), kv, m["width"], 1.0)
        if m["arch"] == "qwen2":
            vector(block + "attn_q.bias", q, 0.0, 0.8)
            vector(block + "attn_k.bias", kv, 0.0, 0.8)
            vector(block + "attn_v.bias", kv, 0.0, 0.8)
        if m["arch"] == "qwen3":
            vector(block + "attn_q_norm.weight", m["head_dim"], 1.0, 0.5)
            vector(block + "attn_k_norm.weight", m["head_dim"], 1.0, 0.5)
        matrix(block + "attn_output.weight", kind, m["width"], q, BRANCH)
        vector(block + "ffn_norm.weight", m["width"], 1.0, 0.5)
        matrix(block + "ffn_gate.weight", kind, m["ffn"], m["width"], 1.0)
        matrix(block + "ffn_up.weight", kind, m["ffn"], m["width"], 1.0)
        matrix(block + "ffn_down.weight", m.get("ffn_down", kind), m["width"], m["ffn"], BRANCH)
    vector("output_norm.weight", m["width"], 1.0, 0.5)
    if m["head"] == "own":
        writer.add_tensor("output.weight", embedding[follower_rows(rows)],
                          raw_dtype=embedding_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, m in MODELS.items():
        write_model(folder / f"{name}.gguf", name, m)
        print(name, (folder / f"{name}.gguf").stat().st_size)


if __name__ == "__main__":
    main()
