"""The embedded default: synthetic people (faces.py) and a small FR network trained on them (network.py, train.py)."""

from __future__ import annotations

from pathlib import Path

from veilkern.networks.face_model import FaceModel
from veilkern.samples.faces import synthetic_people

WEIGHTS = Path(__file__).parent / "sample_net.safetensors"

__all__ = ["load_model", "synthetic_people"]


def load_model() -> FaceModel:
    """The embedded network as a FaceModel: 128-d, 0.4 million parameters, trained on synthetic people only."""
    from safetensors.torch import load_file

    from veilkern.samples.network import SampleNet

    net = SampleNet()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(WEIGHTS).items()})
    return FaceModel(net, mean=(0.5,) * 3, std=(0.5,) * 3, name="veilkern sample network")
