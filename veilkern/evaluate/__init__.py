"""What protection achieves: measures (metrics, identification), the whole evaluation (run) and its report (report)."""

from veilkern.evaluate.identification import Identification, identify
from veilkern.evaluate.metrics import contour, psnr, ssim
from veilkern.evaluate.run import Evaluation, evaluate
from veilkern.networks.matching import ranks_against

__all__ = ["Evaluation", "Identification", "contour", "evaluate", "identify", "psnr", "ranks_against", "ssim"]
