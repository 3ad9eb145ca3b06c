"""Can the main job run here? What is installed, what is missing, what to do about it."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mepipe.errors import MepipeError
from mepipe.settings import cores
from mepipe.workspace import versions

MUST, CAN = "must", "can"  # a failed "must" stops the main job; a failed "can" only narrows it


@dataclass(frozen=True)
class Finding:
    """One check. grade: must or can; do: what to install when it failed."""

    name: str
    grade: str
    ok: bool
    found: str
    do: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks of ``diagnose``."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(f.ok for f in self.findings if f.grade == MUST)

    def as_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "findings": [asdict(f) for f in self.findings]}

    def lines(self) -> list[str]:
        out = []
        for f in self.findings:
            mark = "ok  " if f.ok else ("MUST" if f.grade == MUST else "-   ")
            out.append(f"{mark} {f.name:16} {f.found}" + (f"\n     {'':16} do: {f.do}" if f.do and not f.ok else ""))
        return [*out, "the main job can run" if self.healthy else "the main job cannot run"]


def diagnose() -> Diagnosis:
    """Run every check; a check that fails is a finding, never an exception."""
    return Diagnosis(tuple(_checked(check) for check in CHECKS))


def _checked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (ImportError, OSError, AttributeError, RuntimeError, MepipeError) as e:
        name = check.__name__.strip("_").replace("_", "-")
        grade = MUST if check in NEEDED else CAN
        return Finding(name, grade, ok=False, found=f"{type(e).__name__}: {e}", do="reinstall it")


def _python() -> Finding:
    v = versions("mepipe")["mepipe"]
    return Finding("python", MUST, True, f"Python {platform.python_version()}, mepipe {v}, {cores()} cores")


def _libraries() -> Finding:
    names = ("numpy", "pandas", "h5py", "click", "tqdm", "openpyxl", "safetensors", "jinja2", "matplotlib", "numba")
    found = versions(*names)
    missing = [n for n in names if found[n] is None]
    text = ", ".join(f"{n} {found[n]}" for n in names if found[n])
    return Finding("libraries", MUST, not missing, text, f"pip install {' '.join(missing)}")


def _opencv() -> Finding:
    import cv2

    wheels = versions("opencv-contrib-python", "opencv-contrib-python-headless", "opencv-python",
                      "opencv-python-headless")  # fmt: skip
    there = ", ".join(f"{k} {v}" for k, v in wheels.items() if v and k.startswith("opencv"))
    ok = hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create")
    why = "" if ok else "; cv2.optflow is gone: another opencv wheel has overwritten opencv-contrib-python"
    do = (
        "pip uninstall -y opencv-python opencv-python-headless opencv-contrib-python && "
        "pip install opencv-contrib-python"
    )
    note = "; several wheels own cv2, the last one installed wins" if there.count("opencv") > 1 and ok else ""
    return Finding("opencv", MUST, ok, f"cv2 {cv2.__version__} from {there or 'an unknown wheel'}{why}{note}", do)


def _dlib() -> Finding:
    do = "pip install 'mepipe[dlib]' (prebuilt wheel, no compiler)"
    if find_spec("dlib") is None:
        return Finding("dlib", MUST, False, "absent: faces cannot be found with the default detector", do)
    dlib = importlib.import_module("dlib")
    v = versions("dlib-bin", "dlib")
    return Finding("dlib", MUST, True, f"dlib {dlib.__version__} ({'dlib-bin' if v['dlib-bin'] else 'own build'})")


def _landmarks() -> Finding:
    from mepipe.faces.landmarks import ENVIRONMENT, find_predictor

    path = find_predictor()
    do = f"pip install 'mepipe[dlib]', set ${ENVIRONMENT}, or pass --landmarks; without it crops come from the face box"
    return Finding("landmark-file", CAN, path is not None, str(path or "none: crops will be align=box"), do)


def _torch() -> Finding:
    import torch

    gpu = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU only"
    return Finding("torch", MUST, True, f"torch {torch.__version__}, {gpu}")


def _selective_scan() -> Finding:
    import torch

    from mepipe_model.ops import scan_backend

    name, why = scan_backend(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Finding("selective-scan", CAN, True, f"{name} ({why})")


def _mamba_ssm() -> Finding:
    ok = find_spec("selective_scan_cuda") is not None
    do = "only for CUDA: pip install 'mepipe[cuda]' on a machine with nvcc or a matching wheel"
    return Finding("mamba-ssm", CAN, ok, "its CUDA scan is importable" if ok else "absent; our own scan is used", do)


def _flow() -> Finding:
    from mepipe.flow.registry import resolve_engine

    engine, why = resolve_engine("auto")
    return Finding("flow-engine", MUST, True, why if engine else "none")


def _scikit_image() -> Finding:
    ok = find_spec("skimage") is not None
    found = "the photograph for made-up corpora is there" if ok else "absent: no mepipe synth, no mepipe demo"
    return Finding("synth", CAN, ok, found, "pip install 'mepipe[synth]'")


def _triton() -> Finding:
    found, do = versions("triton")["triton"], "only for GPUs on Linux: pip install 'mepipe[triton]'"
    text = f"triton {found}: GPU kernels of flow and scan" if found else "absent: plain torch on GPUs"
    return Finding("triton", CAN, found is not None, text, do)


def _svm() -> Finding:
    found = versions("scikit-learn")["scikit-learn"]
    text = f"scikit-learn {found}" if found else "absent: no bi_woof, no lbp_top"
    return Finding("svm", CAN, found is not None, text, "pip install 'mepipe[svm]'")


def _onnx() -> Finding:
    found = versions("onnx", "onnxruntime")
    ok = all(found[name] for name in ("onnx", "onnxruntime"))
    text = f"onnx {found['onnx']}, onnxruntime {found['onnxruntime']}" if ok else "absent: no export to ONNX"
    return Finding("export", CAN, ok, text, "pip install 'mepipe[export]'")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding("disk", CAN, free > 5e9, f"{free / 1e9:.0f} GB free here", "CASME II needs 0.3 GB of crops and flow")


CHECKS = (_python, _libraries, _opencv, _dlib, _landmarks, _torch, _selective_scan, _triton, _mamba_ssm, _flow,
          _scikit_image, _svm, _onnx, _disk)  # fmt: skip
NEEDED = (_python, _libraries, _opencv, _dlib, _torch, _flow)
