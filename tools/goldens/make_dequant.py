#!/usr/bin/env python3
"""Make tests/vectors/dequant.bin: packed rows of every tensor type and what the gguf package reads
in them.

    python3 tools/goldens/make_dequant.py tests/vectors/dequant.bin

Needs the packages gguf and numpy. Quants are random bytes, so every bit of a group matters; scales
are finite, among them zero, subnormal and negative ones. The format is in tests/vectors/README.md.
"""
import struct
import sys
from pathlib import Path

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
GROUPS = 6
# bytes of a group, and where its f16 scales lie
TYPES = {Q.F32: (4, []), Q.F16: (2, []), Q.BF16: (2, []), Q.Q8_0: (34, [0]), Q.Q4_0: (18, [0]),
         Q.Q4_1: (20, [0, 2]), Q.Q4_K: (144, [0, 2]), Q.Q5_K: (176, [0, 2]), Q.Q6_K: (210, [208])}
SCALES = np.array([0.0123, -0.7, 3e-6, 0.0, 11.5, -6.1e-5], np.float16)


def packed_rows(rng, kind):
    """One row of groups as bytes."""
    group_bytes, scales_at = TYPES[kind]
    if kind in (Q.F32, Q.F16, Q.BF16):
        values = (rng.standard_normal(64) * 10.0 ** rng.integers(-9, 4, 64)).astype(np.float32)
        return gguf.quants.quantize(values, kind).view(np.uint8).reshape(1, -1)
    groups = rng.integers(0, 256, (GROUPS, group_bytes)).astype(np.uint8)
    for shift, at in enumerate(scales_at):
        groups[:, at:at + 2] = np.roll(SCALES, shift).view(np.uint8).reshape(GROUPS, 2)
    return groups.reshape(1, -1)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rng = np.random.Generator(np.random.PCG64(11))
    out = [struct.pack("<8sI", b"DEQUANT1", len(TYPES))]
    for kind in TYPES:
        packed = packed_rows(rng, kind)
        native = {Q.F32: np.float32, Q.F16: np.float16}.get(kind, np.uint8)
        with np.errstate(all="raise", under="ignore"):
            values = gguf.quants.dequantize(packed.view(native), kind).astype("<f4").ravel()
        data = packed.tobytes()
        out += [struct.pack("<III", int(kind), len(values), len(data)), data,
                bytes(-len(data) % 4), values.tobytes()]
    Path(sys.argv[1]).write_bytes(b"".join(out))


if __name__ == "__main__":
    main()
