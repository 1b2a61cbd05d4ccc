"""InputSpec: what a network wants to be given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InputSpec:
    """What a network wants: photos of `size` (height, width), values up to `value_range` (1 or 255), then
    (x - mean) / std per channel in the network's order; bgr: that order is blue, green, red."""

    size: tuple[int, int] = (112, 112)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    value_range: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"FaceModel: size must be two positive integers (height, width), got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"FaceModel: mean and std must have three numbers, got {self.mean} and {self.std}")
        if min(self.std) <= 0 or self.value_range <= 0:
            raise ValueError(f"FaceModel: std and value_range must be positive, got {self.std} and {self.value_range}")

    @property
    def normalisation(self) -> dict[str, Any]:
        """mean, std and bgr as `ops.blend_normalize` takes them: for values in [0, 1], value_range folded in."""
        mean, std = ([value / self.value_range for value in values] for values in (self.mean, self.std))
        return {"mean": mean, "std": std, "bgr": self.bgr}
