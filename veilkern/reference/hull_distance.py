"""hull_distance (eq. 3-7): squared distance of a feature to the hull of a person's clean features."""

from __future__ import annotations

import torch


def hull_distance(
    features: torch.Tensor,
    clean: torch.Tensor,
    offsets: torch.Tensor,
    *,
    clean_offsets: torch.Tensor | None = None,
    subspace: str = "convex",
    weights: torch.Tensor | None = None,
    own: torch.Tensor | None = None,
    iterations: int = 2000,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """D_i = min_w ||Y^T w - f_i||^2 for the photos f_i of each person, Y that person's clean features.

    features [N, d], person p at rows offsets[p]:offsets[p + 1]; clean [M, d], rows by clean_offsets (default: offsets).
    subspace: `convex` w >= 0, sum w = 1; `affine` sum w = 1; `span` any w; `centre` w = 1 / n; `self` w picks row
    own[i] of the person (default: the photo's own place). weights [N, m]: a start for `convex`.
    Returns the distance [N], the weights [N, m] (m the most clean features of a person, zero beyond a person's own)
    and the gradient [N, d] of the distance with respect to f: 2 (f - Y^T w), by the envelope theorem; the solver is
    never differentiated through. The distance is differentiable with respect to features, once.
    """
    clean_offsets = offsets if clean_offsets is None else clean_offsets
    person = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())
    with torch.no_grad():
        hull, valid = _padded(clean, clean_offsets)
        if subspace in ("convex", "affine", "span"):
            w = _solve(features.detach(), hull, valid, person, subspace, weights, iterations)
        elif subspace == "centre":
            w = (valid.to(clean.dtype) / valid.sum(1, keepdim=True))[person]
        else:
            place = torch.arange(len(features), device=offsets.device) - offsets[person] if own is None else own
            w = (place[:, None] == torch.arange(valid.shape[1], device=place.device)).to(clean.dtype)
    residual = features - torch.einsum("nm,nmd->nd", w, hull[person])
    return residual.square().sum(1), w, 2 * residual.detach()


def _padded(clean: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean features as [P, m, d] with zero rows beyond a person's own, and the mask [P, m] of what is own."""
    counts = offsets.diff()
    width = int(counts.max()) if len(counts) else 0
    place = torch.arange(width, device=clean.device)
    valid = place < counts[:, None]
    index = (offsets[:-1, None] + place).clamp(max=max(len(clean) - 1, 0))
    return clean[index] * valid[..., None], valid


def _solve(features, hull, valid, person, subspace, start, iterations):
    if subspace == "convex":
        # Where sum w = 1, everything may be measured from the centre; that leaves what sets the photos apart, and FISTA
        # far fewer steps.
        centre = hull.sum(1, keepdim=True) / valid.sum(1).clamp_min(1)[:, None, None]
        hull, features = (hull - centre) * valid[..., None], features - centre[person, 0]
    gram = hull @ hull.mT  # [P, m, m], fixed per person
    cross = torch.einsum("nd,nmd->nm", features, hull[person])
    if subspace == "convex":
        length = features.square().sum(1) + gram.abs().sum(2).amax(1)[person] if gram.numel() else features[:, 0]
        return _simplex_fista(gram, cross, valid, person, start, length, iterations)
    # A ridge far below the features' scale keeps repeated photos solvable; own rows only, the rest stays zero.
    ridge = 100 * torch.finfo(gram.dtype).eps
    size = gram.shape[1]
    system = gram + torch.eye(size, dtype=gram.dtype, device=gram.device) * (ridge + (~valid)[:, None].to(gram.dtype))
    if subspace == "span":
        return torch.linalg.solve_ex(system[person], cross).result  # NaN for what is not finite
    one = valid.to(gram.dtype)[..., None]
    bordered = torch.cat([torch.cat([system, one], 2), torch.cat([one.mT, torch.zeros_like(one[:, :1])], 2)], 1)
    right = torch.cat([cross, torch.ones_like(cross[:, :1])], 1)
    return torch.linalg.solve_ex(bordered[person], right).result[:, :size]


def _simplex_fista(gram, cross, valid, person, start, length, iterations):
    """Accelerated projected gradient on the simplex with restart, all photos at once, to a small duality gap: relative
    to the squared lengths at hand, `length` [N]."""
    mask = valid[person]
    w = mask.to(gram.dtype) / mask.sum(1, keepdim=True) if start is None else _project(start, mask)
    if not w.numel():
        return w
    rate = torch.linalg.matrix_norm(gram, ord=float("inf")).clamp_min(1e-12)[person, None]  # >= largest eigenvalue
    wanted = length * (2.5e-7 if gram.dtype == torch.float32 else 2.5e-12)
    ahead, momentum = w, torch.ones_like(w[:, :1])
    for count in range(1, iterations + 1):
        slope = torch.einsum("nm,nmk->nk", ahead, gram[person]) - cross
        new = _project(ahead - slope / rate, mask)
        restart = ((ahead - new) * (new - w)).sum(1, keepdim=True) > 0
        grown = torch.where(restart, torch.ones_like(momentum), (1 + (1 + 4 * momentum**2).sqrt()) / 2)
        ahead = torch.where(restart, new, new + (momentum - 1) / grown * (new - w))
        w, momentum = new, grown
        if count % 10 == 0:
            slope = torch.einsum("nm,nmk->nk", w, gram[person]) - cross
            best = slope.masked_fill(~mask, float("inf")).min(1).values
            if ((slope * w).sum(1) - best <= wanted).all():
                break
    return w


def _project(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Euclidean projection of the masked entries of each row onto the simplex (sort and threshold).

    It does not change when a row is shifted: with its largest entry at 0, those that count lie in [-1, 0], and no digit
    of them is lost beside large numbers (a step over a flat hull is as long as rounding makes it).
    """
    sortable = x.masked_fill(~mask, -1e30)
    if x.shape[1]:
        sortable = sortable - sortable.amax(1, keepdim=True)
    ordered = sortable.sort(1, descending=True).values
    above = ordered.clamp_min(-1e29).cumsum(1) - 1
    rank = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    support = (ordered * rank > above).sum(1, keepdim=True).clamp_min(1)
    return (sortable - above.gather(1, support - 1) / support).clamp_min(0)
