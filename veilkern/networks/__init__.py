"""FR architectures whose public checkpoints load by layout, and every other way to load a network."""

from veilkern.networks.ensemble import Ensemble
from veilkern.networks.ir import IR
from veilkern.networks.iresnet import IResNet
from veilkern.networks.loading import ARCHITECTURES, load
from veilkern.networks.mobilefacenet import MobileFaceNet

__all__ = ["ARCHITECTURES", "IR", "Ensemble", "IResNet", "MobileFaceNet", "load"]
