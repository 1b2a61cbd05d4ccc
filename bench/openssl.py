"""seal and unseal as somebody would write them around a ready cipher: NumPy's or PyTorch's arithmetic on keystreams of
OpenSSL's ChaCha20 (of `cryptography`; 20 rounds only)."""

from __future__ import annotations

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

CARRIERS = 96


def streams(keys: np.ndarray, nonces: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, size] of keys [N, 32] and nonces [N, 12]; OpenSSL's nonce begins with the counter, here 0."""
    made, zeros = np.empty((len(keys), size), np.uint8), bytes(size)
    for i in range(len(keys)):
        cipher = Cipher(algorithms.ChaCha20(keys[i].tobytes(), bytes(4) + nonces[i].tobytes()), mode=None)
        cipher.encryptor().update_into(zeros, made[i])
    return made


def seal_numpy(images, veils, rows, keys, nonces, levels=64) -> np.ndarray:
    """8 bit, of arrays [N, 3, H, W]."""
    bits, (n, *shape) = levels.bit_length() - 1, images.shape
    k = streams(keys[rows], nonces, images[0].size)
    added = images.reshape(n, -1) >> (8 - bits)
    added ^= k
    added &= levels - 1
    added[:, :CARRIERS] &= levels - 2
    added[:, :CARRIERS] |= np.unpackbits(nonces, axis=1, bitorder="little")
    added += veils.reshape(len(veils), -1)[rows]
    return added.reshape(n, *shape)


def unseal_numpy(sealed, veils, rows, keys, levels=64) -> np.ndarray:
    """From 8 bit, of arrays [N, 3, H, W]."""
    bits, (n, *shape) = levels.bit_length() - 1, sealed.shape
    left = sealed.reshape(n, -1) - veils.reshape(len(veils), -1)[rows]
    nonces = np.packbits(left[:, :CARRIERS] & 1, axis=1, bitorder="little")
    left ^= streams(keys[rows], nonces, left.shape[1])
    left &= levels - 1
    left[:, :CARRIERS] &= levels - 2
    left <<= 8 - bits
    left[:, CARRIERS:] += 1 << (7 - bits)
    left[:, :CARRIERS] += 1 << (8 - bits)
    return left.reshape(n, *shape)


def seal_torch(images, veils, rows, keys, nonces, levels=64) -> torch.Tensor:
    """The same as seal_numpy, the arithmetic on torch's threads."""
    bits, n = levels.bit_length() - 1, len(images)
    k = torch.from_numpy(streams(keys[rows].numpy(), nonces.numpy(), images[0].numel()))
    added = (images.reshape(n, -1) >> (8 - bits)).bitwise_xor_(k).bitwise_and_(levels - 1)
    marks = (nonces[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    added[:, :CARRIERS] = (added[:, :CARRIERS] & (levels - 2)) | marks.reshape(n, CARRIERS)
    return added.add_(veils.reshape(len(veils), -1)[rows]).reshape(images.shape)


def unseal_torch(sealed, veils, rows, keys, levels=64) -> torch.Tensor:
    """The same as unseal_numpy, the arithmetic on torch's threads."""
    bits, n = levels.bit_length() - 1, len(sealed)
    left = sealed.reshape(n, -1) - veils.reshape(len(veils), -1)[rows]
    marks = (left[:, :CARRIERS] & 1).reshape(n, 12, 8)
    nonces = (marks << torch.arange(8, dtype=torch.uint8)).sum(2, dtype=torch.uint8)
    left ^= torch.from_numpy(streams(keys[rows].numpy(), nonces.numpy(), left.shape[1]))
    left.bitwise_and_(levels - 1)
    left[:, :CARRIERS] &= levels - 2
    left.bitwise_left_shift_(8 - bits)
    left[:, CARRIERS:] += 1 << (7 - bits)
    left[:, :CARRIERS] += 1 << (8 - bits)
    return left.reshape(sealed.shape)


def as_arrays(made: dict) -> dict:
    """The tensors of a call as arrays that share their memory, all else left out."""
    return {name: value.numpy() for name, value in made.items() if isinstance(value, torch.Tensor)}


def as_tensors(made: dict) -> dict:
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}
