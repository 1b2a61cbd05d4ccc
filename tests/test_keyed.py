"""Keyed randomness: RFC 5869 against an independent library, streams that never change."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import veilkern as vk
from veilkern.errors import OutputError
from veilkern.veils import keyed


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


def test_no_two_streams_are_the_same():
    """Another key, person, purpose or generation is another stream: pairwise, and nowhere near alike."""
    keys = (b"0123456789abcdef", b"0123456789abcdeX", b"0123456789abcdef\0")
    names = ("Ann", "ann", "An", "Ann1", "Ann ", "n", "Zoë", "Zoe\u0308")
    made = {
        (key, name, purpose, generation): keyed.uniform(keyed.stream(key, name, purpose, generation), (64,))
        for key in keys
        for name in names
        for purpose in ("start", "photos", "startA")
        for generation in (0, 1, 2, 256, 2**64 - 1)
    }
    values = torch.stack(list(made.values())).double()
    assert len(values.unique(dim=0)) == len(values) == 360
    centred = values - 0.5
    alike = (centred @ centred.T) / (centred.norm(dim=1)[:, None] * centred.norm(dim=1))
    assert (alike - torch.eye(len(values))).abs().max() < 0.75  # 64 independent values: above 0.6 once in 10^5 pairs


def test_the_first_generation_is_what_it_was():
    key = b"0123456789abcdef"
    for generation, wanted in ((0, PINNED), (1, PINNED_1)):
        start = keyed.uniform(keyed.stream(key, "Ann", "start", generation), (3,))
        assert [round(float(x), 6) for x in start] == wanted


PINNED_1 = [0.955695, 0.388649, 0.834793]


@pytest.mark.parametrize("arguments", [("A\0b", "s"), ("A", "s\0"), ("A", "s", -1), ("A", "s", True), ("A", "s", 1.0)])
def test_streams_that_could_be_mistaken_for_others(arguments):
    with pytest.raises(ValueError, match="stream: "):
        keyed.stream(b"k" * 16, *arguments)


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


@pytest.mark.parametrize(
    "content,key",
    [
        (b"0123456789abcdef", b"0123456789abcdef"),
        (b"0123456789abcdef\n", b"0123456789abcdef"),
        (b"0123456789abcdef\r\n", b"0123456789abcdef"),
        (b"0123456789abcdef\n\n", b"0123456789abcdef\n"),
        (b"0123456789abcdef\r", b"0123456789abcdef\r"),
        (b"0123456789abcdef \n", b"0123456789abcdef "),
        (b"\n" * 17, b"\n" * 16),
        (bytes(range(256)) * 256, bytes(range(256)) * 256),
    ],
)
def test_read_key_takes_one_newline_off(tmp_path, content, key):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vk.read_key(path) == key


@pytest.mark.parametrize("content", [b"", b"short", b"0123456789abcde\n", bytes(65537)])
def test_files_that_hold_no_key(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=r"key: a key must have 16 to 65536 bytes, got") as caught:
        vk.read_key(path)
    assert "short" not in str(caught.value) and "0123" not in str(caught.value)


def test_key_files_that_others_read_or_that_are_absent(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef")
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.warns(UserWarning, match="can be read by others"):
            vk.read_key(path)
    for wrong in (tmp_path / "absent", tmp_path):
        with pytest.raises(OutputError, match="the key file cannot be read"):
            vk.read_key(wrong)
