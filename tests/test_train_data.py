"""Photos to train on, of every kind: listed, split, decoded when asked for, damaged ones left out."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from train_cases import SIDE, insightface, people, write_folder, write_rec, write_tar

import veilkern as vk
from veilkern.data.photos import encode_png
from veilkern.datasets.encoded import Member, members_of_tar, read_encoded
from veilkern.errors import PhotoError
from veilkern.training import batches as batches_module
from veilkern.training.batches import Decoded, Order, batches
from veilkern.training.data import Photos, Reading, able_of, open_source, split

HOW = Reading((SIDE, SIDE))
KINDS = ("folder", "tar", "tars", "rec", "people")


def source_of(kind: str, root, made: vk.People):
    """The same people, kept in each way; jpeg in the .rec."""
    members = {file: encode_png(image) for file, image in zip(made.files, made.images, strict=True)}
    if kind == "folder":
        return write_folder(root / "faces", made)
    if kind == "tar":
        return write_tar(root / "a.tar", members)
    if kind == "tars":  # an identity's photos may be in several
        for n in range(2):
            write_tar(root / f"part-{n}.tar", dict(list(members.items())[n::2]))
        return root / "part-*.tar"
    if kind == "rec":
        return write_rec(root / "train.rec", insightface(made))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_people(kind, tmp_path):
    made = people(4, 5)
    source = open_source(source_of(kind, tmp_path, made), [], [])
    source = pickle.loads(pickle.dumps(source))  # as processes that decode get it
    assert np.bincount(source.labels).tolist() == [5] * 4 and (np.diff(source.labels) >= 0).all()
    assert kind == "rec" or source.identities == made.names
    for person in range(4):
        found = [source.read(int(i), HOW) for i in np.flatnonzero(source.labels == person)]
        wanted = list(made.photos(person))
        if kind == "rec":
            near = [(a.int() - b.int()).abs().float().mean() for a, b in zip(found, wanted, strict=True)]
            assert max(near) < 6
        else:
            assert {t.numpy().tobytes() for t in found} == {t.numpy().tobytes() for t in wanted}
    assert len({source.where(i) for i in range(20)}) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_tells_other_photos(kind, tmp_path):
    digests = []
    for name, made in (("a", people(4, 5)), ("b", people(4, 5)), ("c", people(4, 5).take(range(19)))):
        (tmp_path / name).mkdir()
        digests.append(open_source(source_of(kind, tmp_path / name, made), [], []).digest())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", KINDS)
def test_photos_of_another_size_are_refused_with_the_way_out(kind, tmp_path):
    source = open_source(source_of(kind, tmp_path, people(4, 5)), [], [])
    with pytest.raises(PhotoError, match=r"32 x 32 pixels .* wanted 40 x 40") as caught:
        source.read(3, Reading((40, 40)))
    if kind != "people":
        assert "--resize" in str(caught.value)
        assert source.read(3, Reading((40, 40), resize=True)).shape == (3, 40, 40)


def test_held_out_identities_are_others_and_the_same_whatever_else_is_there():
    made = people(20, 8)
    source = open_source(made, [], [])
    training, held = split(source, 5)
    assert len(training.identities) == 15 and len(held.identities) == 5
    assert not {*training.identities} & {*held.identities}
    assert sorted(training.labels.tolist()) == sorted([*range(15)] * 8)
    for photos in (training, held):
        names = [made.names[made.rows[i]] for i in photos.photos.tolist()]
        assert names == [photos.identities[label] for label in photos.labels]
    fewer = made.take(torch.arange(160)[made.rows != made.names.index(training.identities[0])])
    assert split(open_source(fewer, [], []), 5)[1].identities == held.identities


def test_who_has_one_photo_is_not_held_out():
    made = people(20, 8)
    some = made.take([i for i in range(160) if i % 8 == 0 or i < 24])
    source = open_source(some, [], [])
    assert able_of(source) == 3 and sorted(split(source, 3)[1].identities) == made.names[:3]
    with pytest.raises(PhotoError, match="held out .* are 4 identities with two photos at least; 3 have two"):
        split(source, 4)


def test_a_folder_lists_what_it_leaves_out(tmp_path):
    root = write_folder(tmp_path / "faces", people(4, 5))
    (root / "nobody").mkdir()
    (root / "person-000" / "notes.txt").write_text("x")
    problems, notices = [], []
    source = open_source(root, problems, notices)
    assert len(source.identities) == 4
    assert ["nobody" in str(p) and "no photo of this person" in str(p) for p in problems] == [True]
    assert ["notes.txt" in str(n) for n in notices] == [True]
    with pytest.raises(PhotoError, match="holds photos itself and no person's folder"):
        open_source(root / "person-000", [], [])


@pytest.mark.parametrize(
    "make,text",
    [
        (lambda root: root / "none", "no Parquet file or tar there, and no folder"),
        (lambda root: root, r"no photo; wanted one folder per identity"),
        (lambda root: (root / "x.parquet").write_bytes(b"x") and root / "x.parquet", "wanted a folder of identities"),
        (lambda root: "s3://bucket/x.tar", "files of this machine, no URL"),
        (lambda root: write_tar(root / "e.tar", {"a.txt": b"x"}), "no photo in it"),
        (lambda root: write_tar(root / "e.tar", {"a.png": b"x"}), "a.png: no person"),
        (lambda root: (root / "e.tar").write_bytes(b"x" * 999) and root / "e.tar", "e.tar: cannot be read"),
        (lambda root: [write_rec(root / f"{n}.rec", {1: b""}) for n in "ab"] and root, "several .rec files"),
    ],
)
def test_sources_that_are_none(make, text, tmp_path):
    with pytest.raises(PhotoError, match=text):
        open_source(make(tmp_path), [], [])


def test_tars_by_offset_are_what_tars_read_whole_are(tmp_path):
    made = people(4, 5)
    members = {f"{i:03d}.png": encode_png(image) for i, image in enumerate(made.images)}
    members |= {
        f"{i:03d}.json": json.dumps({"person": f"p {row}"}).encode() for i, row in enumerate(made.rows.tolist())
    }
    path = write_tar(tmp_path / "a.tar", members)
    whole = read_encoded(str(path))
    with path.open("rb") as file:
        found = sorted(members_of_tar(file), key=lambda m: (m.person, m.file))
    assert [(m.person, m.file) for m in found] == [(e.person, e.file) for e in whole] and len(found) == 20
    data = path.read_bytes()
    assert all(
        isinstance(m, Member) and data[m.offset : m.offset + m.size] == e.data
        for m, e in zip(found, whole, strict=True)
    )
    path.write_bytes(data[: found[-1].offset + 9])
    with pytest.raises(PhotoError, match=r"a\.tar: .*(truncated|unexpected end)"):
        open_source(path, [], [])


def photos_of(made) -> Photos:
    return split(open_source(made, [], []), 0)[0]


def test_every_epoch_takes_each_photo_once_and_a_step_is_known_by_its_number():
    order = Order(22, 8, 3, slice(None), 0, 11)
    steps = list(order)
    assert len(order) == len(steps) == 11 and all(len(step) == 8 for step in steps)
    flat = [i for step in steps for i in step]
    for epoch in range(4):
        assert sorted(flat[22 * epoch : 22 * epoch + 22]) == list(range(22))
    assert flat[:22] != flat[22:44]
    assert list(Order(22, 8, 3, slice(None), 7, 11)) == steps[7:]
    for rank in range(2):
        assert list(Order(22, 8, 3, slice(rank, None, 2), 0, 11)) == [step[rank::2] for step in steps]
    assert list(Order(3, 8, 3, slice(None), 0, 5)) == list(Order(3, 8, 3, slice(None), 0, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_photos_of_their_steps(workers, tmp_path):
    made = people(4, 5)
    photos = photos_of(write_folder(tmp_path / "faces", made))
    order = Order(20, 6, 0, slice(None), 1, 5)
    found = list(batches(photos, HOW, order, workers))
    for batch, step in zip(found, order, strict=True):
        assert torch.equal(batch.images, made.images[step]) and torch.equal(batch.labels, made.rows[step])
        assert batch.problems == []


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_photos_are_replaced_by_the_next_and_told(workers, tmp_path):
    made = people(4, 5)
    root = write_folder(tmp_path / "faces", made)
    bad = [root / made.files[i] for i in (3, 4, 19)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    order = Order(20, 20, 0, slice(None), 0, 1)
    [found] = batches(photos_of(root), HOW, order, workers)
    stand_in = {3: 5, 4: 5, 19: 0}
    wanted = [stand_in.get(i, i) for i in next(iter(order))]
    assert torch.equal(found.images, made.images[wanted]) and torch.equal(found.labels, made.rows[wanted])
    assert {p.file for p in found.problems} == {str(path) for path in bad}
    assert all("corrupt or truncated" in p.cause and "png: " not in p.cause for p in found.problems)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_none_can_be_used_it_ends(workers, tmp_path):
    photos = photos_of(write_folder(tmp_path / "faces", people(4, 5)))
    with pytest.raises(PhotoError, match=r"^\S+png: 32 x 32 pixels .*--resize.* none of the 20 photos") as caught:
        list(batches(photos, Reading((9, 9)), Order(20, 4, 0, slice(None), 0, 1), workers))
    assert "Traceback" not in str(caught.value)


def test_decoded_photos_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "faces", people(4, 5))
    read, plain = [], batches_module.PhotoError
    dataset = Decoded(photos_of(root), HOW, cache_bytes=7 * 3 * SIDE * SIDE + 5)
    source = dataset.photos.source
    monkeypatch.setattr(source, "read", lambda n, how, real=source.read: (read.append(n), real(n, how))[1])
    for _ in range(3):
        for i in range(20):
            dataset[i]
    assert plain is PhotoError and len(dataset.kept) == 7 and len(read) == 20 + 2 * 13
    assert sum(t.numel() for t in dataset.kept.values()) <= 7 * 3 * SIDE * SIDE + 5
