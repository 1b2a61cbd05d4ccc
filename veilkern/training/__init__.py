"""Training face-recognition networks: photos in, a head's loss, a network's file out. Needs the extra `train`."""

from veilkern.training.config import TrainConfig
from veilkern.training.result import TrainResult
from veilkern.training.run import TrainInterrupted, train

__all__ = ["TrainConfig", "TrainInterrupted", "TrainResult", "train"]
