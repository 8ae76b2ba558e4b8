"""What of a graph decides its program."""

from __future__ import annotations

import firepot as fp
from firepot.compiler.simplify import structure


def test_a_computed_constant_stays_a_constant() -> None:
    x = fp.arange(4, dtype=fp.float32)
    fp.eval(x)
    zero = fp.zeros(())  # shares its node with the 0 in the comparison below

    def key() -> object:
        return structure([(x > 0.0)._node])[0]

    pending = key()
    assert zero.item() == 0
    assert key() == pending
    _, leaves, _ = structure([(x > 0.0)._node])
    assert leaves == [x._node]
