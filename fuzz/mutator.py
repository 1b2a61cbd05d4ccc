"""Damage to bytes: flips, cuts, splices, numbers at their limits; for PNG also inside chunks, with right check sums."""

from __future__ import annotations

import random
import re
import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (b"-1", b"0", b"1e999", b"NaN", b"null", b"[]", b"{}", b'""', b"18446744073709551616", b'"\\ud800"', b"true")
MOST_DAMAGE = 6
MOST_BYTES = 1 << 20  # larger inputs only make the search slow


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` with some damage; what is spliced in comes from `others`."""
    if data.startswith(PNG) and rng.random() < 0.6:
        return mutate_png(rng, data, others)[:MOST_BYTES]
    for _ in range(rng.randint(1, MOST_DAMAGE)):
        data = rng.choice(DAMAGE)(rng, data, others)
    return data[:MOST_BYTES]


def _place(rng: random.Random, data: bytes) -> int:
    """Where to damage: half the time near the start, where formats keep their headers."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data)) if data else 0


def flip_bit(rng, data, others):
    if not data:
        return data
    i = _place(rng, data)
    return data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]


def set_byte(rng, data, others):
    i = _place(rng, data)
    return data[:i] + bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))]) + data[i + 1 :]


def set_number(rng, data, others):
    """A number at its limits, or the one that stands there changed a little: lengths and counts."""
    i, size = _place(rng, data), rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    number = int.from_bytes(data[i : i + size], order) + rng.choice((-1, 1, 2**20))
    number = rng.choice((rng.choice(NUMBERS), number)) % 2 ** (8 * size)
    return data[:i] + number.to_bytes(size, order) + data[i + size :]


def set_word(rng, data, others):
    """A number or string of a text replaced by another kind of value; the text keeps its length half the time."""
    found = list(re.finditer(rb'-?\d+|"[^"]{0,80}"', data[: 1 << 16]))
    if not found:
        return data
    begin, end = rng.choice(found).span()
    word = rng.choice(WORDS)
    return data[:begin] + (word.ljust(end - begin)[: end - begin] if rng.random() < 0.5 else word) + data[end:]


def truncate(rng, data, others):
    return data[: _place(rng, data)]


def remove(rng, data, others):
    i = _place(rng, data)
    return data[:i] + data[i + rng.choice((1, 2, 4, 8, rng.randint(1, 200))) :]


def insert(rng, data, others):
    i = _place(rng, data)
    return data[:i] + rng.randbytes(rng.choice((1, 2, 4, 8, rng.randint(1, 200)))) + data[i:]


def repeat(rng, data, others):
    i = _place(rng, data)
    return data[:i] + data[i : i + rng.randint(1, 100)] * rng.choice((2, 3, 50)) + data[i:]


def blank(rng, data, others):
    i, count = _place(rng, data), rng.randint(1, 200)
    return data[:i] + rng.choice((b"\0", b"\xff")) * len(data[i : i + count]) + data[i + count :]


def splice(rng, data, others):
    other = rng.choice(others)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


DAMAGE = (
    flip_bit, set_byte, set_number, set_word, truncate, remove, insert, repeat, blank, splice,
)  # fmt: skip


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a PNG, as far as it goes."""
    chunks, i = [], len(PNG)
    while i + 12 <= len(data):
        (length,) = struct.unpack(">I", data[i : i + 4])
        chunks.append((data[i + 4 : i + 8], data[i + 8 : i + 8 + length]))
        i += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, with right lengths and check sums."""
    return PNG + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def mutate_png(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Damage inside of chunks, among chunks, or inside of the deflated pixels; the check sums are right."""
    chunks = png_chunks(data)
    if not chunks:
        return data
    i = rng.randrange(len(chunks))
    kind, content = chunks[i]
    way = rng.randrange(6)
    if way == 0:
        del chunks[i]
    elif way == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[i])
    elif way == 2:
        rng.shuffle(chunks)
    elif way == 3 and kind == b"IDAT":
        chunks[i] = kind, _deflated_again(rng, content, others)
    elif way == 4 and kind == b"IHDR":
        chunks[i] = kind, _other_header(rng, content)
    else:
        chunks[i] = kind, rng.choice(DAMAGE)(rng, content, others)
    return png_of(chunks)


def _deflated_again(rng, content, others):
    try:
        pixels = zlib.decompress(content)
    except zlib.error:
        return content
    return zlib.compress(rng.choice(DAMAGE)(rng, pixels, others)[:MOST_BYTES])


def _other_header(rng, content):
    if len(content) != 13:
        return content
    fields = list(struct.unpack(">IIBBBBB", content))
    i = rng.randrange(7)
    fields[i] = rng.choice((*NUMBERS[:14], 20000, 50000)) if i < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return struct.pack(">IIBBBBB", *fields)
