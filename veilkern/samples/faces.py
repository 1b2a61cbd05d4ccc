"""Synthetic people: a parametric face renderer, so that the demo and the tests need no photo of anybody.

A person is a row of identity parameters (face shape, eyes, brows, nose, mouth, hair, skin, marks); a photo adds pose,
light, expression, background and sensor noise. Everything is drawn by NumPy's Philox generator from (seed, person,
photo), so the same numbers always give the same photo, and rendered as soft shapes over a 112 x 112 grid, aligned the
way face-recognition networks expect (eyes and mouth where the ArcFace template has them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from veilkern.data.people import People

SIZE = 112

# name: (low, high), uniform. Lengths are in half image widths: the image spans [-1, 1] in x (right) and y (down).
IDENTITY = {
    "face_w": (0.60, 0.80),
    "face_h": (0.88, 1.06),
    "jaw": (1.7, 3.2),
    "chin": (-0.06, 0.10),
    "cheek": (-0.05, 0.06),
    "skin_l": (0.0, 1.0),
    "skin_r": (-1.0, 1.0),
    "skin_y": (-0.6, 0.6),
    "blush": (0.0, 0.14),
    "eye_x": (0.26, 0.37),
    "eye_y": (-0.14, -0.02),
    "eye_w": (0.095, 0.155),
    "eye_a": (0.42, 0.70),
    "eye_tilt": (-0.22, 0.22),
    "lid": (0.0, 1.0),
    "iris_h": (0.0, 1.0),
    "iris_l": (0.1, 0.9),
    "iris_r": (0.46, 0.66),
    "brow_y": (0.14, 0.25),
    "brow_t": (0.016, 0.055),
    "brow_w": (0.14, 0.22),
    "brow_tilt": (-0.30, 0.30),
    "brow_arch": (0.0, 0.10),
    "brow_gap": (-0.03, 0.05),
    "nose_l": (0.26, 0.42),
    "nose_w": (0.07, 0.16),
    "nose_tip": (0.3, 1.0),
    "bridge": (0.1, 1.0),
    "mouth_y": (0.56, 0.72),
    "mouth_w": (0.17, 0.33),
    "lip_u": (0.018, 0.055),
    "lip_d": (0.025, 0.075),
    "lip_c": (0.0, 1.0),
    "lip_bow": (0.0, 0.03),
    "hair_h": (0.0, 1.0),
    "hair_l": (0.05, 0.95),
    "hair_top": (-0.90, -0.48),
    "hair_part": (-0.5, 0.5),
    "hair_slant": (-0.45, 0.45),
    "hair_side": (-0.04, 0.24),
    "hair_len": (-0.3, 1.5),
    "hair_wave": (0.0, 0.09),
    "beard": (-1.2, 1.0),
    "stache": (-1.0, 1.0),
    "beard_w": (0.2, 0.6),
    "ear": (0.02, 0.12),
    "glasses": (-1.4, 1.0),
    "glass_r": (0.17, 0.24),
    "glass_a": (0.55, 1.0),
    "mole_x": (-0.45, 0.45),
    "mole_y": (0.12, 0.85),
    "mole": (-0.3, 1.0),
    "mark_x": (-0.45, 0.45),
    "mark_y": (-0.6, 0.0),
    "mark": (-0.6, 1.0),
    "freckles": (-1.0, 0.8),
    "tex_x": (0.0, 6.3),
    "tex_y": (0.0, 6.3),
}
PHOTO = {
    "yaw": (-0.40, 0.40),
    "pitch": (-0.22, 0.22),
    "roll": (-0.09, 0.09),
    "scale": (0.94, 1.06),
    "tx": (-0.04, 0.04),
    "ty": (-0.04, 0.04),
    "light_x": (-0.8, 0.8),
    "light_y": (-0.7, 0.3),
    "ambient": (0.50, 0.80),
    "warm": (-0.08, 0.08),
    "gain": (0.78, 1.12),
    "smile": (-0.3, 1.0),
    "open": (-0.6, 1.0),
    "blink": (-0.2, 0.35),
    "lift": (-0.02, 0.04),
    "gaze": (-0.3, 0.3),
    "bg_l": (0.12, 0.88),
    "bg_r": (-0.18, 0.18),
    "bg_b": (-0.18, 0.18),
    "bg_x": (-0.3, 0.3),
    "bg_y": (-0.3, 0.3),
    "bg_f": (1.0, 5.0),
    "bg_p": (0.0, 6.3),
    "noise": (0.004, 0.02),
    "shirt_r": (0.05, 0.95),
    "shirt_g": (0.05, 0.95),
    "shirt_b": (0.05, 0.95),
}


def identity_parameters(count: int, seed: int) -> np.ndarray:
    """Identity parameters of `count` people, float32 [count, len(IDENTITY)]; person i of a seed never changes."""
    return _uniform(IDENTITY, seed, 1, count)


def photo_parameters(count: int, seed: int) -> np.ndarray:
    """Nuisance parameters of `count` photos, float32 [count, len(PHOTO)]."""
    return _uniform(PHOTO, seed, 2, count)


def _uniform(table: dict[str, tuple[float, float]], seed: int, stream: int, count: int) -> np.ndarray:
    low, high = np.array(list(table.values())).T
    raw = np.random.Philox(key=[seed, stream]).random_raw(count * len(table)).reshape(count, len(table))
    return (low + (raw >> np.uint64(11)) * 2.0**-53 * (high - low)).astype(np.float32)


def _disc(x, y, rx, ry, soft=0.02, power=2.0):
    """Soft superellipse: 1 inside |x/rx|^power + |y/ry|^power = 1, 0 outside, an edge about `soft` wide."""
    r = ((x / rx).abs() ** power + (y / ry).abs() ** power + 1e-6) ** (1 / power)
    return torch.sigmoid((1 - r) * torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry)) / soft * 2)


def _colour(r, g, b):
    return torch.stack([torch.as_tensor(c) for c in torch.broadcast_tensors(r, g, b)], 1)


def _over(image, mask, colour):
    return image + mask.unsqueeze(1) * (colour - image)


class _Scene:
    """One batch of photos being drawn: parameters as [B, 1, 1] attributes, head coordinates, and the layers."""

    if TYPE_CHECKING:  # the parameters, set by name below

        def __getattr__(self, name: str) -> torch.Tensor: ...

    def __init__(self, identity: np.ndarray, photo: np.ndarray):
        for table, values in ((IDENTITY, identity), (PHOTO, photo)):
            for name, column in zip(table, torch.from_numpy(values).T, strict=True):
                setattr(self, name, column.view(-1, 1, 1))
        axis = (torch.arange(SIZE, dtype=torch.float32) + 0.5) / (SIZE / 2) - 1
        v, u = torch.meshgrid(axis, axis, indexing="ij")
        c, s = torch.cos(self.roll), torch.sin(self.roll)
        x, y = (c * u + s * v - self.tx) / self.scale, (-s * u + c * v - self.ty) / self.scale
        self.u, self.v = u.expand_as(x), v.expand_as(y)
        # A head is roughly an ellipsoid: turning it moves a point by sin(angle) times its depth there. Alignment
        # keeps the eyes in place, so the depth is counted from theirs.
        depth = torch.sqrt((1 - (x / 0.85) ** 2 - ((y - 0.1) / 1.15) ** 2).clamp_min(0.0))
        nose = 0.35 * torch.exp(-((x / 0.14) ** 2) - ((y - 0.2) / 0.24) ** 2)
        self.x = (x - torch.sin(self.yaw) * 0.5 * (depth + nose - 0.85)) / (0.75 + 0.25 * torch.cos(self.yaw))
        self.y = y - torch.sin(self.pitch) * 0.4 * (depth + nose - 0.85)
        self.side = torch.sign(self.x)
        self.ax = self.x.abs()

    def skin(self):
        dark, light = torch.tensor([0.38, 0.25, 0.18]), torch.tensor([0.95, 0.79, 0.69])
        t = self.skin_l.unsqueeze(1)
        base = dark.view(1, 3, 1, 1) * (1 - t) + light.view(1, 3, 1, 1) * t
        shift = _colour(0.045 * self.skin_r, -0.01 * self.skin_r + 0.02 * self.skin_y, -0.045 * self.skin_y)
        return (base + shift).clamp(0.05, 0.98)

    def hair(self):
        black, brown, blond = (
            torch.tensor(c).view(1, 3, 1, 1) for c in ([0.06, 0.05, 0.05], [0.40, 0.22, 0.11], [0.86, 0.73, 0.47])
        )
        t, grey = self.hair_l.unsqueeze(1), (self.hair_h.unsqueeze(1) - 0.75).clamp_min(0) * 4
        tone = torch.where(t < 0.5, black + (brown - black) * 2 * t, brown + (blond - brown) * (2 * t - 1))
        red = (0.25 - self.hair_h.unsqueeze(1)).clamp_min(0) * 4
        tone = tone * (1 + red * torch.tensor([0.5, -0.1, -0.3]).view(1, 3, 1, 1))
        return (tone * (1 - grey) + grey * (0.35 + 0.45 * t)).clamp(0.02, 0.95)

    def background(self):
        base = _colour(self.bg_l + self.bg_r, self.bg_l, self.bg_l + self.bg_b)
        slope = self.bg_x * self.u + self.bg_y * self.v
        blobs = 0.13 * torch.sin(self.bg_f * self.u * 2 + self.bg_p) * torch.cos(self.bg_f * self.v * 1.7 - self.bg_p)
        return (base + (slope + blobs).unsqueeze(1)).clamp(0, 1)

    def face_shape(self):
        """Upper half an ellipse, lower half a superellipse whose power is the squareness of the jaw."""
        y = self.y - 0.08
        wide = self.face_w + self.cheek * torch.exp(-(((self.y - 0.25) / 0.25) ** 2))
        upper = ((self.ax / wide) ** 2 + (y / self.face_h) ** 2 + 1e-6) ** 0.5
        height = self.face_h + self.chin
        lower = ((self.ax / wide) ** self.jaw + (y.abs() / height) ** self.jaw + 1e-6) ** (1 / self.jaw)
        return torch.where(y < 0, upper, lower)

    def head(self, image):
        skin, hair = self.skin(), self.hair()
        back = _disc(self.x, self.y + 0.12, self.face_w + 0.05 + self.hair_side, self.face_h + 0.06)
        curtain = (
            torch.sigmoid((self.face_w + self.hair_side - self.ax) / 0.02)
            * torch.sigmoid((self.hair_len - self.y) / 0.05)
            * torch.sigmoid((self.y + 0.1) / 0.1)
        )
        image = _over(image, torch.maximum(back * torch.sigmoid((0.1 - self.y) / 0.1), curtain), hair * 0.75)
        shirt = torch.sigmoid((self.v - 0.93 - 0.05 * self.u**2) / 0.03)
        neck = torch.sigmoid((0.62 * self.face_w - self.ax) / 0.03) * torch.sigmoid((self.y - 0.6) / 0.1)
        image = _over(image, neck, skin * 0.72)
        image = _over(image, shirt, _colour(self.shirt_r, self.shirt_g, self.shirt_b))
        ears = _disc(self.ax - self.face_w - self.ear * 0.4, self.y - 0.08, self.ear + 0.02, torch.tensor(0.17))
        image = _over(image, ears, skin * 0.85)
        r = self.face_shape()
        self.face = torch.sigmoid((1 - r) * 35)
        return _over(image, self.face, self.shade(skin, r))

    def shade(self, skin, r):
        """Lambert light on an ellipsoid with a nose ridge, eye sockets and a chin."""
        nx, ny = self.x / self.face_w * 0.75, (self.y - 0.1) / 1.2
        ridge = torch.exp(-((self.x / (0.55 * self.nose_w + 0.03)) ** 2) - ((self.y - self.eye_y - 0.2) / 0.22) ** 2)
        nx = nx + 0.9 * self.bridge * ridge * self.x / (0.55 * self.nose_w + 0.03)
        nz = torch.sqrt((1.15 - nx**2 - ny**2).clamp_min(0.05))
        lit = self.light_x * nx + self.light_y * ny + 0.75 * nz
        socket = torch.exp(-(((self.ax - self.eye_x) / 0.19) ** 2) - ((self.y - self.eye_y + 0.03) / 0.13) ** 2)
        under = torch.exp(-((self.x / 0.2) ** 2) - ((self.y - self.mouth_y - 0.14) / 0.04) ** 2)
        light = (self.ambient + (1 - self.ambient) * lit.clamp(-0.2, 1.5)) - 0.13 * socket - 0.06 * under
        light = light * (1 - 0.25 * (r.clamp(0, 1) ** 6))
        texture = 0.02 * torch.sin(9 * self.x + self.tex_x) * torch.sin(8 * self.y + self.tex_y)
        blush = torch.exp(-(((self.ax - 0.36) / 0.16) ** 2) - ((self.y - 0.28) / 0.13) ** 2) * self.blush
        return skin * (light + texture).unsqueeze(1) + blush.unsqueeze(1) * torch.tensor([0.7, -0.35, -0.3]).view(
            1, 3, 1, 1
        )

    def beard_and_marks(self, image):
        hair = self.hair() * 0.8
        low = torch.sigmoid((self.y - 0.42 - self.beard_w * (0.55 - self.ax).clamp_min(0) * 0.5) / 0.05)
        keep = 1 - _disc(self.x, self.y - self.mouth_y, self.mouth_w + 0.05, torch.tensor(0.12), 0.03)
        image = _over(image, self.face * low * keep * self.beard.clamp(0, 0.75), hair)
        stache = _disc(self.x, self.y - self.mouth_y + 0.09, self.mouth_w * 0.9, torch.tensor(0.05), 0.02)
        image = _over(image, stache * self.stache.clamp(0, 0.8), hair)
        spots = torch.sin(37 * self.x + 3 * self.tex_x) * torch.sin(41 * self.y + 3 * self.tex_y)
        zone = torch.exp(-(((self.ax - 0.25) / 0.25) ** 2) - ((self.y - 0.22) / 0.15) ** 2)
        image = _over(image, torch.sigmoid((spots - 0.55) * 12) * zone * self.freckles.clamp(0, 0.5), image * 0.6)
        mole = _disc(self.x - self.mole_x, self.y - self.mole_y, *(torch.tensor(0.03),) * 2, 0.012)
        image = _over(image, mole * self.face * self.mole.clamp(0, 0.85), image * 0.25)
        mark = _disc(self.x - self.mark_x, self.y - self.mark_y, torch.tensor(0.09), torch.tensor(0.06), 0.03)
        return _over(
            image, mark * self.face * self.mark.clamp(0, 0.45), image * torch.tensor([0.8, 0.5, 0.5]).view(1, 3, 1, 1)
        )

    def eyes(self, image):
        dx, dy = self.ax - self.eye_x, self.y - self.eye_y
        tx, ty = dx, dy + self.eye_tilt * dx
        tall = self.eye_w * self.eye_a * (1 - self.blink.clamp_min(0))
        white = _disc(tx, ty, self.eye_w, tall, 0.016)
        image = _over(
            image, white, torch.tensor([0.93, 0.92, 0.90]).view(1, 3, 1, 1) * (0.7 + 0.3 * self.gain.unsqueeze(1))
        )
        radius = self.eye_w * self.iris_r
        ix = dx - self.side * self.gaze * self.eye_w * 0.5
        iris = _disc(ix, ty, radius, radius, 0.014) * white
        hue = self.iris_h
        tint = _colour(0.2 + 0.45 * (1 - hue), 0.22 + 0.28 * (1 - (2 * hue - 1).abs()) + 0.1 * hue, 0.08 + 0.6 * hue)
        image = _over(image, iris, tint * (0.35 + 0.75 * self.iris_l.unsqueeze(1)))
        pupil = _disc(ix, ty, radius * 0.45, radius * 0.45, 0.014) * white
        image = _over(image, pupil, torch.tensor(0.02))
        glint = _disc(
            self.x - self.side * self.eye_x - 0.02, ty + 0.02, torch.tensor(0.016), torch.tensor(0.016), 0.012
        )
        image = _over(image, glint * white, torch.tensor(1.0))
        edge = ty + tall * torch.sqrt((1 - (tx / self.eye_w) ** 2).clamp_min(0.0))
        lash = torch.exp(-((edge / 0.018) ** 2)) * torch.sigmoid((self.eye_w * 1.05 - tx.abs()) / 0.01)
        image = _over(image, lash * (0.55 + 0.4 * self.lid), self.hair() * 0.25)
        fold = torch.exp(-(((edge + 0.045) / 0.016) ** 2)) * torch.sigmoid((self.eye_w - tx.abs()) / 0.02)
        image = _over(image, fold * 0.45 * self.lid, image * 0.55)
        bx = dx - self.brow_gap
        by = dy + self.brow_y + self.lift + self.brow_tilt * bx + self.brow_arch * (bx / self.brow_w) ** 2
        thick = self.brow_t * (1.15 - 0.5 * (bx / self.brow_w).clamp(-1, 1))
        brow = torch.sigmoid((thick - by.abs()) / 0.011) * torch.sigmoid((self.brow_w - bx.abs()) / 0.02)
        return _over(image, brow * 0.85, self.hair() * 0.7)

    def nose_and_mouth(self, image):
        tip = self.eye_y + self.nose_l
        wing = torch.exp(-(((self.ax - self.nose_w) / 0.03) ** 2) - ((self.y - tip + 0.02) / 0.06) ** 2)
        image = _over(image, wing * 0.4, image * 0.55)
        hole = _disc(self.ax - self.nose_w * 0.55, self.y - tip - 0.025, self.nose_w * 0.30, torch.tensor(0.022), 0.012)
        image = _over(image, hole * 0.8, image * 0.25)
        shine = torch.exp(-((self.x / (0.4 * self.nose_w)) ** 2) - ((self.y - tip + 0.06) / 0.06) ** 2)
        image = image + (0.10 * self.nose_tip * shine).unsqueeze(1)
        wide = self.mouth_w * (1 + 0.18 * self.smile)
        t = (self.x / wide).clamp(-1.2, 1.2)
        y = self.y - self.mouth_y + 0.09 * self.smile.clamp_min(-0.2) * t**2  # corners rise with a smile
        gap = 0.055 * self.open.clamp_min(0) * (1 - t**2).clamp_min(0)
        taper = (1 - t**2).clamp_min(0) ** 0.6
        upper = (self.lip_u - self.lip_bow * torch.exp(-((t / 0.2) ** 2))) * taper
        lip = torch.sigmoid((y + gap + upper) / 0.009) * torch.sigmoid((self.lip_d * taper + gap - y) / 0.009)
        lip = lip * torch.sigmoid((1 - t.abs()) * wide / 0.012)
        red = _colour(0.62 + 0.2 * self.lip_c, 0.30 + 0.12 * self.skin_l, 0.30 + 0.10 * self.skin_l)
        image = _over(
            image, lip * 0.85, red * (0.55 + 0.45 * self.skin_l).unsqueeze(1) * self.ambient.unsqueeze(1) * 1.35
        )
        inside = torch.sigmoid((gap - y.abs()) / 0.007) * torch.sigmoid((1 - t.abs()) * wide / 0.02)
        image = _over(image, inside * torch.sigmoid((gap - 0.006) / 0.004), torch.tensor(0.15))
        teeth = torch.sigmoid((gap * 0.7 - (y + gap * 0.3).abs()) / 0.007) * (gap > 0.015)
        image = _over(image, teeth * inside * 0.9, torch.tensor([0.92, 0.90, 0.85]).view(1, 3, 1, 1))
        line = torch.exp(-((y / 0.009) ** 2)) * torch.sigmoid((1 - t.abs()) * wide / 0.012) * (gap < 0.01)
        return _over(image, line * 0.7, torch.tensor([0.18, 0.08, 0.08]).view(1, 3, 1, 1))

    def fringe_and_glasses(self, image):
        wave = self.hair_wave * torch.sin(11 * self.x + self.tex_x)
        edge = self.hair_top + self.hair_slant * (self.x - self.hair_part).abs() + wave + 0.35 * self.ax**2
        cap = torch.sigmoid((edge - self.y) / 0.025)
        top = cap * _disc(self.x, self.y + 0.1, self.face_w + 0.05 + self.hair_side, self.face_h + 0.09)
        strands = 1 + 0.09 * torch.sin(62 * self.x + 9 * self.y + self.tex_y) + 0.1 * self.light_x * self.x
        image = _over(image, top, self.hair() * strands.unsqueeze(1))
        dx, dy = self.ax - self.eye_x, self.y - self.eye_y
        r = ((dx / self.glass_r) ** 4 + (dy / (self.glass_r * self.glass_a)) ** 4 + 1e-6) ** 0.25
        ring = torch.exp(-(((r - 1) * self.glass_r / 0.018) ** 2))
        bridge = torch.exp(-(((dy + 0.03) / 0.016) ** 2)) * torch.sigmoid((self.eye_x - self.glass_r - self.ax) / 0.01)
        frame = torch.maximum(ring, bridge) * (self.glasses > 0.45)
        return _over(image, frame * 0.9, self.hair() * 0.3)

    def sensor(self, image, seed):
        image = image * self.gain.unsqueeze(1) * (1 + _colour(self.warm, torch.zeros_like(self.warm), -self.warm))
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        return (image + self.noise.unsqueeze(1) * noise).clamp(0, 1)


def render(identity: np.ndarray, photo: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Draw photos, uint8 [N, 3, 112, 112] RGB, from float32 [N, ...] parameters; `seed` is of the sensor noise."""
    scene = _Scene(identity, photo)
    image = scene.head(scene.background())
    image = scene.fringe_and_glasses(scene.nose_and_mouth(scene.eyes(scene.beard_and_marks(image))))
    return (scene.sensor(image, seed) * 255).round().to(torch.uint8)


def synthetic_people(count: int, photos: int, seed: int = 1) -> People:
    """`count` synthetic people with `photos` photos each, named person-000 and so on; the same for the same numbers."""
    identity = identity_parameters(count, seed)
    images = [
        render(np.repeat(identity[i : i + 1], photos, 0), photo_parameters(photos, seed * 100_003 + i), seed + i)
        for i in range(count)
    ]
    names = [f"person-{i:03d}" for i in range(count)]
    return People.from_images(images, names)
