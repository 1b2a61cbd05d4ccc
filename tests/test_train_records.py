"""insightface's .rec and .idx: good, odd and damaged."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from train_cases import SIDE, insightface, jpeg, payload, people, write_rec

from veilkern.data.photos import decode_photo
from veilkern.errors import PhotoError
from veilkern.training.data import Reading, open_source
from veilkern.training.recordio import MAGIC, RecordFile

MARK = MAGIC.to_bytes(4, "little")


@pytest.fixture
def packed(tmp_path):
    """Four people of five photos, as insightface packs them."""
    return write_rec(tmp_path / "train.rec", insightface(people(4, 5)))


def rows_of(records: RecordFile) -> dict[str, list[int]]:
    """The numbers of each identity's photos."""
    return {name: records.keys[rows].tolist() for name, rows in records.identities()}


def test_identities_and_photos(packed):
    made, records = people(4, 5), RecordFile(packed)
    assert len(records) == 1 + 20 + 4
    assert rows_of(records) == {f"id {21 + p}": list(range(1 + 5 * p, 6 + 5 * p)) for p in range(4)}
    for number, image in enumerate(made.images, 1):
        assert records.photo(number) == jpeg(image)
        header = records.header(number, records.read(number))
        assert header.labels == (float((number - 1) // 5),) and header.flag == 0
    source = open_source(packed.parent, [], [])  # the folder it lies in
    assert (
        source.identities == ["id 21", "id 22", "id 23", "id 24"]
        and source.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    )
    wanted, _ = decode_photo(jpeg(made.images[7]), "x", size=(SIDE, SIDE))
    assert torch.equal(source.read(7, Reading((SIDE, SIDE))), wanted) and source.where(7) == f"{packed}:record 8"


def test_the_order_of_the_index_means_nothing(packed):
    wanted, index = rows_of(RecordFile(packed)), packed.with_suffix(".idx")
    lines = index.read_text().splitlines()
    index.write_text("\r\n".join(lines[::-1]))  # and other line ends, the last one without
    records = RecordFile(packed)
    assert rows_of(records) == wanted
    row = int(np.flatnonzero(records.keys == 3)[0])
    assert records.photo(row) == jpeg(people(4, 5).images[2])


@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_payload_with_the_magic_number_in_it_is_stored_in_parts(tmp_path, copies, after):
    """dmlc cuts it there, wherever that is a multiple of 4 bytes, and what reads it puts it back."""
    content = payload(1.0, bytes(4) + MARK * copies + bytes(after))
    assert len(content) % 4 == after % 4
    path = write_rec(tmp_path / "x.rec", {0: content, 1: payload(2.0, b"next")})
    records = RecordFile(path)
    assert path.read_bytes().count(MARK) == 2 + copies
    assert records.read(0) == content and records.photo(1) == b"next"


def test_several_labels_stand_for_the_one(tmp_path):
    path = write_rec(tmp_path / "x.rec", {1: payload((3.0, 8.5, 1.0), b"photo"), 2: payload(3.0), 3: payload(4.0)})
    records = RecordFile(path)
    assert records.photo(0) == b"photo" and records.header(0, records.read(0)).labels == (3.0, 8.5, 1.0)
    assert rows_of(records) == {"label 3": [1, 2], "label 4": [3]}


def test_without_records_of_identities_labels_tell_them_apart(tmp_path):
    made = people(4, 5)
    path = write_rec(tmp_path / "x.rec", insightface(made, identities=False))
    assert rows_of(RecordFile(path)) == {f"label {p}": list(range(1 + 5 * p, 6 + 5 * p)) for p in range(4)}
    photos = {n: c for n, c in insightface(made, identities=False).items() if n}
    assert rows_of(RecordFile(write_rec(tmp_path / "y.rec", photos))) == rows_of(RecordFile(path))


def test_it_goes_to_another_process(packed):
    records = RecordFile(packed)
    records.read(1)
    again = pickle.loads(pickle.dumps(records))
    assert again.read(1) == records.read(1)


def damaged(packed, data: bytes | None = None, index: str | None = None):
    if data is not None:
        packed.write_bytes(data)
    if index is not None:
        packed.with_suffix(".idx").write_text(index)
    return RecordFile(packed)


@pytest.mark.parametrize(
    "index,text",
    [
        ("", "the file is empty"),
        ("0\t0\n1\t40\t2\n", "line 2: wanted a number, a tab and an offset"),
        ("0\t0\n1\n2\t40\n", "line 2: wanted a number"),
        ("0\t0\n1\t-40\n", "line 2: wanted a number"),
        ("0\t0\n1\t4x\n", "line 2: wanted a number"),
        ("0\t0\n1\t1234567890123456789\n", "line 2: wanted a number"),
        ("0\t0\n1\t42\n", r"line 2: offset 42, wanted a multiple of 4 inside of the \d+ bytes"),
        ("0\t0\n1\t999999996\n", r"line 2: offset 999999996, wanted a multiple of 4 inside"),
        ("0\t0\n1\t40\n1\t40\n", "record 1 is there twice"),
        ("0\t0\n" + "\n" * (1 << 21), "larger than the train.rec"),
    ],
)
def test_a_damaged_index_is_refused_with_its_line(packed, index, text):
    with pytest.raises(PhotoError, match=rf"train\.idx: .*{text}|train\.idx: {text}"):
        damaged(packed, index=index)


def test_missing_files_are_named(packed, tmp_path):
    packed.with_suffix(".idx").unlink()
    with pytest.raises(PhotoError, match=r"train\.idx: cannot be read"):
        RecordFile(packed)
    with pytest.raises(PhotoError, match=r"none\.rec: cannot be read"):
        RecordFile(tmp_path / "none.rec")


def test_a_truncated_file_is_told_by_name_and_offset(packed):
    data = packed.read_bytes()
    at, end = RecordFile(packed).offsets[20:22].tolist()
    index = packed.with_suffix(".idx").read_text()
    records = damaged(packed, data[: at + 100], "".join(f"{line}\n" for line in index.splitlines()[:21]))
    with pytest.raises(
        PhotoError, match=rf"train\.rec: offset {at}: truncated: a record of \d+ bytes, and 92 are left"
    ):
        records.read(20)
    with pytest.raises(PhotoError, match=rf"line 22: offset {end}, wanted a multiple of 4 inside"):
        damaged(packed, index=index)


@pytest.mark.parametrize(
    "change,text",
    [
        (lambda d, at: d[:at] + b"\0\0\0\0" + d[at + 4 :], "no record begins here: the magic number is missing"),
        (lambda d, at: d[: at + 4] + struct.pack("<I", 2 << 29 | 8) + d[at + 8 :], "a part from its middle"),
        (lambda d, at: d[: at + 4] + struct.pack("<I", 1 << 29 | 24) + d[at + 8 :], "the magic number is missing"),
        (lambda d, at: d[: at + 4] + struct.pack("<I", (1 << 29) - 1) + d[at + 8 :], "larger than 256 MiB"),
        (lambda d, at: d[: at + 4] + struct.pack("<I", 1 << 27) + d[at + 8 :], "truncated: a record of 134217728"),
        (lambda d, at: d[: at + 4] + struct.pack("<I", 10) + d[at + 8 :], "a payload of 10 bytes, too short"),
        (lambda d, at: d[: at + 8] + struct.pack("<I", 5000) + d[at + 12 :], "5000 labels, more than the record"),
        (lambda d, at: d[: at + 8] + struct.pack("<I", 4000) + d[at + 12 :], "4000 labels, more than the record"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_told_by_name_and_offset_and_others_are_read(packed, change, text):
    at, data = int(RecordFile(packed).offsets[3]), packed.read_bytes()
    records = damaged(packed, change(data, at))
    with pytest.raises(PhotoError, match=rf"train\.rec: offset \d+: .*{text}|train\.rec: offset \d+: {text}"):
        records.photo(3)
    assert records.photo(2) == jpeg(people(4, 5).images[1])


@pytest.mark.parametrize(
    "labels", [(5.5, 9.0), (1.0, 9.5), (0.0, 3.0), (9.0, 8.0), (float("nan"), 3.0), (2.0,), (6.0, 22.0)]
)
def test_ranges_that_cannot_be_are_refused(tmp_path, labels):
    """(6, 22): of an identity, whose photos end with record 20."""
    for number in (0, 22) if labels[-1] != 22.0 else (22,):
        found = insightface(people(4, 5)) | {number: payload(labels)}
        with pytest.raises(PhotoError, match=r"offset \d+: labels .*, wanted the first record of a range"):
            rows_of(RecordFile(write_rec(tmp_path / "x.rec", found)))


def test_an_identity_that_is_missing_is_named(tmp_path):
    found = insightface(people(4, 5))
    for odd in ({n: c for n, c in found.items() if n != 23}, found | {0: payload((21.0, 1e12))}):
        with pytest.raises(PhotoError, match=r"x\.idx: no record 2[35], which record 0 says is an identity"):
            rows_of(RecordFile(write_rec(tmp_path / "x.rec", odd)))


def test_labels_that_are_no_numbers_are_refused(tmp_path):
    path = write_rec(tmp_path / "x.rec", {1: payload(3.0), 2: payload(float("nan"))})
    with pytest.raises(PhotoError, match=r"x\.rec: offset 32: a label that is not a number"):
        rows_of(RecordFile(path))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_does_worse_than_a_photo_error(packed, data):
    """Bytes changed or cut anywhere in either file."""
    write_rec(packed, insightface(people(4, 5)))
    parts = [bytearray(path.read_bytes()) for path in (packed, packed.with_suffix(".idx"))]
    which = parts[data.draw(st.integers(0, 1))]
    for _ in range(data.draw(st.integers(1, 4))):
        which[data.draw(st.integers(0, len(which) - 1))] = data.draw(st.sampled_from([0, 1, 0x0A, 0x30, 0x39, 0xFF]))
    del which[data.draw(st.integers(len(which) // 2, len(which))) :]
    packed.write_bytes(parts[0])
    packed.with_suffix(".idx").write_bytes(parts[1])
    try:
        source = open_source(packed, [], [])
    except PhotoError as error:
        assert "train." in str(error)
        return
    for photo in range(len(source.labels)):
        try:
            image = source.read(photo, Reading((SIDE, SIDE), resize=True, convert=True))
            assert image.shape == (3, SIDE, SIDE)
        except PhotoError as error:
            assert "train.rec" in str(error)
