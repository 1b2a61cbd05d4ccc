"""FR architectures whose public checkpoints load by layout, and every other way to load a network."""

from veilkern.networks.ensemble import Ensemble
from veilkern.networks.inception_resnet import InceptionResNet
from veilkern.networks.ir import IR
from veilkern.networks.iresnet import IResNet
from veilkern.networks.loading import ARCHITECTURES, load
from veilkern.networks.making import make
from veilkern.networks.mobilefacenet import MobileFaceNet
from veilkern.networks.mobilenet import MobileNet
from veilkern.networks.senet import SEResNet

__all__ = [
    "ARCHITECTURES",
    "IR",
    "Ensemble",
    "IResNet",
    "InceptionResNet",
    "MobileFaceNet",
    "MobileNet",
    "SEResNet",
    "load",
    "make",
]
