"""What a request may cost: sizes, memory, deadlines, bombs; and that photos are on no disk."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from serve_cases import (
    ADMITTED,
    RAW,
    SIDE,
    client_of,
    form,
    pixels,
    png,
    problem,
    saved,
    settings_of,
    token,
)

pytest.importorskip("fastapi")

from veilkern.serving.settings import Settings


@pytest.fixture
def bank_file(tmp_path):
    return saved(tmp_path, "blend")


def sent(client, data: bytes = b"", **query):
    return client.post("/v1/protect", params=query, **form(("Ada", data or png(), "a.png")))


def test_a_body_that_says_it_is_too_large(client_of, bank_file):
    client = client_of(bank_file, body_mib=1)
    answer = sent(client, bytes(1 << 20))
    problem(answer, 413, "too_large")
    assert answer.headers["connection"] == "close"


def test_a_body_that_does_not_say_how_large_it_is(client_of, bank_file):
    client = client_of(bank_file, body_mib=1)

    def chunks():
        for _ in range(40):
            yield bytes(1 << 15)

    answer = client.post("/v1/protect", params={"person": "Ada"}, content=chunks(), headers=RAW)
    problem(answer, 413, "too_large")


def test_all_bodies_together(bank_file):
    """A gate whose memory is taken refuses the next, and takes it once the memory is free again."""
    import asyncio

    from veilkern.serving.gate import Gate

    held, free = asyncio.Event(), asyncio.Event()
    statuses = []

    async def app(scope, receive, send):
        await receive()
        held.set()
        await free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate = Gate(app, Settings(bank_file, memory_mib=1, body_mib=1))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"700000")]}

    async def one():
        async def receive():
            return {"type": "http.request", "body": bytes(700_000), "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await gate(dict(scope), receive, send)

    async def go():
        first = asyncio.ensure_future(one())
        await held.wait()
        await one()
        free.set()
        await first
        await one()

    asyncio.run(asyncio.wait_for(go(), 20))
    assert statuses == [503, 200, 200]


@pytest.fixture
def hold(monkeypatch):
    """A function of a module and a name in it: the calls of that function wait. Gives the events `begun` and `free`."""

    def held(module, name: str):
        begun, free, call = threading.Event(), threading.Event(), getattr(module, name)

        def slow(*given):
            begun.set()
            assert free.wait(20)
            return call(*given)

        monkeypatch.setattr(module, name, slow)
        return begun, free

    return held


def test_many_requests_at_a_time(client_of, bank_file, hold):
    """Those beyond `connections` are told to come again; who asks for the service's health never is."""
    from veilkern.serving import photos

    client = client_of(bank_file, connections=1)
    begun, free = hold(photos, "_stacked")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(sent(client)))
    thread.start()
    assert begun.wait(20)
    answer = sent(client)
    problem(answer, 503, "busy")
    assert answer.headers["retry-after"] == "1"
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    free.set()
    thread.join()
    assert answers[0].status_code == 200 and sent(client).status_code == 200


def test_nobody_decodes_for_who_has_gone(client_of, bank_file, monkeypatch):
    """Of many photos none is begun after the deadline; a service that stops does not wait for those that are."""
    from veilkern.serving import photos

    client, decoded, decode = client_of(bank_file, deadline=0.3), [], photos.decode_photo

    def slow(*given, **options):
        decoded.append(1)
        time.sleep(0.2)
        return decode(*given, **options)

    monkeypatch.setattr(photos, "decode_photo", slow)
    many = [("Ada", png(), f"{i}.png") for i in range(20)]
    problem(client.post("/v1/protect", **form(*many)), 504, "deadline")
    time.sleep(0.6)
    assert len(decoded) <= 3


def test_names_are_utf8_whatever_the_charset_says(client_of, bank_file):
    client = client_of(bank_file)
    for charset in ("unicode_escape", "utf-7", "latin-1", "none"):
        body = (
            b'--x\r\nContent-Disposition: form-data; name="person"\r\n\r\nZo\xc3\xab\r\n'
            b'--x\r\nContent-Disposition: form-data; name="photo"; filename="\\ud800 \xff.png"\r\n\r\n'
            + png()
            + b"\r\n--x--\r\n"
        )
        answer = client.post(
            "/v1/protect", content=body, headers={"content-type": f"multipart/form-data; charset={charset}; boundary=x"}
        )
        assert answer.status_code == 200, answer.text


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many black pixels, small as a file."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_before_they_are_decoded(client_of, bank_file, monkeypatch):
    client = client_of(bank_file, pixels=1 << 20)

    def never(*_, **__):
        raise AssertionError("decoded")

    large = bomb(2048, 1024)
    assert len(large) < 30_000
    monkeypatch.setattr(Image.Image, "load", never)
    for data in (large, bomb(70_000, 1)):
        found = problem(sent(client, data, resize="true"), 422, "bad_photo")
        assert "too many pixels" in found["problems"][0]["detail"]
    monkeypatch.undo()
    monkeypatch.setenv("VEILKERN_TOKEN", ADMITTED["Authorization"].split()[1])
    assert sent(client, bomb(1024, 1024), resize="true").status_code == 200


def test_photos_are_on_no_disk(client_of, bank_file, monkeypatch):
    """Starlette puts uploads of more than a megabyte into temporary files."""
    import tempfile

    client = client_of(bank_file, pixels=1 << 24)

    def never(*_, **__):
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", never)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", never)
    monkeypatch.setattr(tempfile, "mkstemp", never)
    large = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(large, "PNG", compress_level=0)
    assert len(large.getvalue()) > 2 << 20
    assert sent(client, large.getvalue(), resize="true").status_code == 200


def test_a_deadline_for_the_work(client_of, bank_file, monkeypatch):
    from veilkern.serving import photos

    free = threading.Event()
    client = client_of(bank_file, deadline=0.2)
    stacked = photos._stacked
    monkeypatch.setattr(photos, "_stacked", lambda *given: (free.wait(20), stacked(*given))[1])
    problem(sent(client), 504, "deadline")
    free.set()
    monkeypatch.undo()
    assert sent(client).status_code == 200


def test_a_queue_that_is_full(client_of, bank_file, hold):
    from veilkern.serving import batcher

    client = client_of(bank_file, queue=1)
    begun, free = hold(batcher, "_call")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(sent(client))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    state = client.app.app.state.veilkern
    for _ in range(1000):
        if state.batcher._waiting:
            break
        time.sleep(0.01)
    answer = sent(client)
    problem(answer, 503, "busy")
    assert answer.headers["retry-after"] == "1"
    free.set()
    for thread in threads:
        thread.join()
    assert [one.status_code for one in answers] == [200, 200]


@pytest.mark.parametrize(
    "name,value",
    [
        ("memory_mib", 8),
        ("window_ms", -1), ("window_ms", 2000), ("most", 0), ("workers", 0), ("workers", True), ("body_mib", 1.5),
        ("photos", 0), ("deadline", 0), ("queue", None), ("roles", ()), ("roles", ("admin",)), ("pixels", 0),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing(bank_file, token, name, value):
    with pytest.raises(ValueError, match=f"Settings: {name}"):
        settings_of(bank_file, **{name: value})


def test_settings_survive_their_way_to_a_worker(bank_file, token):
    settings = settings_of(
        bank_file, model=("net.py:load",), weights=(1.0,), model_input={"mean": [0.5] * 3}, window_ms=2.5
    )
    assert Settings.from_json(settings.to_json()) == settings
    assert "tests" not in settings.to_json().replace(str(bank_file.parent), "")  # no key, no token


def test_a_large_photo_in_memory_is_right(client_of, bank_file):
    """More than Starlette's megabyte goes through whole."""
    client = client_of(bank_file, photos=64)
    data = png()
    sent_all = [("Ada", data, f"{'x' * 200}{i}.png") for i in range(64)]
    answer = client.post("/v1/protect", **form(*sent_all))
    assert answer.status_code == 200 and answer.content.count(b"\x89PNG") == 64
    assert pixels(sent(client).content).shape == (3, SIDE, SIDE)
