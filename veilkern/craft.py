"""craft: veils for many persons, wave by wave; what is finished stays finished."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from veilkern import __version__, keyed, ops
from veilkern.config import CraftConfig
from veilkern.embedder import FaceModel
from veilkern.errors import ModelError
from veilkern.files import is_plain_name
from veilkern.people import People
from veilkern.progress import progress_bar
from veilkern.veils import VeilBank
from veilkern.wave import Wave


@dataclass
class CraftResult:
    """bank: the veils (of everybody whose status is not `failed`). report: one dict a person, in the order of people.

    A record: name, photos, status (`converged`, `step limit`, `failed: why`), steps, feature_distance (mean D of all
    crafting photos under the finished 8-bit veil), cosine (mean, to the person's mean clean feature), visual (L_vis),
    variance (L_var), total (the loss), photo_ids, and held_out (photos, cosine, rank1) where such
    photos were given.
    key: the master key when craft made a fresh one, else None.
    """

    bank: VeilBank
    report: list[dict]
    key: bytes | None = field(default=None, repr=False)


class CraftInterrupted(KeyboardInterrupt):
    """Ctrl-C during craft: `.result` is the CraftResult of everybody who was finished."""

    def __init__(self, result: CraftResult):
        super().__init__(f"interrupted with {len(result.bank)} of {len(result.report)} veils finished")
        self.result = result


def craft(
    model: FaceModel,
    people: People,
    config: CraftConfig | None = None,
    *,
    key: bytes | None = None,
    held_out: People | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> CraftResult:
    """Craft one veil per person of `people` for `model` (eq. 13 by MI-FGSM), many persons at a time.

    key: master key of at least 16 bytes; each veil starts from noise keyed by it and the person's name. None: a fresh
    random one, recorded in the result and the bank (or made from config.seed). The same key, photos, network, version
    and machine give the same bits. held_out: other photos of the same persons, only reported on. progress: True,
    False, None (a bar when stderr is a terminal), or a function called with (persons x steps done, all). A person
    whose gradient or features are not finite fails alone. Raises TypeError and ValueError for wrong arguments,
    ModelError when the network is unusable, CraftInterrupted on Ctrl-C.
    """
    config = CraftConfig() if config is None else config
    _check(model, people, config, held_out)
    fresh = key is None and config.seed is None
    key = _master_key(key, config)
    clean = model.features(people.images, batch=config.photos_in_flight, check=False)
    if not bool(clean.isfinite().any()):
        model.features(people.images[:1])  # raises with the cause
    fingerprint = {"name": model.name, "fingerprint": model.fingerprint}
    waves: list[Wave] = []
    interrupted = False
    with progress_bar(progress, len(people) * config.steps, "crafting") as bar:
        for first, last in _waves(people, config):
            wave = Wave(model, people, clean, first, last, config, key)
            try:
                wave.run(bar)
            except ModelError as error:  # those finished before stay finished
                wave.fail(f"failed: {error}")
            except KeyboardInterrupt:
                interrupted = True
                break
            waves.append(wave)
    report = [record for wave in waves for record in wave.records]
    done = {record["name"] for record in report}
    report += [{"name": name, "status": "failed: interrupted", "steps": 0} for name in people.names if name not in done]
    bank = _bank(waves, report, people, config, fingerprint, keyed.key_id(key), key.hex() if fresh else "")
    result = CraftResult(bank, report, key if fresh else None)
    if interrupted:
        raise CraftInterrupted(result)
    if held_out is not None:
        try:
            _report_held_out(model, people, clean, held_out, result, config)
        except KeyboardInterrupt:
            raise CraftInterrupted(result) from None
    return result


def _check(model, people, config, held_out) -> None:
    for name, value, kind in (("model", model, FaceModel), ("people", people, People), ("config", config, CraftConfig)):
        if not isinstance(value, kind):
            raise TypeError(f"craft: {name} must be a {kind.__name__}, got {type(value).__name__}")
    if not len(people):
        raise ValueError("craft: people must hold at least one person, got none")
    if bad := [name for name in people.names if not is_plain_name(name)]:
        raise ValueError(f"craft: people.names must be plain folder names (no path separators), got {bad[:5]}")
    if tuple(people.images.shape[2:]) != model.input.size:
        raise ValueError(
            f"craft: the network wants photos of {model.input.size}, people has {tuple(people.images.shape[2:])}"
        )
    if min(people.images.shape[2:]) < max(config.block):
        raise ValueError(f"craft: config.block must fit the photos, got {config.block}")
    if held_out is not None and (unknown := sorted(set(held_out.names) - set(people.names))):
        raise ValueError(f"craft: held_out must hold photos of the same persons, got {', '.join(unknown[:5])} besides")


def _master_key(key: bytes | None, config: CraftConfig) -> bytes:
    if key is not None:
        if config.seed is not None:
            raise ValueError("craft: give a key or config.seed, not both")
        return keyed.check_key(key)
    if config.seed is not None:
        return keyed.hkdf_sha256(config.seed.to_bytes(8, "little"), b"seed", 32)
    return secrets.token_bytes(32)


def _waves(people: People, config: CraftConfig) -> list[tuple[int, int]]:
    """Runs of persons whose photos per step stay within photos_in_flight, and whose photos within ten times that."""
    bounds, first, flying, held = [], 0, 0, 0
    for p, count in enumerate(people.counts.tolist()):
        drawn = min(count, config.photos_per_step) if config.photos_per_step else count
        if p > first and (flying + drawn > config.photos_in_flight or held + count > 10 * config.photos_in_flight):
            bounds.append((first, p))
            first, flying, held = p, 0, 0
        flying, held = flying + drawn, held + count
    return [*bounds, (first, len(people))]


def _bank(waves, report, people: People, config: CraftConfig, fingerprint: dict, key_id: str, key: str) -> VeilBank:
    good = [record for record in report if not record["status"].startswith("failed")]
    veils = torch.cat(
        [wave.finished() for wave in waves] or [torch.zeros((0, *people.images.shape[1:]), dtype=torch.uint8)]
    )
    place = {name: i for i, name in enumerate(name for wave in waves for name in wave.names)}
    rows = torch.tensor([place[record["name"]] for record in good], dtype=torch.int64)
    return VeilBank(
        veils[rows],
        [record["name"] for record in good],
        config.blend,
        good,
        fingerprint,
        config.as_dict(),
        key_id,
        key,
        __version__,
    )


def _report_held_out(model, people, clean, held_out: People, result: CraftResult, config: CraftConfig) -> None:
    """Add cosine and rank of the held-out photos to the records: template = one clean crafting photo, in turn."""
    from veilkern.evaluate.identification import ranks_against

    kept = held_out.take([i for i, p in enumerate(held_out.rows.tolist()) if held_out.names[p] in result.bank.names])
    if not len(kept.images):
        return
    rows = result.bank.rows(kept.names)[kept.rows]
    device = model.device  # where the other ops of a craft run
    hidden = ops.blend(kept.images.to(device), result.bank.veils.to(device), rows.to(device), result.bank.blend)
    features = model.features(hidden, batch=config.photos_in_flight, check=False).cpu()
    parts = dict(zip(people.names, clean.split(people.counts.tolist()), strict=True))
    others = torch.stack([part[0] for part in parts.values()])
    for p, name in enumerate(kept.names):
        own = features[kept.offsets[p] : kept.offsets[p + 1]]
        rank = ranks_against(own, parts[name], others[[n != name for n in parts]])
        centre = torch.nn.functional.normalize(parts[name].mean(0), dim=0)
        record = next(r for r in result.report if r["name"] == name)
        record["held_out"] = {
            "photos": len(own),
            "cosine": round(float((own @ centre).mean()), 6),
            "rank1": round(float((rank == 1).double().mean()), 6),
        }
