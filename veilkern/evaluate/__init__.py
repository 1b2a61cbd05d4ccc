"""What protection achieves: measures (metrics, lpips, identification), intervals over people, galleries embedded once,
the whole evaluation (run) and its report (report)."""

from veilkern.evaluate.gallery import Gallery, build_gallery
from veilkern.evaluate.identification import Identification, identify
from veilkern.evaluate.intervals import Interval, interval
from veilkern.evaluate.lpips import Lpips
from veilkern.evaluate.metrics import contour, psnr, ssim
from veilkern.evaluate.run import Evaluation, evaluate
from veilkern.networks.matching import Verification, ranks_against, verify

__all__ = [
    "Evaluation",
    "Gallery",
    "Identification",
    "Interval",
    "Lpips",
    "Verification",
    "build_gallery",
    "contour",
    "evaluate",
    "identify",
    "interval",
    "psnr",
    "ranks_against",
    "ssim",
    "verify",
]
