"""POST /v1/explore: one person's photos under other settings, and what an attacker makes of them. For the page."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from starlette.requests import Request
from starlette.responses import Response

from veilkern.auditing.case import stretched
from veilkern.crafting.config import CraftConfig
from veilkern.data.photos import decode_photo, encode_png
from veilkern.serving import answers, intake
from veilkern.serving.intake import Uploads, number, one_of, only, query
from veilkern.serving.problems import Problem
from veilkern.serving.served import Served
from veilkern.serving.state import state_of
from veilkern.veils import keyed
from veilkern.veils.bank import VeilBank
from veilkern.veils.protect import protect, recover

MOST = 16  # photos


@dataclass(frozen=True)
class How:
    """scheme: blend (alpha) or sealed (levels)."""

    scheme: str
    alpha: float
    levels: int


async def explore(request: Request) -> Response:
    """Multipart parts protected, recovered; of two photos or more average and attacked."""
    state = state_of(request)
    state.admit(request)
    only(request, "scheme", "alpha", "levels", "resize", "convert")
    convert, resize = (query(request, name, intake.truth, False) for name in ("convert", "resize"))
    sent = await intake.uploads(request, state.settings)
    if len(set(sent.people)) != 1 or len(sent.files) > MOST:
        raise Problem("malformed", f"one person and 1 to {MOST} photos are explored")
    served = await state.with_everybody(sent.people)
    intake.rows_of(served, sent.people)
    how = _how(request, served.bank)
    decode = functools.partial(
        decode_photo, size=served.bank.size, resize=resize, convert=convert, pixels=state.settings.pixels
    )
    return await state.aside(_explored, served, sent, how, functools.partial(intake.each, decode, sent, state.settings))


def _how(request: Request, bank: VeilBank) -> How:
    usual = CraftConfig()
    scheme = query(request, "scheme", one_of("blend", "sealed"), bank.scheme)
    alpha = query(request, "alpha", functools.partial(number, least=0.0, most=1.0), bank.alpha or usual.alpha)
    levels = query(request, "levels", one_of("16", "32", "64", "128"), str(bank.levels or usual.levels))
    return How(scheme, alpha, int(levels))


def _explored(served: Served, sent: Uploads, how: How, read) -> Response:
    images = torch.stack([image for image, _ in read()])
    bank, key = _other_bank(served.bank, sent.people[0], how)
    hidden = protect(images, bank, 0 * torch.arange(len(images)), key=key)
    back = recover(hidden, bank, 0 * torch.arange(len(images)), key=key)
    names = [answers.png_name(name) for name in sent.names]
    parts = [("protected", name, encode_png(photo)) for name, photo in zip(names, hidden, strict=True)]
    parts += [("recovered", name, encode_png(photo)) for name, photo in zip(names, back, strict=True)]
    if len(images) > 1:
        mean = hidden.float().mean(0, keepdim=True)
        attacked = stretched(hidden.float() - mean)
        parts.append(("average", "average.png", encode_png(mean[0].round().to(torch.uint8))))
        parts += [("attacked", name, encode_png(photo)) for name, photo in zip(names, attacked, strict=True)]
    return answers.multipart(parts)


def _other_bank(bank: VeilBank, person: str, how: How) -> tuple[VeilBank, bytes | None]:
    """A bank of this one person under these settings, and its key; nobody keeps either."""
    veil = bank.veils[bank.rows([person])].cpu()
    blank = VeilBank(veil, [person], blend=min(max(round(255 * how.alpha), 1), 254))
    if how.scheme == "blend":
        return blank, None
    key = keyed.fresh_key()
    # Veils of another scheme, or of fewer levels, reach higher than sealed photos leave room for.
    sealed = veil.clamp(max=256 - how.levels)
    return dataclasses.replace(
        blank, veils=sealed, blend=0, levels=how.levels, rounds=bank.rounds, key_id=keyed.key_id(key)
    ), key
