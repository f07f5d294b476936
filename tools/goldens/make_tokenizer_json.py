#!/usr/bin/env python3
"""A GGUF file's tokenizer as a tokenizer.json.

    make_tokenizer_json.py models/SmolLM2-135M-Instruct.Q4_1.gguf OUT/tokenizer.json
    make_tokenizer_json.py corpus tests/vectors/tokenizers

The first form is for a byte-level file; tests/vectors/tokens_test.c makes its own of SmolLM2 in the
same shape. The second makes small tokenizers of every kind that is read, over the vocabularies of
tests/vectors/tokens, and the ids that the `tokenizers` package gives for the corpus there.

Needs the packages gguf, tokenizers and transformers (its conversion of SentencePiece files).
"""
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors

import token_corpus

TOKENS = Path(__file__).parent / "../../tests/vectors/tokens"
CONTROL, USER_DEFINED, BYTE, UNKNOWN = 3, 4, 6, 2

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# Case by case, as newer models cut.
CASES = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=invert)


def bytes_after(*steps, use_regex=False):
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


def byte_level(vocabulary, pre, **more):
    """A tokenizer over tokens, types and merges."""
    tokens, types = vocabulary["tokens"], vocabulary["types"]
    merges = [tuple(m.split(" ")) for m in vocabulary["merges"]]
    plain = {t: i for i, t in enumerate(tokens) if types[i] not in (CONTROL, USER_DEFINED)}
    # Tokens that are only added: the model does not know them, as in files of the field.
    tokenizer = Tokenizer(models.BPE(vocab=plain, merges=merges, **more))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_tokens(tokenizer, vocabulary, **flags):
    for text, kind in zip(vocabulary["tokens"], vocabulary["types"]):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(text, special=False, **flags)])


def gguf_vocabulary(path):
    import gguf
    fields = gguf.GGUFReader(path).fields

    def texts(key):
        field = fields[key]
        return [bytes(field.parts[i]).decode("utf-8") for i in field.data]
    types = fields["tokenizer.ggml.token_type"]
    return {"tokens": texts("tokenizer.ggml.tokens"), "merges": texts("tokenizer.ggml.merges"),
            "types": [int(types.parts[i][0]) for i in types.data]}


def reordered(vocabulary):
    """Added tokens last, as `tokenizers` numbers them."""
    order = sorted(range(len(vocabulary["tokens"])),
                   key=lambda i: (vocabulary["types"][i] in (CONTROL, USER_DEFINED), i))
    return {**vocabulary, "tokens": [vocabulary["tokens"][i] for i in order],
            "types": [vocabulary["types"][i] for i in order]}


def small_bytes():
    return reordered(json.loads((TOKENS / "vocabulary_bytes.json").read_text()))


def spm_tokenizer(form):
    """The SentencePiece vocabulary with merges made of its scores, as transformers converts them."""
    vocabulary = json.loads((TOKENS / "vocabulary_spm.json").read_text())
    tokens, types, scores = (vocabulary[k] for k in ("tokens", "types", "scores"))
    vocab = {t: i for i, t in enumerate(tokens)}
    score = {t: s for t, s, k in zip(tokens, scores, types) if k == 1}
    merges = []
    for token in score:
        local = [(token[:i], token[i:]) for i in range(1, len(token))
                 if token[:i] in score and token[i:] in score]
        merges += [(left, right, score[token]) for left, right in
                   sorted(local, key=lambda x: (vocab[x[0]], vocab[x[1]]))]
    merges.sort(key=lambda m: -m[2])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[m[:2] for m in merges],
                                     unk_token=tokens[types.index(UNKNOWN)], fuse_unk=True,
                                     byte_fallback=True))
    if form == "prepend":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
             decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=form, split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            + ([] if form == "never" else [decoders.Strip(" ", 1, 0)]))
    for text, kind in zip(tokens, types):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
    return tokenizer


def small_tokenizers():
    """Name and tokenizer of every kind."""
    small = small_bytes()
    kinds = {
        "smollm": (bytes_after(pre_tokenizers.Digits(individual_digits=True), use_regex=True), {}),
        "digits": (bytes_after(pre_tokenizers.Digits(individual_digits=False), use_regex=True), {}),
        "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), {}),
        "llama3": (bytes_after(split(LLAMA3)), {"ignore_merges": True}),
        "removed": (bytes_after(split(LLAMA3, "removed", True)), {}),
        "cases": (bytes_after(split(CASES)), {}),
        "gaps": (bytes_after(split(r"\s+"), split(r"[\d\S]\p{M}?")), {}),
        "words": (bytes_after(split(r"[^\s]+", "removed", True)), {}),
        "literal": (bytes_after(pre_tokenizers.Split("e", behavior="isolated")), {}),
        "uncut": (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), {}),
    }
    for name, (pre, more) in kinds.items():
        tokenizer = byte_level(small, pre, **more)
        add_tokens(tokenizer, small, normalized=False)
        if name == "llama3":
            bos = tokenizer.token_to_id("<|im_start|>")
            tokenizer.post_processor = processors.Sequence([
                processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
                    single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)])])
        yield name, tokenizer
    tokenizer = byte_level(small, bytes_after(split(QWEN2)))
    tokenizer.normalizer = normalizers.NFC()
    add_tokens(tokenizer, small, normalized=False)
    yield "qwen2", tokenizer
    # Flags: what is normalised first is found composed; spaces beside a token go with it.
    tokenizer = byte_level(small, bytes_after(split(QWEN2)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(
        [AddedToken("<|im_start|>", special=True, normalized=False, lstrip=True),
         AddedToken("<|im_end|>", special=True, normalized=False, rstrip=True)])
    tokenizer.add_tokens([AddedToken("fé", special=False, normalized=True),
                          AddedToken("the", special=False, normalized=True, lstrip=True,
                                     rstrip=True),
                          AddedToken("<think>", special=False, normalized=True)])
    yield "flags", tokenizer
    for form in ("prepend", "first", "always", "never"):
        yield f"spm-{form}", spm_tokenizer(form)


def words(ids):
    return " ".join(map(str, ids))


def make_small(out):
    """<name>.json: the tokenizer; <name>.ids.json: parsed, plain, with its own bos."""
    out.mkdir(parents=True, exist_ok=True)
    for name, tokenizer in small_tokenizers():
        golden = {}
        for key, special, parse in (("parsed", False, True), ("plain", False, False),
                                    ("whole", True, True)):
            tokenizer.encode_special_tokens = not parse
            golden[key] = [words(tokenizer.encode(text, add_special_tokens=special).ids)
                           for text in token_corpus.TEXTS]
        tokenizer.encode_special_tokens = False
        (out / f"{name}.json").write_text(
            json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=True,
                       separators=(",", ":")) + "\n")
        for key in ("plain", "whole"):
            golden[key] = {str(i): b for i, (a, b) in
                           enumerate(zip(golden["parsed"], golden[key])) if a != b}
        (out / f"{name}.ids.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        print(name, (out / f"{name}.json").stat().st_size)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if sys.argv[1] == "corpus":
        make_small(Path(sys.argv[2]))
        return
    vocabulary = gguf_vocabulary(sys.argv[1])
    pre = bytes_after(pre_tokenizers.Digits(individual_digits=True), use_regex=True)
    vocab = {t: i for i, t in enumerate(vocabulary["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab,
                                     merges=[tuple(m.split(" ")) for m in vocabulary["merges"]]))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False)
         for t, k in zip(vocabulary["tokens"], vocabulary["types"]) if k == CONTROL])
    tokenizer.save(sys.argv[2])


if __name__ == "__main__":
    main()
