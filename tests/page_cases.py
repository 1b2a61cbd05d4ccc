"""What the tests of the page share: real services in threads, Chromium without a window, tabs under watch.

Without playwright or chromium the tests that import this skip; with VEILKERN_REQUIRE_BROWSER=1 they fail.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import audit_cases
import numpy as np
import pytest
from PIL import Image

import veilkern as vk
from veilkern.data.photos import encode_png
from veilkern.samples import synthetic_people

if os.environ.get("VEILKERN_REQUIRE_BROWSER") != "1":
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium", allow_module_level=True)

import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from veilkern.serving import Settings, create_app

expect.set_options(timeout=15_000)  # a busy machine is slow
TOKEN, KEY = "a-token-of-the-tests", audit_cases.KEY
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


class Service:
    """The real application in a thread."""

    def __init__(self, settings: Settings, bank: vk.VeilBank):
        config = uvicorn.Config(create_app(settings), port=0, log_level="error", lifespan="on")
        self.server, self.bank = uvicorn.Server(config), bank
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        end = time.monotonic() + 30
        while not self.server.started:
            assert self.thread.is_alive() and time.monotonic() < end, "the service does not start"
            time.sleep(0.02)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def faces() -> vk.People:
    return synthetic_people(3, 4, seed=8)


@pytest.fixture(scope="module")
def files(faces, tmp_path_factory) -> list[Path]:
    """Photos of the first person."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, faces.images[faces.rows == 0], strict=True):
        path.write_bytes(encode_png(image))
    return paths


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Path:
    people = audit_cases.people_of((3, 3, 3))
    networks = [audit_cases.small_model(seed=5, name="other")]
    found = vk.audit(audit_cases.small_model(), people, audit_cases.sealed_bank(people), key=KEY, networks=networks)
    return vk.write_audit(tmp_path_factory.mktemp("audit"), found).parent


@pytest.fixture(scope="module")
def services(faces, audited, tmp_path_factory):
    folder, there = tmp_path_factory.mktemp("banks"), {}
    banks = {"sealed": audit_cases.sealed_bank(faces), "blend": audit_cases.blend_bank(faces)}
    (folder / "key").write_bytes(KEY)
    (folder / "key").chmod(0o600)
    with mock.patch.dict(os.environ, {"VEILKERN_TOKEN": TOKEN}):
        for name, bank in banks.items():
            bank.save(folder / name)
            keys = (folder / "key",) if name == "sealed" else ()
            roles = ("protect", "recover", "veils")
            there[name] = Service(
                Settings(folder / name, key_files=keys, roles=roles, audit=audited, open_protect=True), bank
            )
        there["protect"] = Service(Settings(folder / "blend", roles=("protect",), open_protect=True), banks["blend"])
        yield there
        for one in there.values():
            one.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), headless=True, args=ARGUMENTS)
        yield found
        found.close()


class Visit:
    """A tab on the page of a service, under watch: what goes wrong in it fails the test at its end."""

    def __init__(self, browser: Browser, service: Service, **options):
        self.service, self.allowed = service, set[int]()
        self.faults: list[str] = []
        self.requests: list[Request] = []
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.add_init_script(
            "window.broken = []; addEventListener('securitypolicyviolation', (e) => broken.push(e.violatedDirective))"
        )

    def _console(self, message: ConsoleMessage) -> None:
        status = re.search(r"responded with a status of (\d+)", message.text)
        if message.type in ("error", "warning") and not (status and int(status[1]) in self.allowed):
            self.faults.append(f"console: {message.text}")

    def open(self, **about) -> Page:
        """Opens the page; about: what /v1/about says otherwise."""
        if about:
            self.page.route("**/v1/about", lambda route: route.fulfill(json=route.fetch().json() | about))
        self.page.goto(self.service.address)
        self.page.locator("html[data-ready]").wait_for()
        return self.page

    def give_token(self, token: str = TOKEN) -> None:
        self.page.fill("#token", token)
        self.page.click("#token-form button[type=submit]")
        expect(self.page.locator("#token-note")).to_contain_text("Accepted")

    def protect(self, person: str, files: list[Path], done: str) -> None:
        self.page.set_input_files("#files", files)
        expect(self.page.locator(".row")).to_have_count(len(files))
        self.page.fill("#person", person)
        self.page.press("#person", "Escape")
        self.page.click("#go")
        expect(self.page.locator("#status")).to_have_text(done)

    def sent(self, path: str) -> list[Request]:
        return [one for one in self.requests if urlsplit(one.url).path == path]

    def close(self) -> None:
        broken = self.page.evaluate("window.broken")
        self.context.close()
        own = self.service.address
        away = [one.url for one in self.requests if not one.url.startswith((own, f"blob:{own}"))]
        assert (self.faults, broken, away) == ([], [], [])


@pytest.fixture
def visit(browser, services):
    there = []

    def begun(service: str = "sealed", **options) -> Visit:
        there.append(Visit(browser, services[service], **options))
        return there[-1]

    yield begun
    for one in there:
        one.close()


def pixels(page: Page, selector: str) -> np.ndarray:
    """What a picture on the page holds, [H, W, 3], read by a canvas."""
    expect(page.locator(selector)).to_be_visible()
    data = page.locator(selector).evaluate(
        """async (img) => {
          await img.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
          canvas.getContext("2d", { willReadFrequently: true }).drawImage(img, 0, 0);
          return canvas.toDataURL("image/png").split(",")[1];
        }"""
    )
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def shown(row: int, kind: str) -> str:
    """The picture of this kind in a row."""
    return f".row:nth-child({row + 1}) figure:nth-child({('original', 'protected', 'recovered').index(kind) + 1}) img"


def drop(page: Page, selector: str, event: str, path: Path, name: str) -> None:
    """Drops or pastes a file."""
    page.locator(selector).evaluate(
        """(node, [event, data, name]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
          const init = { bubbles: true, cancelable: true };
          node.dispatchEvent(event === "paste"
            ? new ClipboardEvent(event, { ...init, clipboardData: dataTransfer })
            : new DragEvent(event, { ...init, dataTransfer }));
        }""",
        [event, base64.b64encode(path.read_bytes()).decode(), name],
    )


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the brightness of two pictures, whatever its sign."""
    return abs(np.corrcoef(one.mean(2).ravel(), other.mean(2).ravel())[0, 1])


def eventually(page: Page, true: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        page.wait_for_timeout(50)  # lets events in
