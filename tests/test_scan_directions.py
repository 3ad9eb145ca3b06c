import numpy as np
import pytest

from mepipe_model.ops.directions import DIRECTIONS, parse_scans, scan_inverse, scan_order

THREE = {
    "a": [0, 1, 2, 3, 4, 5, 6, 7, 8],
    "b": [0, 3, 6, 1, 4, 7, 2, 5, 8],
    "c": [0, 1, 2, 5, 4, 3, 6, 7, 8],
    "d": [0, 3, 6, 7, 4, 1, 2, 5, 8],
    "a_bi": [8, 7, 6, 5, 4, 3, 2, 1, 0],
    "b_bi": [8, 5, 2, 7, 4, 1, 6, 3, 0],
    "a_sy": [2, 1, 0, 5, 4, 3, 8, 7, 6],
    "b_sy": [2, 5, 8, 1, 4, 7, 0, 3, 6],
}
SEVEN_START = {
    "a": list(range(16)),
    "b": [0, 7, 14, 21, 28, 35, 42, 1, 8, 15, 22, 29, 36, 43, 2, 9],
    "c": [0, 1, 2, 3, 4, 5, 6, 13, 12, 11, 10, 9, 8, 7, 14, 15],
    "d": [0, 7, 14, 21, 28, 35, 42, 43, 36, 29, 22, 15, 8, 1, 2, 9],
    "a_sy": [6, 5, 4, 3, 2, 1, 0, 13, 12],
    "b_sy": [6, 13, 20, 27, 34, 41, 48, 5, 12],
}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_direction_visits_the_tokens_of_a_3x3_window_in_the_documented_order(direction):
    assert scan_order(direction, 3, 3).tolist() == THREE[direction]


@pytest.mark.parametrize("direction", SEVEN_START)
def test_a_direction_starts_as_documented_on_the_7x7_window(direction):
    start = SEVEN_START[direction]
    assert scan_order(direction, 7, 7)[: len(start)].tolist() == start


def test_only_the_vertical_snake_of_abcd_is_not_its_own_inverse():
    assert scan_inverse("d", 3, 3).tolist() == [0, 5, 6, 1, 4, 7, 2, 3, 8]
    for direction in "abc":
        assert np.array_equal(scan_inverse(direction, 7, 7), scan_order(direction, 7, 7))


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (1, 5), (5, 1), (3, 4), (4, 3), (2, 7)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_inverse_restores_token_order_on_any_size(direction, size):
    tokens = np.arange(size[0] * size[1]) * 10
    order, inverse = scan_order(direction, *size), scan_inverse(direction, *size)
    assert sorted(order.tolist()) == list(range(len(tokens)))
    assert np.array_equal(tokens[order][inverse], tokens)


@pytest.mark.parametrize("direction", ["c", "d"])
@pytest.mark.parametrize("size", [(7, 7), (3, 4), (4, 3)])
def test_a_snake_moves_between_neighbours_only(direction, size):
    rows, columns = np.divmod(scan_order(direction, *size), size[1])
    assert np.all(np.abs(np.diff(rows)) + np.abs(np.diff(columns)) == 1)


def test_no_two_of_the_asymmetric_directions_are_reversals_or_mirrors_of_each_other():
    orders = {name: scan_order(name, 7, 7) for name in "abcd"}
    for name, order in orders.items():
        mirrored = order - order % 7 + (6 - order % 7)
        for other in orders.values():
            assert not np.array_equal(order[::-1], other)
            assert not np.array_equal(mirrored, other), name


def test_a_cached_order_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        scan_order("a", 7, 7)[0] = 5


def test_scan_sets_parse_and_wrong_ones_are_refused():
    assert parse_scans("a+a_bi + b+b_bi") == ("a", "a_bi", "b", "b_bi")
    with pytest.raises(ValueError, match="must join directions of a, b"):
        parse_scans("a+e")
    with pytest.raises(ValueError, match="once"):
        parse_scans("a+b+a")
