"""The service's routes for photos: what comes back, marks and tags, layouts, and every error by its code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serve_cases import (
    ADMITTED,
    KEY,
    NAMES,
    RAW,
    SIDE,
    bank_file,
    bank_of,
    client,
    client_of,
    form,
    parts,
    photo,
    pixels,
    png,
    problem,
    scheme,
    settings_of,
    token,
)

import veilkern as vk
from veilkern.data.photos import decode_mark, encode_png
from veilkern.veils.folders import protect_folder, recover_folder

pytest.importorskip("fastapi")


def protect(client, *sent, **query):
    return client.post("/v1/protect", params=query, **form(*sent))


def recover(client, *sent, **query):
    return client.post("/v1/recover", params=query, headers=ADMITTED, **form(*sent))


def bound(client) -> int:
    return client.get("/v1/about").json()["error_bound"]


def test_one_photo_goes_and_comes_back(client):
    hidden = protect(client, ("Ada", png(), "a.jpg"))
    assert (hidden.status_code, hidden.headers["content-type"]) == (200, "image/png")
    assert hidden.headers["content-disposition"] == 'inline; filename="a.jpg.png"'
    assert (pixels(hidden.content).int() - photo().int()).abs().float().mean() > 20
    back = recover(client, ("Ada", hidden.content, "a.png"))
    assert back.status_code == 200
    assert (pixels(back.content).int() - photo().int()).abs().max() <= bound(client)


def test_lossless_comes_back_bit_for_bit(client):
    hidden = protect(client, ("Ada", png(), "a.png"), lossless="true")
    back = recover(client, ("Ada", hidden.content, "a.png"))
    assert torch.equal(pixels(back.content), photo())


def test_several_photos_of_several_people_in_order(client):
    sent = [(name, png(i), f'{i} "{name}".png') for i, name in enumerate(NAMES)]
    hidden = parts(protect(client, *sent))
    assert [field for field, _, _ in hidden] == ["photo"] * 3
    assert [name for _, name, _ in hidden] == [f"{i} %22{name}%22.png" for i, name in enumerate(NAMES)]
    back = parts(recover(client, *[(who, data, "x.png") for who, (_, _, data) in zip(NAMES, hidden, strict=True)]))
    for i, (_, _, data) in enumerate(back):
        assert (pixels(data).int() - photo(i).int()).abs().max() <= bound(client)


def test_one_person_for_all_photos(client):
    answer = client.post(
        "/v1/protect", data={"person": "Bill"}, files=[("photo", (f"{i}.png", png(i), "image/png")) for i in range(3)]
    )
    assert len(parts(answer)) == 3


def test_lossless_and_plain_photos_in_one_request(client):
    hidden = [protect(client, ("Ada", png(i), "a.png"), lossless=str(i == 1).lower()).content for i in range(3)]
    back = parts(recover(client, *[("Ada", data, "a.png") for data in hidden]))
    errors = [(pixels(data).int() - photo(i).int()).abs().max().item() for i, (_, _, data) in enumerate(back)]
    assert errors[1] == 0 and 0 < max(errors[0], errors[2]) <= bound(client)


def test_blended_photos_are_those_of_the_formula(client, scheme):
    if scheme == "sealed":
        pytest.skip("every call draws another nonce")
    hidden = protect(client, ("Bill", png(), "a.png"))
    assert torch.equal(pixels(hidden.content), vk.protect(photo()[None], bank_of("blend"), "Bill")[0])


def test_files_of_the_service_are_those_of_the_command_line(client, scheme, tmp_path):
    """Mark and tag: either opens the other's."""
    bank, key = bank_of(scheme), KEY if scheme == "sealed" else None
    (tmp_path / "faces" / "Ada").mkdir(parents=True)
    (tmp_path / "faces" / "Ada" / "a.png").write_bytes(png())
    protect_folder(tmp_path / "faces", bank, tmp_path / "cli", key=key)
    theirs = (tmp_path / "cli" / "Ada" / "a.png").read_bytes()
    back = recover(client, ("Ada", theirs, "a.png"))
    assert (pixels(back.content).int() - photo().int()).abs().max() <= bound(client)
    (tmp_path / "served" / "Ada").mkdir(parents=True)
    (tmp_path / "served" / "Ada" / "a.png").write_bytes(protect(client, ("Ada", png(), "a.png")).content)
    outcome = recover_folder(tmp_path / "served", bank, tmp_path / "back", key=key)
    assert (outcome.written, outcome.problems, outcome.notices) == (1, [], [])
    assert decode_mark(theirs, "a") is not None


@pytest.mark.parametrize("lossless", ["false", "true"])
def test_raw_photos(client, lossless):
    images = torch.stack([photo(i) for i in range(4)]).permute(0, 2, 3, 1).contiguous().numpy()
    people = ["Ada", "Bill", "Ada", "Zoë"]
    hidden = client.post(
        "/v1/protect", params={"person": people, "lossless": lossless}, content=images.tobytes(), headers=RAW
    )
    dtype = "uint16" if lossless == "true" else "uint8"
    assert (hidden.status_code, hidden.headers["x-shape"]) == (200, f"4,{SIDE},{SIDE},3")
    assert hidden.headers["x-dtype"] == dtype
    back = client.post(
        "/v1/recover", params={"person": people, "dtype": dtype}, content=hidden.content, headers=RAW | ADMITTED
    )
    found = np.frombuffer(back.content, np.uint8).reshape(images.shape).astype(int)
    assert abs(found - images).max() <= (0 if lossless == "true" else bound(client))
    one = client.post("/v1/protect", params={"person": "Ada"}, content=images.tobytes(), headers=RAW)
    assert one.headers["x-shape"] == f"4,{SIDE},{SIDE},3"


def test_smoothing(client):
    hidden = protect(client, ("Ada", png(), "a.png")).content
    plain, smooth = (recover(client, ("Ada", hidden, "a.png"), **q) for q in ({}, {"gaussian_sigma": 1.5}))
    assert pixels(smooth.content).float().std() < 0.6 * pixels(plain.content).float().std()
    problem(recover(client, ("Ada", hidden, "a.png"), gaussian_sigma=90), 400, "malformed")  # wider than the photo


def test_resize_and_convert(client):
    large = png(side=60)
    found = problem(protect(client, ("Ada", large, "a.png")), 422, "bad_photo")
    assert "60 x 60" in found["problems"][0]["detail"]
    assert protect(client, ("Ada", large, "a.png"), resize="true").status_code == 200
    from io import BytesIO

    from PIL import Image

    grey = BytesIO()
    Image.new("L", (SIDE, SIDE)).save(grey, "PNG")
    problem(protect(client, ("Ada", grey.getvalue(), "g.png")), 422, "bad_photo")
    assert protect(client, ("Ada", grey.getvalue(), "g.png"), convert="true").status_code == 200


def test_bad_photos_are_listed_each_and_nothing_is_done(client):
    sent = [("Ada", png(), "good.png"), ("Bill", b"no photo", "text.png"), ("Zoë", png()[:-9], "short.png")]
    found = problem(protect(client, *sent), 422, "bad_photo")
    assert [one["index"] for one in found["problems"]] == [1, 2]
    assert "text.png" in found["problems"][0]["detail"] and "short.png" in found["problems"][1]["detail"]


def test_unknown_people_are_listed(client):
    found = problem(protect(client, ("Ada", png(), "a.png"), ("Nobody", png(), "b.png")), 404, "unknown_person")
    assert [one["index"] for one in found["problems"]] == [1]


def test_what_was_protected_otherwise_is_refused(client, client_of, scheme, tmp_path):
    hidden = protect(client, ("Ada", png(), "a.png")).content
    assert "Ada" in problem(recover(client, ("Bill", hidden, "a.png")), 422, "bad_photo")["problems"][0]["detail"]
    problem(protect(client, ("Ada", hidden, "a.png")), 422, "bad_photo")
    bare = recover(client, ("Ada", encode_png(pixels(hidden)), "a.png"))  # saved again: no mark
    if scheme == "sealed":
        assert "force=true" in problem(bare, 422, "bad_photo")["problems"][0]["detail"]
        changed = pixels(hidden)
        changed[0, 5, 5] ^= 1
        mark = decode_mark(hidden, "a")
        damaged = recover(client, ("Ada", encode_png(changed, mark), "a.png"))
        assert "tag" in problem(damaged, 422, "bad_photo")["problems"][0]["detail"]
    else:
        assert bare.status_code == 200
    forced = recover(client, ("Ada", encode_png(pixels(hidden)), "a.png"), force="true")
    assert (pixels(forced.content).int() - photo().int()).abs().max() <= bound(client)


WRONG = [
    ({"data": {"person": "Ada"}}, 415, "media_type"),
    ({"files": [("photo", ("a.png", png(), "image/png"))]}, 400, "malformed"),
    ({"data": {"person": ["Ada", "Bill"]}, "files": [("photo", ("a.png", png(), "image/png"))]}, 400, "malformed"),
    ({"data": {"person": "Ada", "x": "y"}, "files": [("photo", ("a.png", png(), "image/png"))]}, 400, "malformed"),
    ({"files": [("person", ("a", b"Ada", "text/plain")), ("photo", ("a.png", png(), "image/png"))]}, 400, "malformed"),
    ({"data": {"person": "Ada", "photo": "text"}, "files": [("other", ("", b"", ""))]}, 400, "malformed"),
    ({"content": b"{}", "headers": {"content-type": "application/json"}}, 415, "media_type"),
    ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, "malformed"),
    ({"content": b"--x\r\nrubbish", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "malformed"),
    ({"content": b"", "headers": RAW}, 400, "malformed"),
    (
        {"content": b"123", "params": {"person": "Ada"}, "headers": RAW},
        400,
        "malformed",
    ),
    ({"params": {"lossles": "true"}, **form(("Ada", png(), "a.png"))}, 400, "malformed"),
    ({"params": {"lossless": "yes"}, **form(("Ada", png(), "a.png"))}, 400, "malformed"),
    ({"params": {"lossless": ["true", "false"]}, **form(("Ada", png(), "a.png"))}, 400, "malformed"),
    (form(*[("Ada", png(), "a.png")] * 65), 413, "too_large"),
    ({"content": bytes(65 * 3 * SIDE * SIDE), "params": {"person": "Ada"}, "headers": RAW}, 413, "too_large"),
]


@pytest.mark.parametrize("sent,status,code", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_told_by_its_code(client, sent, status, code):
    problem(client.post("/v1/protect", **sent), status, code)
    assert protect(client, ("Ada", png(), "a.png")).status_code == 200


def test_the_token(client, client_of, bank_file):
    hidden = protect(client, ("Ada", png(), "a.png")).content
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
        for method, path in (
            ("post", "/v1/recover"),
            ("get", "/v1/veils"),
            ("get", "/v1/jobs"),
            ("post", "/v1/explore"),
        ):
            answer = client.request(method, path, headers=headers)
            problem(answer, 401, "no_token")
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert recover(client, ("Ada", hidden, "a.png")).status_code == 200
    closed = client_of(bank_file, token_everywhere=True, open_protect=False)
    problem(protect(closed, ("Ada", png(), "a.png")), 401, "no_token")
    problem(closed.get("/metrics"), 401, "no_token")
    assert closed.post("/v1/protect", headers=ADMITTED, **form(("Ada", png(), "a.png"))).status_code == 200


def test_without_a_token_there_is_nothing_but_protect(bank_file, client_of, monkeypatch):
    monkeypatch.delenv("VEILKERN_TOKEN")
    with pytest.raises(ValueError, match="VEILKERN_TOKEN"):
        settings_of(bank_file)
    monkeypatch.setenv("VEILKERN_TOKEN", "short")
    with pytest.raises(ValueError, match="16"):
        settings_of(bank_file)
    monkeypatch.delenv("VEILKERN_TOKEN")
    client = client_of(bank_file, roles=("protect",))
    assert protect(client, ("Ada", png(), "a.png")).status_code == 200
    problem(recover(client, ("Ada", png(), "a.png")), 404, "not_found")


def test_who_may_protect_with_a_blended_bank_may_recover(client_of, bank_file, scheme, monkeypatch):
    """A photo of one's own gives the veil away: so protect wants the token there, unless somebody says otherwise."""
    client = client_of(bank_file, open_protect=False)
    answer = protect(client, ("Ada", png(), "a.png"))
    assert client.get("/v1/about").json()["token"]["everywhere"] == (scheme == "blend")
    if scheme == "sealed":
        assert answer.status_code == 200
        return
    problem(answer, 401, "no_token")
    assert client.post("/v1/protect", headers=ADMITTED, **form(("Ada", png(), "a.png"))).status_code == 200
    monkeypatch.delenv("VEILKERN_TOKEN")
    with pytest.raises(ValueError, match="open-protect"):
        client_of(bank_file, open_protect=False, roles=("protect",))


def test_roles_leave_routes_out(client_of, bank_file):
    client = client_of(bank_file, roles=("veils",))
    problem(protect(client, ("Ada", png(), "a.png")), 404, "not_found")
    problem(recover(client, ("Ada", png(), "a.png")), 404, "not_found")
    assert client.get("/v1/veils", headers=ADMITTED).json()["veils"] == 3
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/veils" in paths and not {"/v1/protect", "/v1/recover"} & set(paths)


def test_openapi_has_every_route_with_examples(client):
    document = client.get("/openapi.json").json()
    from veilkern.serving.app import ROUTES

    for routes in ROUTES.values():
        for method, path, _ in routes:
            there = document["paths"][path][method.lower()]
            assert there["summary"] and there["description"]
            if method == "POST":
                contents = there["requestBody"]["content"].values()
                assert any("example" in content for content in contents), path
            for inside in ("name", "job"):
                if f"{{{inside}}}" in path:
                    assert inside in {one["name"] for one in there["parameters"]}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["paths"]["/v1/recover"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/v1/protect"]["post"]


def test_headers_that_every_answer_has(client):
    for answer in (client.get("/healthz"), client.get("/none"), client.get("/"), protect(client, ("Ada", b"", "a"))):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_other_methods_and_paths(client):
    assert [client.head(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/")] == [200] * 4
    problem(client.get("/v1/protect"), 405, "method")
    problem(client.get("/v1/none"), 404, "not_found")
    problem(client.get("/v1/about/", follow_redirects=False), 404, "not_found")
    problem(client.get("/static/..%2Fapp.py"), 404, "not_found")
    problem(client.get("/static/none.js"), 404, "not_found")


def test_the_page_is_served(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert client.get("/static/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/static/style.css").headers["content-type"].startswith("text/css")


def test_explore(client, scheme):
    sent = [("Ada", png(i), f"{i}.png") for i in range(3)]
    for query in ({}, {"scheme": "blend", "alpha": "0.3"}, {"scheme": "sealed", "levels": "32"}):
        answer = client.post("/v1/explore", params=query, headers=ADMITTED, **form(*sent))
        found = parts(answer)
        assert [field for field, _, _ in found] == ["protected"] * 3 + ["recovered"] * 3 + ["average"] + [
            "attacked"
        ] * 3
        which = query.get("scheme", scheme)
        limit = {"blend": 2, "sealed": 256 // int(query.get("levels", 64))}[which]
        for i in range(3):
            assert (pixels(found[3 + i][2]).int() - photo(i).int()).abs().max() <= limit
        likeness = [_correlation(pixels(found[7 + i][2]), photo(i)) for i in range(3)]
        assert (min(likeness) > 0.5) if which == "blend" else (max(likeness) < 0.2)
    one = parts(client.post("/v1/explore", headers=ADMITTED, **form(sent[0])))
    assert [field for field, _, _ in one] == ["protected", "recovered"]
    for query, people in (({"scheme": "x"}, 1), ({"alpha": "nan"}, 1), ({"levels": "63"}, 1), ({}, 17)):
        many = [sent[0]] * people
        problem(client.post("/v1/explore", params=query, headers=ADMITTED, **form(*many)), 400, "malformed")
    mixed = form(("Ada", png(), "a.png"), ("Bill", png(), "b.png"))
    problem(client.post("/v1/explore", headers=ADMITTED, **mixed), 400, "malformed")


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten().float(), b.flatten().float()]))[0, 1].item()


def test_the_audit(client_of, bank_file, tmp_path):
    problem(client_of(bank_file).get("/v1/audit", headers=ADMITTED), 404, "not_found")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "audit.json").write_text('{"people": 3}')
    client = client_of(bank_file, audit=tmp_path / "audit")
    problem(client.get("/v1/audit"), 401, "no_token")
    assert client.get("/v1/audit", headers=ADMITTED).json() == {"people": 3}
    assert client.get("/v1/about").json()["audit"] is True


def test_nothing_secret_is_told(client, bank_file, caplog):
    """No log line, metric or answer without the token has a name, the key or the token."""
    caplog.set_level("DEBUG")
    protect(client, ("Ada", png(), "a.png"))
    client.post(
        "/v1/protect?person=Ada", content=bytes(SIDE * SIDE * 3), headers={"content-type": "application/octet-stream"}
    )
    client.post("/v1/veils/Ada/rotate", headers=ADMITTED)
    client.delete("/v1/veils/Ada?confirm=Bill", headers=ADMITTED)
    told = client.get("/metrics").text + client.get("/v1/about").text + client.get("/openapi.json").text
    told += "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("veilkern"))
    assert "POST /v1/protect" in told
    for secret in ("Bill", "a-token-of-the-tests", KEY.decode(), KEY.hex(), "confirm=", "/v1/veils/Ada"):
        assert secret not in told, secret


def test_metrics(client):
    from veilkern.serving.metrics import METRICS

    def values() -> list[float]:
        wanted = [
            ("veilkern_photos_total", {"task": "protect"}),
            ("veilkern_errors_total", {"route": "/v1/protect", "code": "bad_photo"}),
        ]
        return [METRICS.registry.get_sample_value(name, labels) or 0 for name, labels in wanted]

    before = values()
    protect(client, ("Ada", png(), "a.png"), ("Bill", png(), "a.png"))
    protect(client, ("Ada", b"rubbish", "a.png"))
    assert [after - there for after, there in zip(values(), before, strict=True)] == [2, 1]
    text = client.get("/metrics").text
    for name in ("requests_total", "request_seconds_bucket", "batch_photos_bucket", "bank_veils 3.0", "in_flight"):
        assert f"veilkern_{name}" in text


def test_traces_have_no_names(client_of, bank_file):
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = client_of(bank_file, otel=True)
    client.post("/v1/protect?person=Ada", content=bytes(SIDE * SIDE * 3), headers=RAW)
    client.delete("/v1/veils/Ada?confirm=Bill", headers=ADMITTED)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["POST /v1/protect", "DELETE /v1/veils/{name}"]
    told = "".join(span.to_json() for span in spans)
    for secret in ("Ada", "Bill", ADMITTED["Authorization"]):
        assert secret not in told


def test_a_fault_of_the_service_is_told_without_its_text(client, monkeypatch, caplog):
    from veilkern.serving import photos

    names = "a secret"

    def broken(*_, **__):
        raise RuntimeError(names.upper())

    monkeypatch.setattr(photos.intake, "rows_of", broken)
    answer = protect(client, ("Ada", png(), "a.png"))
    problem(answer, 500, "failed")
    assert "SECRET" not in answer.text
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "RuntimeError" in told and "SECRET" not in told
