"""Every example runs: on servers where they bring their own test client, on stubs of what is not here."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from serve_cases import KEY, SIDE, bank_of, photo, saved

import veilkern as vk
from veilkern.samples import load_model

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTO = photo().permute(1, 2, 0).contiguous().numpy()


def loaded(name: str, monkeypatch, path: Path | None = None):
    """An example as a module, its neighbours within reach."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for there in ("from_environment", "recognition_service"):
        monkeypatch.delitem(sys.modules, there, raising=False)
    spec = importlib.util.spec_from_file_location(name, path or EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["blend", "sealed"])
def environment(request, tmp_path, monkeypatch):
    """A bank in the environment, as the examples find it; gives a function that recovers."""
    bank_file = saved(tmp_path, request.param)
    monkeypatch.setenv("VEILKERN_BANK", str(bank_file))
    key = KEY if request.param == "sealed" else None
    if key:
        monkeypatch.setenv("VEILKERN_KEY_FILE", f"{bank_file}.key")
    else:
        monkeypatch.delenv("VEILKERN_KEY_FILE", raising=False)
    bank = bank_of(request.param)

    def require(data: bytes, person: str = "Ada", original: np.ndarray = PHOTO) -> None:
        hidden = np.frombuffer(data, np.uint8).reshape(1, SIDE, SIDE, 3)
        back = vk.recover(hidden, bank, person, key=key, layout="NHWC").astype(int)
        assert abs(back - original).max() <= bank.error_bound
        assert abs(hidden.astype(int) - original).mean() > 20

    return require


def sent(person: str = "Ada", data: bytes = PHOTO.tobytes()) -> dict:
    return {"person": person, "photo": base64.b64encode(data).decode()}


def test_fastapi(environment, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    client = testclient.TestClient(loaded("fastapi_protector", monkeypatch).app)
    environment(client.post("/protect/Ada", content=PHOTO.tobytes()).content)
    assert client.post("/protect/Nobody", content=PHOTO.tobytes()).status_code == 422
    assert client.post("/protect/Ada", content=b"123").status_code == 422
    assert len([line for line in (EXAMPLES / "fastapi_protector.py").read_text().splitlines() if line.strip()]) <= 16


def test_litserve(environment, monkeypatch):
    """The API's methods as LitServe calls them, one after another; its server starts processes of its own."""
    pytest.importorskip("litserve")
    from fastapi import HTTPException

    api = loaded("litserve_protector", monkeypatch).Protect(max_batch_size=64, batch_timeout=0.002)
    api.setup("cpu")
    people = ["Ada", "Bill"]
    inputs = [api.decode_request(sent(person)) for person in people]
    outputs = api.unbatch(api.predict(api.batch(inputs)))
    for person, output in zip(people, outputs, strict=True):
        environment(base64.b64decode(api.encode_response(output)["photo"]), person)
    with pytest.raises(HTTPException):
        api.decode_request(sent("Nobody"))


def test_ray(environment, monkeypatch):
    """Ray Serve's own testing mode: the deployment in this process."""
    serve = pytest.importorskip("ray.serve")
    module = loaded("ray_protector", monkeypatch)

    class Request:
        def __init__(self, body: dict):
            self.body = body

        async def json(self) -> dict:
            return self.body

    handle = serve.run(module.app, _local_testing_mode=True)
    answers = [handle.remote(Request(sent(person))) for person in ("Ada", "Bill", "Nobody")]
    for person, answer in zip(("Ada", "Bill"), answers, strict=False):
        environment(base64.b64decode(answer.result()["photo"]), person)
    assert "error" in answers[2].result()


class Stub(types.ModuleType):
    """triton_python_backend_utils, as far as the model uses it."""

    class Tensor:
        def __init__(self, name, data):
            self._name, self._data = name, data

        def as_numpy(self):
            return self._data

    class TritonError(Exception):
        pass

    class InferenceResponse:
        def __init__(self, output_tensors=(), error=None):
            self.output_tensors, self.error = list(output_tensors), error

    @staticmethod
    def get_input_tensor_by_name(request, name):
        return request[name]


def test_triton(environment, monkeypatch):
    stub = Stub("triton_python_backend_utils")
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    model = loaded(
        "model", monkeypatch, EXAMPLES / "triton" / "veilkern_protect" / "1" / "model.py"
    ).TritonPythonModel()
    model.initialize({"model_instance_kind": "CPU", "model_instance_device_id": "0"})

    def request(*people: str, photos: np.ndarray | None = None):
        photos = np.stack([PHOTO] * len(people)) if photos is None else photos
        names = np.array([[person.encode()] for person in people], dtype=object)
        return {"PHOTO": Stub.Tensor("PHOTO", photos), "PERSON": Stub.Tensor("PERSON", names)}

    wrong = request("Ada", photos=np.zeros((1, 5, 5, 3), np.uint8))
    answers = model.execute([request("Ada"), request("Nobody"), request("Bill", "Ada"), wrong])
    assert [answer.error is None for answer in answers] == [True, False, True, False]
    environment(answers[0].output_tensors[0].as_numpy().tobytes())
    pair = answers[2].output_tensors[0].as_numpy()
    environment(pair[0].tobytes(), "Bill")
    environment(pair[1].tobytes(), "Ada")
    config = (EXAMPLES / "triton" / "veilkern_protect" / "config.pbtxt").read_text()
    assert all(name in config for name in ("PHOTO", "PERSON", "PROTECTED"))


@pytest.fixture
def recognition():
    """A face-recognition service of InsightFace-REST's protocol, on loopback, over the sample network."""
    network = load_model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/extract" and asked["embed_only"] is True
            data = []
            for text in asked["images"]["data"]:
                try:
                    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
                except Exception as error:
                    data.append({"status": "failed", "traceback": str(error)})
                    continue
                vector = network.features(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
                data.append({"status": "ok", "faces": [{"vec": (3 * vector).tolist(), "prob": 1.0}]})
            body = json.dumps({"took": {}, "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_figure_1(recognition, monkeypatch, capsys):
    """By a service on loopback: everybody is recognised by protected photos, and recovered."""
    assert loaded("figure_1", monkeypatch).main(["--service", recognition]) == 0
    said = capsys.readouterr().out
    assert "recognised: 24 of 24" in said and "recovered: 24 photos" in said


def test_a_service_that_cannot_read_an_image_is_told(recognition, monkeypatch):
    service = loaded("recognition_service", monkeypatch).RecognitionService(recognition)
    with pytest.raises(RuntimeError, match="image 0"):
        service.embeddings([b"no image"])


def test_the_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix == ".py" and path.stem != "from_environment":
            assert f"`{path.name}`" in text, path
