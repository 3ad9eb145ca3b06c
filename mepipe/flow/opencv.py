"""Engine ``opencv``: cv2.optflow's own DualTVL1, the algorithm every other engine follows.

cv2 >= 5 samples the warped image exactly; 4.x rounds positions to 1/32 px and gives flows that
differ by about 0.015 px (docs/flow.md), so the version goes into every shard.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from mepipe.errors import MepipeError
from mepipe.flow.engine import Engine
from mepipe.flow.params import TVL1Params
from mepipe.flow.registry import cpu_only
from mepipe.settings import cores


class OpenCVEngine(Engine):
    """cv2.optflow.DualTVL1OpticalFlow, one pair per thread (``calc`` releases the GIL).

    threads: how many pairs at once; None is every core this process may use.
    """

    name = "opencv"
    depends_on = ("opencv",)

    def __init__(self, device: str | None = None, threads: int | None = None) -> None:
        cpu_only(self.name, device)
        self._cv2 = import_optflow()
        self.callers = threads or cores()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.device, self.callers)

    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        out = np.empty((len(onset), 2, *onset.shape[1:]), np.float32)
        with one_thread_each(self._cv2):
            for i in range(len(onset)):
                start = None if initial is None else np.ascontiguousarray(initial[i].transpose(1, 2, 0))
                flow = self._solver(params, start is not None).calc(onset[i], apex[i], start)
                out[i] = flow.transpose(2, 0, 1)
        return out

    def _solver(self, params: TVL1Params, use_initial: bool) -> Any:
        """A new object for each pair, which costs nothing against the solve.

        Threads cannot share its buffers, and ``calc`` on a small image lowers its number of scales for good.
        """
        solver = self._cv2.optflow.DualTVL1OpticalFlow_create()
        solver.setTau(params.tau)
        solver.setLambda(params.lambda_)
        solver.setTheta(params.theta)
        solver.setScalesNumber(params.nscales)
        solver.setWarpingsNumber(params.warps)
        solver.setEpsilon(params.epsilon)
        solver.setInnerIterations(params.inner)
        solver.setOuterIterations(params.outer)
        solver.setScaleStep(params.scale_step)
        solver.setGamma(params.gamma)
        solver.setMedianFiltering(params.median)
        solver.setUseInitialFlow(use_initial)
        return solver

    def versions(self) -> dict[str, str | None]:
        return {**super().versions(), "opencv": self._cv2.__version__}


_callers = 0  # in one_thread_each at this moment
_threads_before = 0
_lock = threading.Lock()


@contextlib.contextmanager
def one_thread_each(cv2: Any) -> Iterator[None]:
    """OpenCV computes with one thread: pairs in parallel scale better than rows of one pair (1.96x against 1.5-1.9x).

    Its number of threads is global, so the first caller saves it and the last one puts it back.
    """
    global _callers, _threads_before
    with _lock:
        if _callers == 0:
            _threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _callers += 1
    try:
        yield
    finally:
        with _lock:
            _callers -= 1
            if _callers == 0:
                cv2.setNumThreads(_threads_before)


def import_optflow() -> Any:
    """cv2 with its contrib module optflow.  Raises MepipeError where another wheel has overwritten it."""
    try:
        import cv2
    except ImportError as e:
        raise MepipeError(f"OpenCV cannot be imported ({e})", do="pip install opencv-contrib-python") from e
    if not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        raise MepipeError(
            f"this cv2 ({cv2.__version__}) has no optflow module: opencv-python, which another package brought in, "
            "has overwritten opencv-contrib-python",
            do="pip uninstall -y opencv-python opencv-python-headless opencv-contrib-python && "
            "pip install opencv-contrib-python",
        )
    return cv2
