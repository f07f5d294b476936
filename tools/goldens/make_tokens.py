#!/usr/bin/env python3
"""tools/goldens/make_tokens.py - makes tests/vectors/tokens/*.json.

    make_tokens.py [models/SmolLM2-135M-Instruct.Q4_1.gguf]

The ids come from the `tokenizers` package (byte-level BPE) and the `sentencepiece` package, never from
baton. Needs tokenizers, sentencepiece, gguf and numpy; building and testing baton needs none of them.

    corpus.json        the texts
    vocabulary_*.json  small vocabularies: tokens, types, merges or scores
    words.json         for each pre-tokenizer the bytes of the words that it cuts each text into
    ids_*.json         a golden: the vocabulary, the pre-tokenizer and flags, and the ids of each text

Every golden has the ids twice: "parsed" with control tokens found in text, "plain" without.
"""
import io
import json
import os
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import token_corpus  # noqa: E402

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/vectors/tokens")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# The patterns as the models' own tokenizer.json files have them.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def pre_tokenizer(name):
    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    pattern = {"llama-bpe": LLAMA3, "qwen2": QWEN2}[name]
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(vocabulary, pre):
    """The `tokenizers` tokenizer over a vocabulary of ours."""
    tokens, types = vocabulary["tokens"], vocabulary["types"]
    merges = [tuple(m.split(" ")) for m in vocabulary["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges,
                                     ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([t for t, k in zip(tokens, types) if k == CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False)
                          for t, k in zip(tokens, types) if k == USER_DEFINED])
    return tokenizer


def encode_all(tokenizer, parse):
    tokenizer.encode_special_tokens = not parse
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in token_corpus.TEXTS]


def write(name, value):
    path = os.path.join(OUT, name)
    with open(path, "w", encoding="ascii") as out:
        json.dump(value, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")
    print(f"{name}: {os.path.getsize(path)} bytes")


def write_ids(name, model, vocabulary, parsed, plain, **spec):
    """Ids as strings of numbers; "plain" only where it differs."""
    def words(ids):
        return " ".join(map(str, ids))
    write(name, {"model": model, "vocabulary": vocabulary, **spec,
                 "parsed": [words(ids) for ids in parsed],
                 "plain": {str(i): words(b) for i, (a, b) in enumerate(zip(parsed, plain)) if a != b}})


def words_of(pre):
    """Lengths in bytes of the words of each text: byte-level words have a character a byte."""
    cut = pre_tokenizer(pre)
    return [" ".join(str(len(word)) for word, _ in cut.pre_tokenize_str(text))
            for text in token_corpus.TEXTS]


def train_byte_level():
    """A vocabulary whose merges ignore word boundaries: a wrong cut gives wrong ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=1500, min_frequency=2, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  max_token_length=16)
    tokenizer.train_from_iterator(token_corpus.TRAINING * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    types = [NORMAL] * len(tokens)
    # Tokens that no merge leads to: only a pre-tokenizer that ignores merges finds them.
    for text in ["\u0120unreachable", "unreachable"]:
        tokens.append(text)
        types.append(NORMAL)
    for text in ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im", "<|im_startx|>"]:
        tokens.append(text)
        types.append(CONTROL)
    for text in ["<think>", "</think>"]:
        tokens.append(text)
        types.append(USER_DEFINED)
    return {"tokens": tokens, "types": types, "merges": merges}


def sentencepiece_vocabulary(processor):
    tokens, types, scores = [], [], []
    for i in range(processor.get_piece_size()):
        tokens.append(processor.id_to_piece(i))
        scores.append(processor.get_score(i))
        types.append(BYTE if processor.is_byte(i) else UNKNOWN if processor.is_unknown(i) else
                     CONTROL if processor.is_control(i) else UNUSED if processor.is_unused(i) else
                     NORMAL)
    return tokens, types, scores


def make_sentencepiece(name, byte_fallback, prefix, user_defined):
    """Trains on the training texts and writes vocabulary and ids."""
    model = io.BytesIO()
    lines = [line for text in token_corpus.TRAINING for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 2), model_writer=model, model_type="bpe", minloglevel=2,
        vocab_size=1400 if byte_fallback else 900, byte_fallback=byte_fallback,
        character_coverage=0.98, normalization_rule_name="identity", add_dummy_prefix=prefix,
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        user_defined_symbols=user_defined, control_symbols=["[INST]", "[/INST]"],
        hard_vocab_limit=False)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens, types, scores = sentencepiece_vocabulary(processor)
    for text in user_defined:
        types[processor.piece_to_id(text)] = USER_DEFINED
    plain = [processor.encode(text) for text in token_corpus.TEXTS]
    write(f"vocabulary_{name}.json", {"tokens": tokens, "types": types, "scores": scores})
    write_ids(f"ids_{name}.json", "llama", f"vocabulary_{name}.json", plain, plain,
              pre="", add_space_prefix=prefix, unknown_id=processor.unk_id(),
              decoded={str(i): processor.decode(ids) for i, ids in enumerate(plain)
                       if processor.decode(ids) != token_corpus.TEXTS[i]})


def gguf_vocabulary(path):
    import gguf
    fields = gguf.GGUFReader(path).fields

    def strings(key):
        field = fields[key]
        return [bytes(field.parts[i]).decode("utf-8") for i in field.data]
    types = fields["tokenizer.ggml.token_type"]
    return {"tokens": strings("tokenizer.ggml.tokens"), "merges": strings("tokenizer.ggml.merges"),
            "types": [int(types.parts[i][0]) for i in types.data]}


def main():
    os.makedirs(OUT, exist_ok=True)
    write("corpus.json", token_corpus.TEXTS)
    pres = ["smollm", "llama-bpe", "qwen2", "gpt-2"]
    write("words.json", {pre: words_of(pre) for pre in pres})
    small = train_byte_level()
    write("vocabulary_bytes.json", small)
    for pre in pres:
        tokenizer = byte_level(small, pre)
        write_ids(f"ids_bytes_{pre}.json", "gpt2", "vocabulary_bytes.json",
                  encode_all(tokenizer, True), encode_all(tokenizer, False), pre=pre)
    make_sentencepiece("spm", True, True, ["<think>", "</think>"])
    make_sentencepiece("spm_unknown", False, False, ["<think>"])
    if len(sys.argv) > 1:
        vocabulary = gguf_vocabulary(sys.argv[1])
        for pre in ["smollm", "llama-bpe"]:
            tokenizer = byte_level(vocabulary, pre)
            write_ids(f"ids_smollm2_{pre}.json", "gpt2", "", encode_all(tokenizer, True),
                      encode_all(tokenizer, False), pre=pre)


main()
