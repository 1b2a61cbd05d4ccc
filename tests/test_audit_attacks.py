"""Each attack by itself: what it makes of blended photos, that the sealed ones give it nothing, and what it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audit_cases import KEY, blend_bank, case_of, people_of, same_nonces, sealed_bank

import veilkern as vk
from veilkern.auditing import attacks, encryption, inverter, scores
from veilkern.auditing.attacks import ATTACKS, NotPossibleError
from veilkern.auditing.case import Case, blurred, protected_photos, residues, stretched
from veilkern.auditing.encryption import field_tests
from veilkern.evaluate import metrics

COUNTS = (3, 4, 2, 3, 3, 3, 3, 3)


@pytest.fixture
def blend():
    people = people_of(COUNTS)
    return case_of(blend_bank(people), people)


@pytest.fixture
def sealed(monkeypatch):
    same_nonces(monkeypatch)
    people = people_of(COUNTS)
    return case_of(sealed_bank(people), people)


def ssim(case: Case, output, variant: str) -> float:
    return metrics.ssim(output.variants[variant], case.people.images[output.photos]).mean().item()


@pytest.mark.parametrize("scheme", ["blend", "sealed"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_outputs_fit(attack, scheme, request):
    case = request.getfixturevalue(scheme)
    output = attack.run(case)
    assert output.photos.tolist() == sorted(set(output.photos.tolist()))
    shape = (len(output.photos), *case.people.images.shape[1:])
    assert all(made.dtype == torch.uint8 and made.shape == shape for made in output.variants.values())


def test_the_average_and_differences_open_blended_photos(blend):
    average, difference = attacks.minus_average(blend), attacks.differences(blend)
    assert ssim(blend, average, "multiplied") > 0.5
    assert list(difference.variants) == ["photo +1", "photo +2", "photo +3"]
    x = blend.people.photos(0).float()
    for first, other in ((0, 1), (1, 2), (2, 0)):
        wanted = stretched((x[first] - x[other])[None])
        made = difference.variants["photo +1"][first][None]
        assert metrics.ssim(made, wanted).item() > 0.8
    pair = blend.people.offsets[2]  # of two photos each is less the other one, in every variant
    assert torch.equal(difference.variants["photo +2"][pair], difference.variants["photo +1"][pair])


def test_the_average_is_that_of_the_person(blend):
    hidden = blend.protected[:3].float()
    made = attacks.minus_average(blend).variants
    left = hidden - hidden.mean(0)
    assert torch.equal(made["multiplied"][:3], (128 + 5 * left).clamp(0, 255).round().to(torch.uint8))
    assert torch.equal(made["stretched"][:3], stretched(left))
    assert torch.equal(made["minus minimum"][:3], (5 * (hidden - hidden.min(0).values)).clamp(0, 255).to(torch.uint8))


def test_a_known_pair_opens_blended_photos_of_that_person(blend):
    output = attacks.known_pair(blend)
    assert not set(output.photos.tolist()) & set(blend.people.offsets.tolist())  # the known ones are not counted
    error = output.variants["solved"].int() - blend.people.images[output.photos].int()
    assert error.abs().max() <= 7  # (204 (127.5 / 204 + 0.5) + 127.5) / 51: three roundings


def test_a_known_veil_is_the_key_of_blended_photos_only(blend, sealed):
    opened = attacks.known_veil(blend).variants["recovered"]
    assert torch.equal(opened, vk.recover(blend.protected, blend.bank, blend.rows))
    made = attacks.known_veil(sealed).variants
    u = residues(sealed.protected, sealed.veils, 64)
    assert u.max() == 63 and torch.equal(made["residue"], u * 4)
    assert torch.equal(made["highest bit"], (u >= 32) * torch.tensor(255, dtype=torch.uint8))


def test_a_known_keystream_would_open_what_is_sealed_with_the_same_nonce(sealed):
    """The attack is done right: where its condition holds it opens everything, and the library never lets it hold."""
    nonces = torch.zeros(len(sealed.rows), 12, dtype=torch.uint8)
    hidden = protected_photos(sealed.people.images, sealed.bank, sealed.rows, KEY, nonces)
    reused = Case(sealed.people, sealed.bank, sealed.rows, hidden, key=KEY)
    output = attacks.known_pair(reused)
    error = (output.variants["keystream"].int() - sealed.people.images[output.photos].int()).abs()
    assert error.flatten(1)[:, 96:].max() <= 2
    output = attacks.known_pair(sealed)
    first = sealed.people.offsets[sealed.people.rows[output.photos]]
    left = sealed.protected[output.photos].float() - sealed.protected[first].float()
    assert torch.equal(output.variants["difference"], stretched(left))
    error = (output.variants["keystream"].int() - sealed.people.images[output.photos].int()).abs()
    assert error.float().mean() > 50
    assert abs(ssim(sealed, output, "keystream")) < 0.1


@pytest.mark.parametrize("levels", [16, 128])
def test_protected_photos_are_the_librarys(levels):
    people = people_of((2, 1))
    bank = sealed_bank(people, levels=levels, rounds=12)
    hidden = protected_photos(people.images, bank, people.rows, KEY)
    back = vk.recover(hidden, bank, people.rows, key=KEY)
    error = (back.int() - people.images.int()).abs().flatten(1)
    assert error[:, 96:].max() <= 128 // levels and error.max() <= 256 // levels
    assert not torch.equal(hidden, protected_photos(people.images, bank, people.rows, KEY))  # fresh nonces
    blended = blend_bank(people)
    assert torch.equal(
        protected_photos(people.images, blended, people.rows, None), vk.protect(people.images, blended, people.rows)
    )


def test_the_key_is_asked_for():
    people = people_of((2, 2))
    bank = sealed_bank(people)
    with pytest.raises(ValueError, match="key must be given, the master key of this sealed bank"):
        Case.of(people, bank, None)
    with pytest.raises(ValueError, match="key must be the master key that .* crafted with"):
        Case.of(people, bank, b"another key of enough bytes")
    assert "thirty" not in repr(case_of(bank, people))


def test_one_photo_a_person_is_said():
    people = people_of((1, 1, 1))
    case = case_of(blend_bank(people), people)
    for attack in ATTACKS:
        if attack.name in ("average", "difference", "known_pair"):
            with pytest.raises(NotPossibleError, match="not possible with one photo a person"):
                attack.run(case)
        else:
            assert len(attack.run(case).photos) == 3


def test_one_photo_among_many_is_left_out_where_it_must_be():
    people = people_of((2, 1, 2))
    case = case_of(blend_bank(people), people)
    assert attacks.minus_average(case).photos.tolist() == [0, 1, 3, 4]
    assert attacks.known_pair(case).photos.tolist() == [1, 4]


def test_strangers_are_other_people_and_all_alike(blend):
    found = scores.strangers_of(blend)
    rows = blend.people.rows
    assert found.shape == (len(rows), 7)
    assert all(len(set(rows[line].tolist()) | {int(rows[i])}) == 8 for i, line in enumerate(found))
    assert torch.equal(found, scores.strangers_of(blend))
    even = people_of((3,) * 14)
    table = scores.strangers_of(case_of(blend_bank(even), even))
    assert table.shape == (42, 11)
    assert all(torch.equal(column.sort().values, torch.arange(42)) for column in table.T)  # each photo once a column
    again = Case.of(even, blend_bank(even), None, seed=5)
    assert not torch.equal(table, scores.strangers_of(again))


def test_scores_are_those_of_the_metrics(blend):
    strangers = scores.strangers_of(blend)
    output = attacks.blur_and_stretch(blend)
    found = scores.score(blend, output, strangers)
    images = blend.people.images
    own = torch.stack([metrics.ssim(made, images) for made in output.variants.values()])
    assert torch.equal(found.ssim, own.amax(0))
    contours = torch.stack([metrics.contour(made, images[strangers[:, 2]], 2.0) for made in output.variants.values()])
    wanted = contours.gather(0, contours.abs().argmax(0, keepdim=True))[0]
    torch.testing.assert_close(found.contour_others[:, 2], wanted, atol=1e-9, rtol=0)
    others = torch.stack(
        [torch.stack([metrics.ssim(made, images[c]) for c in strangers.T], 1) for made in output.variants.values()]
    )
    assert torch.equal(found.ssim_others, others.amax(0))
    above = dict(zip(output.variants, (own.mean(1) - others.mean((1, 2))).tolist(), strict=True))
    assert found.best == max(above, key=above.get)
    flat = scores.score(blend, attacks.Output(output.photos, {"flat": torch.zeros_like(images)}), strangers)
    assert not flat.contour.any()


def test_stretching_and_blurring():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 40, 40, generator=g)
    made = stretched(torch.cat([values, 7 - 3 * values])).double()
    assert made.mean((1, 2, 3)).tolist() == pytest.approx([118] * 4, abs=2)
    assert made.std((1, 2, 3)).tolist() == pytest.approx([60] * 4, abs=3)
    assert stretched(torch.zeros(1, 3, 4, 4)).unique().tolist() == [118]
    images = people_of((2,)).images
    wanted = metrics.blurred_luma(images, 2.0)
    luma = (blurred(images, 2.0).double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    torch.testing.assert_close(luma, wanted, atol=1e-3, rtol=0)


def test_the_inverter_learns_on_other_people(monkeypatch, blend):
    known = []
    trained = inverter._trained

    def watched(case, mask, averages, minutes, fold):
        known.append(mask)
        assert minutes == 0.0005
        return trained(case, mask, averages, minutes, fold)

    monkeypatch.setattr(inverter, "_trained", watched)
    state = torch.get_rng_state()
    output = inverter.learned_inverter(blend, 0.001)
    assert torch.equal(state, torch.get_rng_state())
    rows = blend.people.rows
    assert torch.equal(known[0], ~known[1])  # every photo is opened once, by one that did not see its person
    assert not set(rows[known[0]].tolist()) & set(rows[known[1]].tolist())
    assert output.variants["opened"].shape == blend.protected.shape and output.photos.tolist() == list(range(24))
    two = people_of((2, 2))
    assert len(inverter.learned_inverter(Case.of(two, blend_bank(two), None), 0.001).photos) == 4
    with pytest.raises(NotPossibleError, match="one person"):
        inverter.learned_inverter(Case.of(people_of((3,)), blend_bank(people_of((3,))), None), 0.001)


def test_the_inverter_is_given_what_the_attacker_has(sealed):
    averages = inverter._averages(sealed)
    given = inverter._inputs(sealed, sealed.protected, sealed.rows, averages)
    assert given.shape[1] == 9
    hidden = sealed.protected.float()
    torch.testing.assert_close(given[:, :3], hidden / 255 - 0.5)
    torch.testing.assert_close(given[:3, 3:6], 4 * (hidden[:3] - hidden[:3].mean(0)) / 255)
    torch.testing.assert_close(given[:, 6:], residues(sealed.protected, sealed.veils, 64) / 64 - 0.5)
    network = inverter.UNet(9, width=4)
    assert network(torch.rand(2, 9, 13, 18)).shape == (2, 3, 13, 18)  # sides that are no multiple of four


def test_what_the_inverter_answers_is_a_photo(monkeypatch, blend):
    """0 .. 1 of the network is 0 .. 255 of the photo, each under its own number."""

    def all_but_trained(case, known, averages, minutes, fold):
        return lambda given: given[:, :3] + 0.5

    monkeypatch.setattr(inverter, "_trained", all_but_trained)
    assert torch.equal(inverter.learned_inverter(blend, 0.0).variants["opened"], blend.protected)


@pytest.mark.parametrize("side", [5, 8, 12, 16])
def test_the_inverters_loss(side):
    photos = people_of((2,), side=side).images.float() / 255
    assert inverter._loss(photos, photos).item() == pytest.approx(0, abs=1e-5)
    similar = metrics.ssim((photos * 255).round().to(torch.uint8), torch.zeros(2, 3, side, side, dtype=torch.uint8))
    wanted = photos.mean() + 0.5 * (1 - similar.mean())
    assert inverter._loss(photos, torch.zeros_like(photos)).item() == pytest.approx(wanted.item(), abs=1e-4)


def test_the_inverter_gets_better(blend):
    """Whoever learns longer reads blended photos: the loop does learn."""
    torch.manual_seed(0)
    averages, known = inverter._averages(blend), blend.people.rows < 6
    given = inverter._inputs(blend, blend.protected[~known], blend.rows[~known], averages)
    wanted = blend.people.images[~known].float() / 255
    losses = [
        inverter._loss(inverter._trained(blend, known, averages, minutes, 0)(given), wanted).item()
        for minutes in (0.0, 0.05)
    ]
    assert losses[1] < 0.8 * losses[0]


def test_field_tests_of_sealed_photos(sealed):
    found = {test.name: test for test in field_tests(sealed)}
    assert all(test.fine for test in found.values()), [t for t in found.values() if not t.fine]
    assert found["npcr_same_nonce"].value == pytest.approx(1 / 768)  # one value changed: one value differs
    assert found["max_error"].value in (2.0, 3.0, 4.0) and found["max_error"].expected == 4
    assert found["npcr_reseal"].expected == 63 / 64 and found["uaci_reseal"].expected == pytest.approx(65 / 192)
    assert found["entropy"].value == pytest.approx(6, abs=0.1)
    assert "SSIM" in found["npcr_wrong_key"].note and "0.9" in found["correlation_horizontal"].note


def test_field_tests_see_what_is_no_noise(sealed):
    """A photo that is not sealed at all, and one whose nonce is always the same, are not fine."""
    plain = ((sealed.people.images >> 2) + sealed.veils).to(torch.uint8)
    found = {t.name: t for t in field_tests(Case(sealed.people, sealed.bank, sealed.rows, plain, key=KEY))}
    for name in ("entropy", "chi_square", "correlation_horizontal", "correlation_vertical", "correlation_diagonal"):
        assert not found[name].fine, name
    assert not found["max_error"].fine
    nonces = torch.zeros(len(sealed.rows), 12, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("veilkern.veils.task.fresh_nonces", lambda n, device: nonces[:n])
        patch.setattr("veilkern.auditing.encryption.fresh_nonces", lambda n, device: nonces[:n])
        hidden = protected_photos(sealed.people.images, sealed.bank, sealed.rows, KEY)
        again = {t.name: t for t in field_tests(Case(sealed.people, sealed.bank, sealed.rows, hidden, key=KEY))}
    for name in ("npcr_reseal", "uaci_reseal", "npcr_changed_bit", "uaci_changed_bit"):
        assert not again[name].fine, name


def test_correlation_of_neighbours():
    """By NumPy's own; nothing where a photo is flat."""
    images = people_of((2,)).images
    for down, right in ((0, 1), (1, 0), (1, 1)):
        wanted = [
            np.corrcoef(plane[down:, right:].ravel(), plane[: 16 - down, : 16 - right].ravel())[0, 1]
            for plane in images.flatten(0, 1).double().numpy()
        ]
        assert encryption._neighbours(images, down, right) == pytest.approx(np.mean(wanted))
    assert encryption._neighbours(torch.full((2, 3, 8, 8), 9, dtype=torch.uint8), 0, 1) == 0.0
    assert encryption._neighbours(images[..., :1], 0, 1) == 0.0
    half = torch.cat([images[:1], torch.zeros_like(images[:1])])
    assert encryption._neighbours(half, 0, 1) == pytest.approx(encryption._neighbours(images[:1], 0, 1) / 2)


def test_z_is_that_of_ideal_noise():
    """Over many photos of ideal noise each z is as often far off as a normal distribution is."""
    g = torch.Generator().manual_seed(0)
    seen: dict[str, list[float]] = {}
    for _ in range(60):
        one, other = torch.randint(0, 64, (2, 2, 3, 16, 12), generator=g, dtype=torch.int64).to(torch.uint8)
        for test in [*encryption._noise(one, one, 64), *encryption._pair("x", "x", one, other, 64)]:
            seen.setdefault(test.name, []).append(test.z)
    for name, found in seen.items():
        assert 0.7 < float(np.std(found)) < 1.3 and abs(float(np.mean(found))) < 0.6, name


def test_field_tests_are_of_sealed_photos_alone(blend):
    assert field_tests(blend) == []
