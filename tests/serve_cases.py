"""Banks, photos and a client for the tests of the service; the fixtures are taken by import."""

from __future__ import annotations

import email
import email.policy
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import veilkern as vk
from veilkern.data.photos import encode_png
from veilkern.serving.settings import TOKEN, Settings
from veilkern.veils import keyed

SECRET = "a token of the tests, no secret".replace(" ", "-")
KEY, SIDE, NAMES = b"the master key of the tests, no secret", 24, ["Ada", "Bill", "Zoë"]
RAW = {"content-type": "application/octet-stream"}
ADMITTED = {"Authorization": f"Bearer {SECRET}"}


def bank_of(scheme: str, names=NAMES, seed: int = 0, side: int = SIDE) -> vk.VeilBank:
    """Random veils: what is told here has nothing to do with faces."""
    top = 193 if scheme == "sealed" else 256
    veils = np.random.default_rng(seed).integers(0, top, (len(names), 3, side, side), dtype=np.uint8)
    if scheme == "sealed":
        return vk.VeilBank(torch.from_numpy(veils), list(names), 0, key_id=keyed.key_id(KEY), levels=64)
    return vk.VeilBank(torch.from_numpy(veils), list(names), 51)


def photo(seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """uint8 [3, side, side]."""
    return torch.from_numpy(np.random.default_rng(1000 + seed).integers(0, 256, (3, side, side), dtype=np.uint8))


def png(seed: int = 0, side: int = SIDE) -> bytes:
    return encode_png(photo(seed, side))


def pixels(data: bytes) -> torch.Tensor:
    """uint8 [3, H, W] of a PNG."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


def parts(answer) -> list[tuple[str, str, bytes]]:
    """Field, file name and bytes of each part of a multipart answer, read by Python's own parser of MIME."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP)
    assert message.is_multipart() and not message.defects
    get = lambda part, name: part.get_param(name, header="content-disposition")  # noqa: E731
    return [(get(p, "name"), get(p, "filename"), p.get_payload(decode=True)) for p in message.iter_parts()]


def form(*sent: tuple[str, bytes, str]) -> dict:
    """Arguments of a client's post: (person, bytes of a photo, its name) of each."""
    return {"data": {"person": [p for p, _, _ in sent]}, "files": [("photo", (n, d, "image/png")) for _, d, n in sent]}


def problem(answer, status: int, code: str) -> dict:
    """The problem of an answer, which must be this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert (found["status"], found["code"], found["type"]) == (status, code, "about:blank")
    assert found["title"] and found["detail"]
    return found


@pytest.fixture(params=["sealed", "blend"])
def scheme(request) -> str:
    return request.param


@pytest.fixture
def bank_file(tmp_path, scheme) -> Path:
    """A bank, and its key beside it."""
    return saved(tmp_path, scheme)


def saved(folder: Path, scheme: str, **options) -> Path:
    bank_of(scheme, **options).save(folder / "veils.safetensors")
    key = folder / "veils.safetensors.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    return folder / "veils.safetensors"


def settings_of(bank_file: Path, **options) -> Settings:
    values = {
        "roles": ("protect", "recover", "veils"),
        "open_protect": True,
        "key_files": (bank_file.with_name(f"{bank_file.name}.key"),),
    }
    return Settings(bank_file, **(values | options))


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)


@pytest.fixture
def client_of(token):
    """A function of settings, or of a bank's file and options: a client of the application in this process."""
    from starlette.testclient import TestClient

    from veilkern.serving import create_app

    clients = []

    def made(bank_file, **options):
        settings = bank_file if isinstance(bank_file, Settings) else settings_of(bank_file, **options)
        clients.append(TestClient(create_app(settings), raise_server_exceptions=False).__enter__())
        return clients[-1]

    yield made
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of, bank_file):
    return client_of(bank_file)


class Service:
    """`veilkern serve` in a process of its own."""

    def __init__(self, folder: Path, bank_file: Path, *options: object, environment: dict | None = None):
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "veilkern", "serve", bank_file, "--port", "0", *map(str, options)],
            stderr=self.log.open("w"),
            stdout=subprocess.DEVNULL,
            env=os.environ | {TOKEN: SECRET, "COLUMNS": "200"} | (environment or {}),
            cwd=folder,
        )
        self.url = self._address()
        self.client = httpx.Client(base_url=self.url, headers=ADMITTED, timeout=60)

    def _address(self) -> str:
        for _ in range(600):
            said = self.log.read_text()
            if "complete." in said:  # uvicorn: a worker serves
                return next(word for line in said.splitlines() for word in line.split() if word.startswith("http://"))
            assert self.process.poll() is None, said
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    @property
    def workers(self) -> list[int]:
        """Worker processes: children that hold the listening socket."""
        found = subprocess.run(
            ["pgrep", "-f", "spawn_main", "-P", str(self.process.pid)], capture_output=True, text=True
        )
        return [int(pid) for pid in found.stdout.split()]

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
