"""A small fixed budget of random programs, and whether the search finds and reduces a fault at all."""

from __future__ import annotations

import pytest

import firepot as fp
from conformance import random


def test_random_programs_agree_with_pytorch():
    done, found = random.findings(seed=1000, programs=9)
    assert done == 9
    assert not found, "\n".join(found)


def test_a_seed_draws_one_program():
    assert random.draw(5) == random.draw(5)


def test_a_fault_is_found_and_reduced(monkeypatch):
    right = fp.tanh
    monkeypatch.setattr(fp, "tanh", lambda x: right(x) * 1.01)
    lines = ["v0 = i0 + 1", "v1 = T.tanh(v0)", "v2 = v1.sum(0)"]
    sample = random.Sample([(3, 4), (4,)], lines, "float64", 0, 3)
    wrong = random.difference(sample, "recorded")
    assert wrong is not None
    assert "elements differ" in wrong
    small = random.reduced(sample, "recorded")
    assert small.lines == lines[:2]
    assert small.shapes == [(1, 1), (1,)]
    with pytest.raises(TypeError, match="takes"):  # it stands alone: the fault is met when the text is run
        monkeypatch.setattr(fp, "tanh", lambda: None)
        exec(small.source(), {})
