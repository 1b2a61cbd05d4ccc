"""What protection achieves: measures (metrics, identification), the whole evaluation (run) and its report (report)."""

from veilkern.evaluate.identification import Identification, identify, ranks_against
from veilkern.evaluate.metrics import contour, psnr, ssim
from veilkern.evaluate.run import Evaluation, evaluate

__all__ = ["Evaluation", "Identification", "contour", "evaluate", "identify", "psnr", "ranks_against", "ssim"]
