"""Veils that come, change and go while the service runs: jobs and their processes, the bank's file, who sees what."""

from __future__ import annotations

import dataclasses
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
from veilkern.serving import history
from veilkern.serving.history import old_path
from veilkern.serving.jobs import cancel_path, load, save
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

    jobs = client.app.app.state.veilkern.jobs
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


@SEALED
def test_who_comes_again_starts_from_elsewhere(client, bank_file):
    """Added, removed, added: another generation, so another key; and what was removed is not in the old bank either."""
    assert ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve")))["status"] == "done"
    assert vk.VeilBank.load(bank_file).record("Eve")["generation"] == 0
    assert client.delete("/v1/veils/Eve?confirm=Eve", headers=ADMITTED).status_code == 200
    after = history.next_generations(bank_file, vk.VeilBank.load(bank_file), ["Eve", "Olga"])
    assert after == {"Eve": 1, "Olga": 0}
    noted = history.generations_path(bank_file)
    assert "Eve" not in noted.read_text() and oct(noted.stat().st_mode)[-3:] == "600"
    assert ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve")))["status"] == "done"
    assert vk.VeilBank.load(bank_file).record("Eve")["generation"] == 1


def rotated(bank_file, name: str) -> None:
    """As a job rotates, but for the craft: other random veils of the next generation."""
    bank = vk.VeilBank.load(bank_file)
    wanted = history.keyed_as(bank, name)
    generation = history.next_generations(bank_file, bank, [wanted])[wanted]
    record = bank.record(name) | {"generation": generation, "keyed_as": wanted}
    top = 257 - bank.levels if bank.levels else 256
    veils = torch.randint(0, top, (1, *bank.veils.shape[1:]), dtype=torch.uint8)
    made = dataclasses.replace(bank.take([name]), veils=veils, records=[record])
    history.keep(bank_file, bank, [name])
    update_bank(bank_file, lambda now: now.join(made, replace=True))


def test_no_earlier_veil_is_lost_however_people_are_renamed(client, bank_file):
    """Each photo is recovered under the name that its person has now, and under no other."""
    taken = {}

    def take(person: str, name: str) -> None:
        taken[f"{person} {len(taken)}"] = protected(client, name).content

    def rename(names: dict) -> None:
        update_bank(bank_file, lambda bank: bank.rename(names))
        client.app.app.state.veilkern.source.refresh()

    take("first", "person-0"), take("second", "person-1")
    rotated(bank_file, "person-0")
    client.app.app.state.veilkern.source.refresh()
    take("first", "person-0")
    rename({"person-0": "Ada"})
    rename({"person-1": "person-0"})
    rotated(bank_file, "person-0")  # the second person, under the first one's former name
    rotated(bank_file, "Ada")
    rotated(bank_file, "Ada")
    client.app.app.state.veilkern.source.refresh()
    take("first", "Ada"), take("second", "person-0")
    names = {"first": "Ada", "second": "person-0"}
    for person, data in taken.items():
        own, other = names[person.split()[0]], names[{"first": "second", "second": "first"}[person.split()[0]]]
        back = recovered(client, own, data)
        assert back.status_code == 200, (person, back.text)
        assert (pixels(back.content).int() - pixels(png(0, SIDE)).int()).abs().max() <= 4
        problem(recovered(client, other, data), 422, "bad_photo")
    old = vk.VeilBank.load(old_path(bank_file))
    assert len(old) == 4 and len({tuple(veil.flatten().tolist()) for veil in old.veils}) == 4


def test_long_names_find_a_place_beside_the_bank(bank_file):
    name = "n" * 255
    update_bank(bank_file, lambda bank: bank.rename({"person-0": name}))
    keyed = [{"keyed_as": name}, {}]
    update_bank(bank_file, lambda bank: dataclasses.replace(bank, records=keyed))
    rotated(bank_file, name)
    rotated(bank_file, name)
    assert len(vk.VeilBank.load(old_path(bank_file))) == 2


@SEALED
def test_two_who_rotate_one_person_at_once(bank_file, net):
    """The later one is told so, and nothing is lost: by a second service, or by a job that outlived its own."""
    from veilkern.serving.crafting_job import Work
    from veilkern.serving.jobs import Job

    met = vk.VeilBank.load(bank_file)
    settings = settings_of(bank_file, model=(net,), roles=("protect",))
    work = Work(Job("0" * 16, "rotate", [{"name": "person-0", "status": ""}]), settings, lambda **_: None, lambda: None)
    generations = work._generations(met, ["person-0"])
    assert generations == {"person-0": 1}
    made = met.take(["person-0"])
    rotated(bank_file, "person-0")
    before = bank_file.read_bytes(), old_path(bank_file).read_bytes()
    with pytest.raises(ValueError, match="meanwhile"):
        update_bank(bank_file, lambda now: work._changed(now, met, made, generations))
    adds = Work(Job("0" * 16, "add", []), settings, lambda **_: None, lambda: None)
    with pytest.raises(ValueError, match="meanwhile"):
        update_bank(bank_file, lambda now: adds._changed(now, met, made, {"person-0": 0}))
    assert (bank_file.read_bytes(), old_path(bank_file).read_bytes()) == before


@SEALED
def test_earlier_veils_of_another_bank_are_told_by_their_file(client_of, bank_file, token):
    from serve_cases import bank_of

    bank_of("blend", side=SIDE).save(old_path(bank_file))
    with pytest.raises(vk.BankError, match="veils.old.safetensors: not of this bank"):
        client_of(bank_file)


@SEALED
def test_a_folder_that_somebody_has_tidied_away_is_made_again(client, bank_file):
    import shutil

    shutil.rmtree(client.app.app.state.veilkern.jobs._folder)
    assert ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve")))["status"] == "done"


@SEALED
def test_the_application_in_other_servers(bank_file, token, monkeypatch, net):
    """Without its lifespan; twice on and off; in a process whose parent is none of ours, which gets no signal."""
    from starlette.testclient import TestClient

    from veilkern.serving import create_app, state

    monkeypatch.setattr(state.os, "kill", lambda *given: pytest.fail(f"a signal: {given}"))
    app = create_app(settings_of(bank_file, workers=2, model=(net,), model_input={"size": SIDE}))
    plain = TestClient(app)
    assert plain.delete("/v1/veils/person-1?confirm=person-1", headers=ADMITTED).json()["veils"] == 1
    assert names(plain) == ["person-0"] and plain.get("/v1/jobs", headers=ADMITTED).json() == {"jobs": []}
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/readyz").status_code == 200
            assert protected(client, "person-0").status_code == 200
    assert plain.get("/readyz").status_code == 503


def test_the_key_of_a_bank_whose_last_person_goes_stays(client, bank_file, scheme):
    for name in ("person-0", "person-1"):
        assert client.delete(f"/v1/veils/{name}?confirm={name}", headers=ADMITTED).status_code == 200
    bank = vk.VeilBank.load(bank_file)
    assert len(bank) == 0 and bank.key_id
    assert ended(client, client.post("/v1/veils", headers=ADMITTED, **sent("Eve")))["status"] == "done"


@SEALED
def test_earlier_veils_of_another_key(client_of, bank_file, caplog):
    """An archive was brought under another key: what is there now is served, and what is not is told."""
    rotated(bank_file, "person-0")
    other = bank_file.with_name("other.key")
    other.write_bytes(b"another key than that of before")
    other.chmod(0o600)
    update_bank(bank_file, lambda bank: bank.under_key(other.read_bytes()))
    client = client_of(bank_file, key_files=(other,))
    assert recovered(client, "person-0", protected(client, "person-0").content).status_code == 200
    assert "veils.old.safetensors: its veils need another key" in caplog.text
    both = client_of(bank_file, key_files=(other, f"{bank_file}.key"))
    assert both.app.app.state.veilkern.served.old is not None
