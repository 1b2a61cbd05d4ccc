"""seal: the cipher by its standard, the formula by hand, and what an outsider sees. What comes back: test_unseal.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from helpers import BACKENDS, MANY, large

import veilkern as vk
from veilkern import ops, reference
from veilkern.testing.making import bytes8, sealable_photos


def as_bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


# RFC 8439: key, nonce, counter of the block, its keystream (sections 2.3.2 and A.1, vectors 1, 2, 3, 4, 5).
ZERO, ORDER = "00" * 32, "".join(f"{i:02x}" for i in range(32))
VECTORS = [
    (ORDER, "000000090000004a00000000", 1,
     "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
     "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"),
    (ZERO, "00" * 12, 0,
     "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
     "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"),
    (ZERO, "00" * 12, 1,
     "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
     "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"),
    ("00" * 31 + "01", "00" * 12, 1,
     "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
     "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"),
    ("00ff" + "00" * 30, "00" * 12, 2,
     "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
     "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"),
    (ZERO, "00" * 11 + "02", 0,
     "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
     "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d"),
]  # fmt: skip


@pytest.mark.parametrize("key,nonce,block,wanted", VECTORS)
def test_the_vectors_of_the_standard(key, nonce, block, wanted):
    stream = reference.keystream(as_bytes(key)[None], as_bytes(nonce)[None], 64 * (block + 1))
    assert torch.equal(stream[0, 64 * block :], as_bytes(wanted))


def other_keystream(key: torch.Tensor, nonce: torch.Tensor, size: int) -> np.ndarray:
    """By OpenSSL, whose nonce begins with the counter, here 0."""
    cipher = Cipher(algorithms.ChaCha20(key.numpy().tobytes(), bytes(4) + nonce.numpy().tobytes()), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(size)), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 4 * 1024 + 7, 37_632])
def test_the_keystream_of_another_implementation(size):
    keys, nonces = bytes8(3, 32, seed=size), bytes8(3, 12, seed=size + 1)
    found = reference.keystream(keys, nonces, size)
    for i in range(3):
        assert np.array_equal(found[i].numpy(), other_keystream(keys[i], nonces[i], size))


def by_hand(images, veils, rows, keys, nonces, m: int):
    """The formula value by value in Python's integers: the 8-bit and the 16-bit photos."""
    shown, wide = np.zeros(images.shape, np.int64), np.zeros(images.shape, np.int64)
    for n, row in enumerate(rows.tolist()):
        stream = other_keystream(keys[row], nonces[n], images[n].numel())
        x, v, bits = images[n].flatten().tolist(), veils[row].flatten().tolist(), nonces[n].tolist()
        for i, (value, veil, k) in enumerate(zip(x, v, map(int, stream), strict=True)):
            if i < 96:
                u = (((value >> (9 - m)) ^ ((k % 2**m) >> 1)) << 1) | (bits[i // 8] >> (i % 8) & 1)
                low = ((value % 2 ** (9 - m)) ^ (((k >> m) << 1) | (k & 1))) << (m - 1)
            else:
                u = (value >> (8 - m)) ^ (k % 2**m)
                low = ((value % 2 ** (8 - m)) ^ (k >> m)) << m
            shown[n].ravel()[i] = (veil + u) % 256
            wide[n].ravel()[i] = shown[n].ravel()[i] << 8 | low
    return torch.from_numpy(shown).to(torch.uint8), torch.from_numpy(wide).to(torch.int32).to(torch.uint16)


@pytest.mark.parametrize("m", [4, 5, 6, 7])
def test_the_formula_by_hand(path, m):
    made = sealable_photos(3, 2, 9, 8, levels=2**m, seed=m)
    shown, wide = by_hand(**made, m=m)
    assert torch.equal(ops.seal(**made, levels=2**m), shown)
    assert torch.equal(ops.seal(**made, levels=2**m, lossless=True), wide)


def test_a_second_seal_is_another(path):
    made = sealable_photos(1, 1, 20, 20)
    first = ops.seal(**made)
    made["nonces"][0, 11] ^= 128
    assert (ops.seal(**made) == first).float().mean() < 0.05


@large
def test_a_photo_of_more_than_2_to_31_values():
    """Its stream ends as OpenSSL's does, begun there."""
    side = 26_756  # 3 x side x side values: a few more than 2^31
    key, nonce = bytes8(1, 32, seed=1), bytes8(1, 12, seed=2)
    blank = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(-1, -1, side, side)
    found = ops.seal(blank, blank, torch.zeros(1, dtype=torch.int64), key, nonce).flatten()
    first = (3 * side * side - 1000) // 64
    counter = first.to_bytes(4, "little")
    cipher = Cipher(algorithms.ChaCha20(key.numpy().tobytes(), counter + nonce.numpy().tobytes()), mode=None)
    end = np.frombuffer(cipher.encryptor().update(bytes(len(found) - 64 * first)), dtype=np.uint8)
    assert np.array_equal(found[64 * first :].numpy(), end % 64)


def test_what_is_seen_is_uniform():
    """u = x' - v of black and of white photos, in all levels alike: chi-square, 63 degrees, under its 0.1 % bound."""
    for colour in (0, 255):
        made = sealable_photos(4, 1, 112, 112) | {"veils": torch.zeros(1, 3, 112, 112, dtype=torch.uint8)}
        made["images"][:] = colour
        counts = torch.bincount(ops.seal(**made).flatten().int(), minlength=64).double()
        mean = counts.sum() / 64
        assert ((counts - mean) ** 2 / mean).sum() < 103.4 and len(counts) == 64


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cuda"])  # which leaves it to Triton
def test_an_odd_order_changes_no_bit(backend):
    """Channels last, cropped or reversed: byte i of the keystream belongs to the value of logical index i."""
    made = sealable_photos(3, 2, 15, 14)
    with vk.use_backend(backend):
        wanted = ops.seal(**made)
        last = {name: made[name].contiguous(memory_format=torch.channels_last) for name in ("images", "veils")}
        found = ops.seal(**made | last)
    assert torch.equal(found, wanted) and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.large
@large
def test_more_than_2_to_31_values():
    made = sealable_photos(MANY, 2, 112, 112)
    out = ops.seal(**made)
    for i in (0, MANY - 1):
        part = {k: v[i : i + 1] if k in ("images", "rows", "nonces") else v for k, v in made.items()}
        assert torch.equal(out[i : i + 1], ops.seal(**part))
    again = ops.unseal(out, made["veils"], made["rows"], made["keys"], out=out)
    for i in (0, MANY - 1):
        assert (again[i].int() - made["images"][i].int()).abs().max() <= 4
