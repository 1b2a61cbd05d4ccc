"""Veils that come, change and go while the service runs: jobs and their processes, the bank's file, who sees what."""

from __future__ import annotations

import os
import time

import pytest
import torch
from craft_cases import people_of
from serve_cases import (
    ADMITTED,
    KEY,
    client_of,
    form,
    pixels,
    png,
    problem,
    scheme,
    settings_of,
    token,
)

import veilkern as vk
from veilkern.serving.jobs import cancel_path, load, save
from veilkern.serving.served import old_path
from veilkern.veils.bank import update_bank

pytest.importorskip("fastapi")

SEALED = pytest.mark.parametrize("scheme", ["sealed"], indirect=True)  # where the scheme makes no difference
SIDE, NET = (
    8,
    """
import torch
from torch import nn

def load():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
""",
)


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:load"


@pytest.fixture
def bank_file(tmp_path, net, scheme):
    """A bank as craft makes it, of two people, with a key of its owner's."""
    options = {"robust": "none", "block": (3, 3)} if scheme == "sealed" else {}
    config = vk.CraftConfig(scheme=scheme, steps=3, **options)
    people = people_of([2, 2], SIDE)
    vk.craft(vk.FaceModel.load(net, size=SIDE), people, config, key=KEY).bank.save(tmp_path / "veils.safetensors")
    (tmp_path / "veils.safetensors.key").write_bytes(KEY)
    (tmp_path / "veils.safetensors.key").chmod(0o600)
    return tmp_path / "veils.safetensors"


@pytest.fixture
def client(client_of, bank_file, net):
    return client_of(bank_file, model=(net,), model_input={"size": SIDE})


def sent(*people: str) -> dict:
    return form(*[(name, png(i, SIDE), f"{i}.png") for i, name in enumerate(people)])


def ended(client, answer) -> dict:
    """The state of a job once it has ended."""
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['job']}"
    for _ in range(600):
        job = client.get(answer.headers["location"], headers=ADMITTED).json()
        if job["status"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def names(client) -> list[str]:
    return [person["name"] for person in client.get("/v1/veils", headers=ADMITTED).json()["people"]]


def protected(client, name: str, seed: int = 0):
    return client.post("/v1/protect", **form((name, png(seed, SIDE), "a.png")))


def recovered(client, name: str, *hidden: bytes):
    return client.post("/v1/recover", headers=ADMITTED, **form(*[(name, data, "a.png") for data in hidden]))


def test_a_person_is_added_rotated_and_removed(client, bank_file, scheme):
    job = ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve", "Eve", "Olga")))
    assert (job["status"], job["kind"], job["detail"]) == ("done", "add", "")
    assert {one["name"]: one["status"] != "" for one in job["people"]} == {"Eve": True, "Olga": True}
    assert job["done"] == job["total"] > 0 and job["ended"] >= job["created"]
    assert names(client) == ["person-0", "person-1", "Eve", "Olga"]  # at once: nobody has to wait for the watch
    before = protected(client, "Eve").content
    assert vk.VeilBank.load(bank_file).names == names(client)
    assert oct(bank_file.stat().st_mode)[-3:] == "600"

    assert (
        ended(client, client.post("/v1/veils/Eve/rotate", headers=ADMITTED, **sent("Eve", "Eve")))["status"] == "done"
    )
    bank, kept = vk.VeilBank.load(bank_file), vk.VeilBank.load(old_path(bank_file))
    assert bank.record("Eve")["generation"] == 1
    assert kept.names == ["Eve@0"] and oct(old_path(bank_file).stat().st_mode)[-3:] == "600"
    after = protected(client, "Eve").content
    assert not torch.equal(kept.veils[0], bank.veils[bank.row_of("Eve")])
    for data in (before, after):  # by its mark each finds its veil
        assert (pixels(recovered(client, "Eve", data).content).int() - pixels(png(0, SIDE)).int()).abs().max() <= 4
    both = recovered(client, "Eve", before, after)
    assert both.status_code == 200 and both.content.count(b"\x89PNG") == 2

    problem(client.delete("/v1/veils/Eve", headers=ADMITTED), 400, "malformed")
    problem(client.delete("/v1/veils/Eve?confirm=eve", headers=ADMITTED), 400, "malformed")
    answer = client.delete("/v1/veils/Eve?confirm=Eve", headers=ADMITTED)
    assert answer.json() == {"removed": "Eve", "veils": 3}
    assert "Eve" not in names(client)
    problem(protected(client, "Eve"), 404, "unknown_person")
    problem(client.delete("/v1/veils/Eve?confirm=Eve", headers=ADMITTED), 404, "unknown_person")

    # Again, from another start: two veils of one noise would tell each other.
    assert ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve")))["status"] == "done"
    assert vk.VeilBank.load(bank_file).record("Eve")["generation"] >= 1


def test_veils_of_templates(client, scheme, net):
    model = vk.FaceModel.load(net, size=SIDE)
    features = model.features(pixels(png(0, SIDE))[None]).tolist()
    given = {"names": ["Eve"], "features": features}
    answer = client.post("/v1/veils", headers=ADMITTED, json=given)
    if scheme == "blend":
        problem(answer, 409, "conflict")
        return
    assert ended(client, answer)["status"] == "done"
    assert "Eve" in names(client)
    again = client.post("/v1/veils/Eve/rotate", headers=ADMITTED, json={"features": features})
    assert ended(client, again)["status"] == "done"
    for wrong in ({}, {"names": []}, {"names": ["A"], "features": [[1.0], [2.0]]}, {"names": [3], "features": [[1.0]]}):
        problem(client.post("/v1/veils", headers=ADMITTED, json=wrong), 400, "malformed")
    for text in (b"", b"[]", b"{", b'{"names": ["A"], "features": [[NaN]]}', b'{"features": [["x"]], "names": ["A"]}'):
        headers = ADMITTED | {"content-type": "application/json"}
        problem(client.post("/v1/veils", headers=headers, content=text), 400, "malformed")
    short = client.post("/v1/veils", headers=ADMITTED, json={"names": ["Zed"], "features": [[1.0]]})
    assert ended(client, short)["status"] == "failed"


@SEALED
def test_what_cannot_be_crafted(client, client_of, bank_file):
    problem(client.post("/v1/veils", headers=ADMITTED, **sent("person-0")), 409, "conflict")
    problem(client.post("/v1/veils", headers=ADMITTED, **sent("a/b")), 400, "malformed")
    problem(client.post("/v1/veils/Nobody/rotate", headers=ADMITTED, **sent("Nobody")), 404, "unknown_person")
    problem(client.post("/v1/veils/person-0/rotate", headers=ADMITTED, **sent("person-1")), 400, "malformed")
    broken = form(("Eve", b"rubbish", "a.png"))
    problem(client.post("/v1/veils", headers=ADMITTED, **broken), 422, "bad_photo")
    problem(client.get("/v1/jobs/../../etc", headers=ADMITTED), 404, "not_found")
    problem(client.get("/v1/jobs/0123456789abcdef", headers=ADMITTED), 404, "not_found")
    problem(client_of(bank_file).post("/v1/veils", headers=ADMITTED, **sent("Eve")), 409, "conflict")
    assert client.get("/v1/jobs", headers=ADMITTED).json() == {"jobs": []}


@SEALED
def test_another_network_is_told_and_nothing_changes(client_of, bank_file, tmp_path):
    (tmp_path / "other.py").write_text(NET.replace("(3)", "(4)"))
    client = client_of(bank_file, model=(f"{tmp_path / 'other.py'}:load",), model_input={"size": SIDE})
    before = bank_file.read_bytes()
    job = ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve")))
    assert job["status"] == "failed" and "network" in job["detail"]
    assert bank_file.read_bytes() == before


@SEALED
def test_jobs_wait_are_cancelled_and_die(client, bank_file, tmp_path):
    """One at a time; who is asked to end ends; one that is killed is told as failed, not as running for ever."""
    from filelock import FileLock

    jobs = client.app.app.state.jobs
    with FileLock(jobs._folder / "one.lock"):  # another worker's job
        first = client.post("/v1/veils", headers=ADMITTED, **sent("Eve"))
        problem(client.post("/v1/veils", headers=ADMITTED, **sent("Eve")), 409, "conflict")
        second = client.post("/v1/veils", headers=ADMITTED, **sent("Olga"))
        time.sleep(1)
        listed = client.get("/v1/jobs", headers=ADMITTED).json()["jobs"]
        assert [(job["status"], job["people"][0]["name"]) for job in listed] == [("queued", "Olga"), ("queued", "Eve")]
        problem(client.delete("/v1/jobs/0123456789abcdef", headers=ADMITTED), 404, "not_found")
        assert client.delete(first.headers["location"], headers=ADMITTED).status_code == 202
        assert ended(client, first)["status"] == "cancelled"
        problem(client.delete(first.headers["location"], headers=ADMITTED), 409, "conflict")
        for process in list(jobs._processes):
            process.kill()
        state = load(jobs._folder, second.json()["job"])
        state.status, state.created = "running", time.time() - 60
        save(jobs._folder, state)
        job = ended(client, second)
        assert job["status"] == "failed" and "process" in job["detail"]
    assert names(client) == ["person-0", "person-1"]
    assert not list(jobs._folder.glob("*.cancel")) and not cancel_path(jobs._folder, first.json()["job"]).exists()


@SEALED
def test_there_are_not_more_jobs_than_some(client, monkeypatch):
    from veilkern.serving import jobs

    monkeypatch.setattr(jobs, "MOST", 0)
    answer = client.post("/v1/veils", headers=ADMITTED, **sent("Eve"))
    problem(answer, 503, "busy")
    assert int(answer.headers["retry-after"]) > 0


@SEALED
def test_no_job_changes_what_others_wrote_meanwhile(client, bank_file):
    """The bank is changed under its lock: what another command did to it while the job crafted stays."""
    answer = client.post("/v1/veils", headers=ADMITTED, **sent("Eve"))
    update_bank(bank_file, lambda bank: bank.rename({"person-1": "Ida"}))
    assert ended(client, answer)["status"] == "done"
    assert vk.VeilBank.load(bank_file).names == ["person-0", "Ida", "Eve"]


def test_another_bank_is_read_without_being_asked(client, bank_file):
    before = protected(client, "person-0").content
    update_bank(bank_file, lambda bank: bank.rename({"person-1": "Ida"}))
    assert protected(client, "Ida").status_code == 200  # before the watch has looked: who is not found is looked for
    assert recovered(client, "person-0", before).status_code == 200
    bank_file.write_bytes(b"rubbish")
    for _ in range(3):
        assert protected(client, "Ida").status_code == 200
        problem(protected(client, "Nobody"), 404, "unknown_person")
    assert client.get("/readyz").status_code == 200
    os.unlink(bank_file)
    problem(protected(client, "Nobody"), 404, "unknown_person")
    assert protected(client, "Ida").status_code == 200


def test_the_list_in_pages(client_of, tmp_path, token):
    from serve_cases import bank_of

    everybody = [f"p{i:03d}" for i in range(25)]
    bank_of("blend", everybody).save(tmp_path / "veils.safetensors")
    client = client_of(settings_of(tmp_path / "veils.safetensors", key_files=()))
    found, after = [], {}
    while True:
        page = client.get("/v1/veils", params={"limit": 10, **after}, headers=ADMITTED).json()
        found += [person["name"] for person in page["people"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert (found, page["veils"]) == (everybody, 25)
    for query in ({"limit": 0}, {"limit": "x"}, {"limit": 2000}, {"first": 1}):
        problem(client.get("/v1/veils", params=query, headers=ADMITTED), 400, "malformed")
    problem(client.get("/v1/veils", params={"after": "Nobody"}, headers=ADMITTED), 404, "unknown_person")
