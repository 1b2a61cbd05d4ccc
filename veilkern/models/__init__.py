"""FR architectures whose public checkpoints load by layout, and every other way to load a network."""

from veilkern.models.ir import IR
from veilkern.models.iresnet import IResNet
from veilkern.models.loading import ARCHITECTURES, load
from veilkern.models.mobilefacenet import MobileFaceNet

__all__ = ["ARCHITECTURES", "IR", "IResNet", "MobileFaceNet", "load"]
