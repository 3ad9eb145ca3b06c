"""What an engine is: one way to compute the same TV-L1.

An engine implements ``solve`` on padded images; padding, cropping, batching and the magnitude
are done here once.  The agreement tests run over every engine that is registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mepipe.flow.images import check_initial, check_pair, crop, gaussian, pad_replicate, with_magnitude
from mepipe.flow.params import TVL1Params
from mepipe.workspace import versions

REVISION = 3  # raised when a change of ours changes the numbers of some engine
_OPENCV_WHEELS = (  # the wheels that can own ``cv2``; the one with optflow first
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)


class Engine(ABC):
    """One way to compute TV-L1.  name: as registered; device: "cpu", "cuda:0", ...

    batch: how many pairs ``solve`` likes to be given at once; any number is accepted.
    callers: how many threads may best call it at the same time with one pair each; 0 where batches are better.
    """

    name: str
    depends_on: tuple[str, ...]  # the entries of ``versions`` that can change a result
    device: str = "cpu"
    batch: int = 1
    callers: int = 0

    def flow(
        self,
        onset: np.ndarray,
        apex: np.ndarray,
        params: TVL1Params | None = None,
        initial: np.ndarray | None = None,
    ) -> np.ndarray:
        """(B, H, W) pairs -> (B, 3, H, W) float32: u (px, right), v (px, down), magnitude (px).

        ``onset(x) ~ apex(x + flow(x))``.  A pair's result does not depend on what else is in the batch.
        initial: (B, 2 or 3, H, W) float32 to start from.  Raises UsageError or DataError for a wrong input.
        """
        params = params or TVL1Params()
        shape = np.shape(onset)
        onset, apex = check_pair(onset, apex)
        start = None if initial is None else check_initial(initial, shape)
        out = np.empty((len(onset), 3, *onset.shape[1:]), np.float32)

        def some(i: int) -> None:
            part = slice(i * self.batch, (i + 1) * self.batch)
            out[part] = self._flow(onset[part], apex[part], params, None if start is None else start[part])

        # padding and magnitude in the threads too: done before and after them, they cost two cores 3 to 9 %
        for_each(some, -(-len(onset) // self.batch), self.callers or 1)
        return out

    def _flow(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        pad = params.pad
        onset, apex = gaussian(onset, params.smooth), gaussian(apex, params.smooth)
        start = None if initial is None else pad_replicate(initial, pad)
        flow = self.solve(pad_replicate(onset, pad), pad_replicate(apex, pad), params.resolved(), start)
        return with_magnitude(crop(flow, pad))

    @abstractmethod
    def solve(self, onset: np.ndarray, apex: np.ndarray, params: TVL1Params, initial: np.ndarray | None) -> np.ndarray:
        """(B, H, W) uint8 or float32 in 0..1, already filtered and padded -> (B, 2, H, W) float32 u, v.

        params: resolved; smooth, pad and fixed have been dealt with.  initial: (B, 2, H, W) float32 or None.
        """

    def versions(self) -> dict[str, str | None]:
        """What is installed, for the record: mepipe, numpy, opencv, torch, and what the engine adds."""
        found = versions("numpy", "torch", *_OPENCV_WHEELS)
        wheels = [found.pop(wheel) for wheel in _OPENCV_WHEELS]
        return {**found, "opencv": next((v for v in wheels if v), None)}

    def identity(self) -> dict[str, str | int | None]:
        """What a flow's numbers depend on besides its images and parameters; for the key of a sample.

        Fewer things than ``versions``: a new torch does not make flow by OpenCV stale.
        """
        installed = self.versions()
        return {"engine": self.name, "revision": REVISION, **{name: installed[name] for name in self.depends_on}}


def for_each(work: Callable[[int], None], count: int, threads: int) -> None:
    """work(0) to work(count - 1) on ``threads`` threads; on the caller's own when there is nothing to share."""
    if min(count, threads) == 1:
        for i in range(count):
            work(i)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(count)):
            pass
