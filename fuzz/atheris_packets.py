"""Coverage-guided fuzzing of the decoders.

    pip install atheris && python fuzz/atheris_packets.py -runs=1000000

The first byte chooses a packet, the second what is done to it; the rest is XORed onto it: zeros are a good packet. The
checks are those of fuzz/packets.py. Linux only, and the Python versions that atheris has wheels for.
"""

from __future__ import annotations

import os
import sys
import zlib

import atheris

os.environ["NUMBA_DISABLE_JIT"] = "1"  # so that the kernels are Python, and instrumented as well
with atheris.instrument_imports(include=["spfl.packets.codec", "spfl.packets.quantiser"]):
    from packets import CRC, check, make_corpus

CORPUS = make_corpus(0)


def one_input(data: bytes) -> None:
    if len(data) < 2:
        return
    sent, how, delta = CORPUS[data[0] % len(CORPUS)], data[1], data[2:]
    packet, forged = bytearray(sent.packet), bool(how & 1)
    for place, byte in enumerate(delta[: len(packet)]):
        packet[place] ^= byte
    if how & 2:
        packet += delta[len(packet) :]
    if how & 4:
        del packet[len(delta) :]
    if forged and len(packet) >= CRC:
        packet[-CRC:] = zlib.crc32(memoryview(packet)[:-CRC]).to_bytes(CRC, "little")
    check(sent, bytes(packet), forged)


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
