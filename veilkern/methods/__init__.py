"""The peers of the paper and our own two schemes, as methods of one interface: fit, protect, recover, cost.

fitted = methods.fit(model, crafting, "v-uap", seed=1)
hidden = fitted.protect(unseen)
again = fitted.recover(unseen, hidden)
fitted.cost()
"""

from __future__ import annotations

from typing import Any

from veilkern.data.people import People
from veilkern.methods.avih import Avih
from veilkern.methods.method import Fitted, Method, ShowProgress, require_people, require_photos, working
from veilkern.methods.opom import Opom
from veilkern.methods.ric import Ric
from veilkern.methods.universal import Uap
from veilkern.methods.veiled import SealedVeil, Veil, VUap
from veilkern.networks.face_model import FaceModel

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Veil, SealedVeil, VUap, Uap, Ric, Avih, Opom)}

__all__ = ["METHODS", "Fitted", "Method", "fit"]


def fit(
    model: FaceModel,
    crafting: People,
    method: str = "veil",
    *,
    steps: int | None = None,
    seed: int = 0,
    progress: ShowProgress = None,
    **options: Any,
) -> Fitted:
    """Fit a method to a network and to the crafting photos of some persons.

    method: a name in METHODS. steps: None: the method's own number. seed: everything random follows from it: the same
    seed, photos, network and number of threads give the same bits on the CPU. progress: True: a bar, or a function of
    (done, all). options: of the method (METHODS[method].OPTIONS). Image-specific methods do nothing here, and craft
    each photo in `protect`.

    Raises ValueError for an unknown method or a value that means nothing, TypeError for an unknown option, ModelError
    where the network fails on everybody; whoever else fails is in `.failed`, by name. The engine is made ready before
    the clock starts, so that the first method of several is not charged with it.
    """
    if method not in METHODS:
        raise ValueError(f"fit: method must be one of {', '.join(METHODS)}, got {method!r}")
    made = METHODS[method](steps=steps, seed=seed, **options)
    require_people(model, crafting)
    require_photos(crafting)
    with working(model, made.seed):
        return made.fit(model, crafting, progress)
