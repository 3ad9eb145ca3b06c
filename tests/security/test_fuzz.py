"""300 mutated inputs to every parser of strangers' bytes; ``benchmarks/fuzz.py`` gives each 10,000 and more."""

from __future__ import annotations

import random

import pytest

from security.fuzzing import fuzz, mutated
from security.targets import TARGETS

INPUTS = 300


@pytest.mark.slow
def test_every_parser_gives_a_value_or_one_of_our_errors():
    results = fuzz(list(TARGETS), INPUTS)
    assert all(r.tried == INPUTS for r in results)
    assert not {r.target: r.lost for r in results if r.lost}
    # inputs that are all refused, or all taken, would say nothing of a parser
    one_sided = {r.target: r.refused for r in results if not 10 <= r.refused < INPUTS}
    assert not one_sided


@pytest.mark.parametrize(("parser", "said"), [
    ("raises", "ZeroDivisionError: x"), ("crashes", "died of SIGSEGV"), ("exits", "died of 3"),
    ("hangs", "no answer in 1 s"), ("two lines", "an error of several lines"),
])  # fmt: skip
def test_the_harness_sees_what_a_parser_must_not_do(parser, said):
    (result,) = fuzz([parser], 8, "security.planted", seconds=1.0)
    assert result.tried == 8
    assert set(result.lost.values()) == {said}
    assert result.survived == 8 - len(result.lost)
    assert result.row()["lost"] == len(result.lost)


def test_a_parser_that_refuses_loses_nothing():
    (result,) = fuzz(["refuses"], 20, "security.planted")
    assert (result.tried, result.lost) == (20, {})
    assert 0 < result.refused < 20


def test_mutations_follow_from_their_number_and_differ():
    sound = [bytes(range(256)) * 4, b"subject,clip\n1,2\n" * 9]
    made = [mutated(sound, random.Random(f"x {n}")) for n in range(300)]
    assert made == [mutated(sound, random.Random(f"x {n}")) for n in range(300)]
    assert len(set(made)) > 280
