"""Keyed randomness: RFC 5869 against an independent library, streams that never change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from veilkern import keyed


@pytest.mark.parametrize("length", [1, 16, 32, 33, 100])
def test_hkdf_against_cryptography(length):
    for salt in (b"", b"veilkern/1", b"x" * 80):
        wanted = HKDF(algorithm=hashes.SHA256(), length=length, salt=salt or None, info=b"for this").derive(b"k" * 22)
        assert keyed.hkdf_sha256(b"k" * 22, b"for this", length, salt) == wanted


def test_rfc_5869_case_1():
    found = keyed.hkdf_sha256(b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42, bytes(range(13)))
    assert found.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


def test_streams_differ_and_stay():
    key = b"0123456789abcdef"
    start = keyed.uniform(keyed.stream(key, "Ann", "start"), (3, 4, 5))
    assert start.dtype == torch.float32 and start.min() >= 0 and start.max() < 1
    assert torch.equal(start, keyed.uniform(keyed.stream(key, "Ann", "start"), (3, 4, 5)))
    for other in ((key, "Bob", "start"), (key, "Ann", "photos"), (b"0123456789abcdeX", "Ann", "start")):
        assert not torch.equal(start, keyed.uniform(keyed.stream(*other), (3, 4, 5)))
    # Pinned: a later version must make the same start from the same key.
    assert [round(float(x), 6) for x in start.flatten()[:3]] == PINNED


PINNED = [0.95134, 0.812751, 0.369995]


def test_uniform_is_uniform_and_shuffles_are_orders():
    values = keyed.uniform(keyed.stream(b"k" * 16, "p", "start"), (100_000,)).double()
    assert abs(values.mean() - 0.5) < 0.005 and abs(values.var() - 1 / 12) < 0.002
    order = keyed.shuffled(keyed.stream(b"k" * 16, "p", "photos"), 10)
    assert sorted(order.tolist()) == list(range(10)) and not np.array_equal(order, np.arange(10))


@pytest.mark.parametrize("key,error", [("text of 16 chars", TypeError), (b"short", ValueError), (None, TypeError)])
def test_bad_keys(key, error):
    with pytest.raises(error) as caught:
        keyed.check_key(key)
    assert "short" not in str(caught.value) and "text of" not in str(caught.value)
