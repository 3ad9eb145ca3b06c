"""`frequency`: Li, Huang and Zhao, "Can micro-expression be recognized based on single apex frame?", ICIP 2018.

Verified in the authors' published code: LBP code images; 30 copies of the first and the last frame at the
ends; a window of 61 frames around each frame; 6x6 blocks; per block a 3D FFT, an ideal high-pass D >= 31
in index units from the centre, and A_i = sum over blocks of sum |F H|; the apex is the peak of A_i.

Our reading: blocks are 37 px of the 222 px code image.  The transform is the authors' to rounding, but not
computed window by window: with blocks of 37 px only temporal frequencies of 18 and more lie that far out,
so the spatial FFT is taken once a frame and those 13 frequencies slide over time.  About 8 ms a frame.
"""

from __future__ import annotations

import numpy as np

from mepipe.apex.base import spotter
from mepipe.apex.lbp import codes

BLOCKS = 6
REACH = 30  # frames on either side of the one in question
WINDOW = 2 * REACH + 1
CUT = (WINDOW + 1) / 2  # D0


@spotter("frequency")
def frequency(crops: np.ndarray) -> np.ndarray:
    """High-frequency energy around every frame, (N,): the sum of |F H| over blocks, see the module."""
    spectra, radius = block_spectra(codes(crops))
    out = np.zeros(len(crops))
    for k in range(REACH + 1):
        beyond = radius**2 + k**2 >= CUT**2
        if beyond.any():
            # a real signal's spectrum at -k mirrors that at k: only k = 0 counts once
            out += (2 if k else 1) * sliding_magnitude(spectra[:, :, beyond], k)
    return out


def block_spectra(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2D spectrum of every block of every frame, and how far each of its points lies from the centre.

    images (N, H, W) uint8.  Returns (N, blocks, side, side) complex64 and (side, side) float64.
    """
    side = images.shape[1] // BLOCKS
    cut = images[:, : side * BLOCKS, : side * BLOCKS].astype(np.float32)
    blocks = cut.reshape(-1, BLOCKS, side, BLOCKS, side).transpose(0, 1, 3, 2, 4).reshape(-1, BLOCKS**2, side, side)
    index = np.fft.fftfreq(side) * side
    return np.fft.fft2(blocks).astype(np.complex64), np.hypot(index[:, None], index[None])


def sliding_magnitude(signal: np.ndarray, k: int) -> np.ndarray:
    """Sum of |temporal DFT at k| over the window around every frame: signal (N, ...) complex -> (N,) float64.

    Moving the window by a frame takes one sample out and one in and turns the phase.
    """
    n = len(signal)
    at = np.clip(np.arange(-REACH, n + REACH), 0, n - 1)  # frames of the padded sequence
    phases = np.exp(-2j * np.pi * k * np.arange(WINDOW) / WINDOW).astype(np.complex64)
    turn = np.complex64(np.exp(2j * np.pi * k / WINDOW))
    weights = np.zeros(n, np.complex64)
    np.add.at(weights, at[:WINDOW], phases)
    now = np.tensordot(weights, signal, 1)
    out = [np.abs(now).sum(dtype=np.float64)]
    for i in range(1, n):
        now = (now - signal[at[i - 1]] + signal[at[i - 1 + WINDOW]]) * turn
        out.append(np.abs(now).sum(dtype=np.float64))
    return np.array(out)
