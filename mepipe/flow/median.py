"""Selection networks: the median of a window as a fixed list of min/max operations.

A network has no branches and no indices that depend on the data, so it runs on whole images at
once.  Engines execute the program that :func:`median_program` returns, in which neighbouring windows share the
vertical sort of the five (or three) rows, or that of :func:`pair_program`, in which two neighbours share more.
"""

from __future__ import annotations

from functools import cache
from itertools import product, zip_longest
from typing import NamedTuple

import numpy as np


class Exchange(NamedTuple):
    """Put the smaller of wires ``low`` and ``high`` on ``low``, the larger on ``high``.

    keep_low, keep_high: whether that result is used later; what is not used need not be computed.
    """

    low: int
    high: int
    keep_low: bool = True
    keep_high: bool = True


def sorting_network(n: int) -> list[Exchange]:
    """Batcher's odd-even merge sort of wires 0..n-1 (Knuth, TAOCP 3, algorithm 5.2.2M)."""
    network = []
    top = p = 1 << ((n - 1).bit_length() - 1)
    while p > 0:
        q, r, d = top, 0, p
        while True:
            network += [Exchange(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return network


def prune(network: list[Exchange], wanted: set[int]) -> list[Exchange]:
    """``network`` without the operations that cannot reach the ``wanted`` wires."""
    live, kept = set(wanted), []
    for low, high, _, _ in reversed(network):
        if low in live or high in live:
            kept.append(Exchange(low, high, low in live, high in live))
            live |= {low, high}
    return kept[::-1]


def candidates(k: int) -> list[tuple[int, int]]:
    """The cells (row, column) of a k x k matrix, sorted along rows and columns, that can hold its median.

    Cell (i, j) has (i+1)(j+1)-1 cells that are surely not larger and (k-i)(k-j)-1 that are surely not smaller;
    with more than half the cells on one side it is not the median.  Sorting the columns and then the rows of a
    matrix leaves both sorted.
    """
    half = k * k // 2
    return [
        (i, j) for i in range(k) for j in range(k) if (i + 1) * (j + 1) - 1 <= half and (k - i) * (k - j) - 1 <= half
    ]


def shorten(network: list[Exchange], wire: int, k: int) -> list[Exchange]:
    """``network`` without exchanges that the median of k x k on ``wire`` does not need.

    The column sort leaves few cases: a network of min and max that is right for all zeros and ones (the 0-1
    principle: 6^5 matrices for k = 5) is right for all numbers, so an exchange may go if all stay right.
    """
    inputs = zero_one_columns(k)
    truth = sum(w.astype(np.int64) for w in inputs) > k * k // 2
    for i in reversed(range(len(network))):
        without = network[:i] + network[i + 1 :]
        if (run_on_bits(without, inputs)[wire] == truth).all():
            network = without
    return network


def zero_one_columns(k: int) -> list[np.ndarray]:
    """All k x k matrices of zeros and ones whose columns are sorted, as k*k wires of (k+1)^k bits each."""
    ones = np.array(list(product(range(k + 1), repeat=k)))  # (cases, column): how many ones at the bottom
    return [i >= k - ones[:, j] for i in range(k) for j in range(k)]


def run_on_bits(network: list[Exchange], wires: list[np.ndarray]) -> list[np.ndarray]:
    """The wires after ``network``; on bits, min is "and" and max is "or"."""
    wires = list(wires)
    for low, high, _, _ in network:
        wires[low], wires[high] = wires[low] & wires[high], wires[low] | wires[high]
    return wires


@cache
def median_program(k: int) -> tuple[list[Exchange], list[Exchange], int]:
    """(columns, rest, wire): how to take the median of a k x k window.

    columns: a sort of wires 0..k-1, to run over the k rows of the image around each row.
    rest: on k*k wires, wire i*k + j being row i of column j after the column sort; afterwards the median is
    on ``wire``.  As many cells are discarded at the low end as at the high end, so the median of the
    candidates is the median of the window.  For k = 5 the two parts are 114 min/max operations a pixel.
    """
    cells = candidates(k)
    wires = [i * k + j for i, j in cells]
    rows = [Exchange(i * k + e.low, i * k + e.high) for i in range(k) for e in sorting_network(k)]
    select = [Exchange(wires[e.low], wires[e.high]) for e in sorting_network(len(wires))]
    median = wires[len(wires) // 2]
    return sorting_network(k), prune(shorten(rows + select, median, k), {median}), median


def merging_network(a: list[int], b: list[int]) -> tuple[list[Exchange], list[int]]:
    """Batcher's odd-even merge of two sorted lists of wires: the network, and the wires in the order of their values.

    Knuth, TAOCP 3, section 5.3.4: merge the odd and the even elements, then exchange neighbours.
    """
    if not a or not b:
        return [], a + b
    if len(a) == len(b) == 1:
        return [Exchange(a[0], b[0])], [a[0], b[0]]
    first, evens = merging_network(a[::2], b[::2])
    second, odds = merging_network(a[1::2], b[1::2])
    network, order = first + second, evens[:1]
    for high, low in zip_longest(evens[1:], odds):
        if low is not None and high is not None:
            network.append(Exchange(low, high))
        order += [wire for wire in (low, high) if wire is not None]
    return network, order


@cache
def pair_program(k: int) -> tuple[list[Exchange], list[tuple[list[Exchange], list[int]]]]:
    """(sort, merges): how to take the medians of two neighbouring k x k windows at once.

    The windows share all but two of their 2 x k columns (or rows, where they are one above the other).  For columns
    0..k of such a pair
      sort       each column (shared by all windows that it is in)
      merge      columns 1 and 2, 3 and 4, ... and then what that gives, two by two, into one sorted list.  Its k + 1
                 values in the middle are the only ones that can be the median of either window
      pick       the median of those and of column 0 for the left pixel, of those and of column k for the right one:
                 the value at place k, which is the least of first[k] and max(first[i], other[j]) for i + j = k - 1
    sort: on wires 0..k-1.  merges: networks on two sorted lists, the second behind the first, and the wires that then
    hold what is wanted, in order.  For k = 5 the steps are 59 min/max operations a pixel, in place of 114.
    """
    merges: list[tuple[list[Exchange], list[int]]] = []
    length = k
    while True:
        network, order = merging_network(list(range(length)), list(range(length, 2 * length)))
        length *= 2
        if length == k * (k - 1):  # all columns that the two windows share
            half = k * k // 2
            middle = order[half - k : half + 1]
            return sorting_network(k), [*merges, (prune(network, set(middle)), middle)]
        merges.append((network, order))
