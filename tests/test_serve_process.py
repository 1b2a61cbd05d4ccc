"""`veilkern serve` as processes: workers that die, banks swapped under load, slow clients, stopping, bad arguments."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from serve_cases import ADMITTED, KEY, RAW, SECRET, SIDE, Service, bank_of, form, photo, pixels, png, saved
from typer.testing import CliRunner

from veilkern.serving.settings import TOKEN

pytest.importorskip("fastapi")
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def service(folder):
    """Two workers over a blended bank, whose answers can be told in advance."""
    one = Service(folder, saved(folder, "blend"), "--workers", 2, "--body-seconds", 1.5, "--open-protect")
    yield one
    one.close()


def once(service, name: str = "Ada", seed: int = 0) -> httpx.Response:
    """By a connection of its own, so by any worker."""
    return httpx.post(f"{service.url}v1/protect", **form((name, png(seed), "a.png")), timeout=60)


def blended(bank, name: str, seed: int) -> torch.Tensor:
    """By the formula of design.md."""
    a, veil = bank.blend, bank.veils[bank.row_of(name)].int()
    return ((a * photo(seed).int() + (255 - a) * veil + 127) // 255).to(torch.uint8)


def test_protects(service):
    answer = once(service)
    assert answer.status_code == 200
    assert torch.equal(pixels(answer.content), blended(bank_of("blend"), "Ada", 0))
    assert service.client.get("/metrics").text.count("veilkern_requests_total") > 1
    assert len(service.workers) == 2


def test_swapped_banks_and_killed_workers_under_load(service, folder):
    """While clients ask without pause, one time in ten what is malformed, banks are swapped and a worker dies: every
    answer is right by one of the banks, and nothing is lost but what the killed worker had in hand."""
    bank_file = folder / "veils.safetensors"
    banks = [bank_of("blend", seed=seed) for seed in range(2)]
    right = [blended(bank, "Bill", seed) for bank in banks for seed in range(4)]
    stop, counts, faults = threading.Event(), {"right": 0, "malformed": 0, "lost": 0}, []

    def ask(number: int) -> None:
        client = httpx.Client(base_url=service.url, timeout=30)
        for turn in itertools.count(number):
            if stop.is_set():
                return
            try:
                if turn % 10 == 0:
                    answer = client.post("/v1/protect", **form(("Bill", b"rubbish", "a.png")))
                    counts["malformed"] += 1
                    if answer.status_code != 422:
                        faults.append(answer.text)
                    continue
                answer = client.post("/v1/protect", **form(("Bill", png(turn % 4), "a.png")))
                if answer.status_code == 200 and any(torch.equal(pixels(answer.content), one) for one in right):
                    counts["right"] += 1
                else:
                    faults.append(answer.text[:200])
            except httpx.TransportError:  # the worker of this connection was killed
                counts["lost"] += 1
                client = httpx.Client(base_url=service.url, timeout=30)

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        time.sleep(0.5)
        for swap in range(6):
            banks[(swap + 1) % 2].save(bank_file)
            os.kill(service.process.pid, signal.SIGHUP)
            time.sleep(0.3)
            if swap == 2:
                os.kill(service.workers[0], signal.SIGKILL)
        stop.set()
        for one in asking:
            one.result()
    assert not faults, faults[:3]
    assert counts["right"] > 50 and counts["malformed"] > 5
    assert counts["lost"] <= 8  # of each client at most the one request that the killed worker had
    for _ in range(300):
        if len(service.workers) == 2:
            break
        time.sleep(0.1)
    assert len(service.workers) == 2
    banks[0].save(bank_file)
    assert torch.equal(pixels(_until(service, banks[0])), blended(banks[0], "Ada", 0))


def _until(service, bank) -> bytes:
    """The answer once all workers have seen the bank."""
    os.kill(service.process.pid, signal.SIGHUP)
    for _ in range(100):
        answers = [once(service).content for _ in range(6)]
        if all(torch.equal(pixels(data), blended(bank, "Ada", 0)) for data in answers):
            return answers[0]
        time.sleep(0.1)
    return answers[0]


def test_a_slow_client_is_sent_away_and_holds_nobody(service):
    """One whose body does not come, one whose head does not end, one who takes no answer: others are served."""
    address = service.client.base_url.host, service.client.base_url.port
    body, head, taker = (socket.create_connection(address) for _ in range(3))
    length = 64 * 3 * SIDE * SIDE
    request = f"POST /v1/protect?person=Ada HTTP/1.1\r\nHost: x\r\nContent-Type: {RAW['content-type']}\r\n"
    body.sendall(f"{request}Content-Length: {length}\r\n\r\n".encode() + bytes(100))
    head.sendall(request.encode())
    taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for _ in range(40):  # more answers than any buffer between takes
        taker.settimeout(0.5)
        try:
            taker.sendall(f"{request}Content-Length: {length}\r\n\r\n".encode() + bytes(length))
        except (TimeoutError, ConnectionError):
            break
    begun = time.monotonic()
    while time.monotonic() - begun < 3:
        assert once(service).status_code == 200
    body.settimeout(20)
    assert b"408" in body.recv(65536).split(b"\r\n")[0]
    head.settimeout(20)
    assert head.recv(65536) == b""  # closed
    for _ in range(200):  # what was still to be sent is dropped, and the connection with it
        if not _is_open(address[1], taker.getsockname()[1]):
            break
        time.sleep(0.1)
    assert not _is_open(address[1], taker.getsockname()[1])
    for one in (body, head, taker):
        one.close()


def _is_open(server: int, client: int) -> bool:
    """Whether the kernel has the server's end of a connection as established."""
    with open("/proc/net/tcp") as file:
        found = [line.split() for line in file.readlines()[1:]]
    ends = (f":{server:04X}", f":{client:04X}")
    return any(one[1].endswith(ends[0]) and one[2].endswith(ends[1]) and one[3] == "01" for one in found)


def test_a_head_without_end_is_ended(service):
    """Many headers, and one long one: refused after some tens of kilobytes, whatever time is left."""
    address = service.client.base_url.host, service.client.base_url.port
    for piece in (b"X: a\r\n" * 1000, b"a" * 6000):
        with socket.create_connection(address, timeout=20) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
            sent = 0
            try:
                while sent < 4 << 20:
                    one.sendall(piece)
                    sent += len(piece)
                    time.sleep(0.001)
            except (ConnectionError, TimeoutError):
                pass
            assert sent < 4 << 20
    assert once(service).status_code == 200


def test_one_port_is_one_service():
    from veilkern.serving.server import bound

    with bound("127.0.0.1", 0) as first, pytest.raises(OSError):
        bound("127.0.0.1", first.getsockname()[1])


def test_stopping_finishes_what_is_in_flight(tmp_path):
    """SIGTERM while requests are on their way: each is answered; the processes end by themselves, their folder too."""
    (tmp_path / "tmp").mkdir()
    where = {"TMPDIR": str(tmp_path / "tmp")}
    service = Service(tmp_path, saved(tmp_path, "sealed"), "--workers", 2, environment=where)
    workers, answers, images = service.workers, [], bytes(64 * 3 * SIDE * SIDE)
    assert list((tmp_path / "tmp").glob("veilkern-*"))

    def slow():
        yield images[:1000]
        time.sleep(1.5)
        yield images[1000:]

    def ask() -> None:
        url = f"{service.url}v1/protect?person=Ada"
        answers.append(httpx.post(url, content=slow(), headers=RAW, timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    assert service.stop() == 0
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert not any(map(_alive, workers)) and not list((tmp_path / "tmp").glob("veilkern-*"))
    log = service.log.read_text()
    assert "POST /v1/protect 200" in log
    for secret in (SECRET, KEY.decode(), "Ada", "Traceback"):
        assert secret not in log
    service.close()


def test_ctrl_c_stops_one_process(tmp_path):
    service = Service(tmp_path, saved(tmp_path, "blend"), "--open-protect")
    assert once(service).status_code == 200
    assert service.stop(signal.SIGINT) == 0
    assert "Traceback" not in service.log.read_text()
    service.close()


def test_workers_of_a_killed_supervisor_end(tmp_path):
    service = Service(tmp_path, saved(tmp_path, "blend"), "--workers", 2)
    workers = service.workers
    service.process.kill()
    service.process.wait()
    for _ in range(200):
        alive = [pid for pid in workers if _alive(pid)]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
    service.close()


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def serve(*arguments, token: str | None = SECRET):
    from veilkern.cli import app

    return CliRunner().invoke(app, ["serve", *map(str, arguments)], env={TOKEN: token})


def test_what_is_wrong_is_told_before_anything_is_served(tmp_path):
    bank_file = saved(tmp_path, "sealed")
    key = tmp_path / "veils.safetensors.key"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = [
            (["--port", taken.getsockname()[1]], "cannot be listened at"),
            (["--audit", tmp_path], "no audit.json"),
            (["--role", "admin"], "roles must be some of"),
            (["--weight", "1"], "is for --model"),
            (["--role", "protect", "--audit", tmp_path], "is for the role recover"),
            (["--role", "recover", "--model", "net.py:load"], "is for the role veils"),
            (["--memory-mib", "8"], "memory_mib"),
            (["--open-protect", "--token-everywhere"], "exclude each other"),
            (["--model", tmp_path / "none.py:load"], "none.py"),
            (["--device", "cuda:7"], "device"),
        ]
        for options, message in cases:
            found = serve(bank_file, *options)
            assert found.exit_code and message in f"{found.output}{found.exception}", (options, found.output)
    blended = saved_blend(tmp_path)
    assert "--open-protect" in str(serve(blended, token=None).exception)
    found = serve(bank_file, "--role", "recover", token=None)
    assert found.exit_code and TOKEN in str(found.exception)
    key.rename(tmp_path / "elsewhere")
    assert "--key-file" in str(serve(bank_file).exception)
    (tmp_path / "elsewhere").write_bytes(b"another key than that of this bank")
    assert "key" in str(serve(bank_file, "--key-file", tmp_path / "elsewhere").exception)
    bank_file.write_bytes(bank_file.read_bytes()[:-5])
    assert "veils.safetensors" in str(serve(bank_file, "--key-file", tmp_path / "elsewhere").exception)


def saved_blend(tmp_path):
    bank_of("blend").save(tmp_path / "blend.safetensors")
    return tmp_path / "blend.safetensors"


def test_help_names_every_option():
    text = subprocess.run([sys.executable, "-m", "veilkern", "serve", "--help"], capture_output=True, text=True).stdout
    for option in ("--role", "--token-everywhere", "--batch-window", "--workers", "--key-file", "--deadline"):
        assert option in text
    assert ADMITTED["Authorization"] not in text
