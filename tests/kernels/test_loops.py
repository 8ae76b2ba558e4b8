"""Loop nests as people read them."""

from __future__ import annotations

from textwrap import dedent

from firepot.graph.dtypes import bool_, float32, int64
from firepot.graph.index import Axis, Computed, Index
from firepot.kernels.loops import CheckedIndex, Const, Finished, Guard, Load, Nest, Op, Reduce, Reduced, Store

I, J = Axis("i", 4), Axis("j", 6)
AT = Index.of(I) * 6 + Index.of(J)


def test_a_softmax_reads_as_written():
    x = Load(0, AT, float32)
    largest = Reduce("max", x, (J,), float32)
    e = Op("exp", (Op("sub", (x, Reduced(largest, float32)), float32),), float32)
    total = Reduce("sum", e, (J,), float32)
    share = Op("div", (e, Reduced(total, float32)), float32)
    nest = Nest((I,), (largest, total, Store(1, AT, share, (J,))), ((float32, 24), (float32, 24)))
    assert str(nest) == dedent("""\
        nest(p0: float32[24], p1: float32[24])
          for i < 4:
            r0 = max[j < 6] p0[6*i + j]
            e0 = exp(p0[6*i + j] - r0)
            r1 = sum[j < 6] e0
            for j < 6: p1[6*i + j] = e0 / r1""")


def test_guards_positions_and_run_time_indices():
    row = CheckedIndex(Load(0, Index.of(I), int64), 9, 0, int64)
    inside = Index.of(J) - 1
    value = Guard(((inside, 4),), Load(1, Index.of(Computed(row, 9)) * 4 + inside, float32), Const(0.0, float32), float32)
    kept = Op("where", (Op("lt", (value, Const(1.0, float32)), bool_), value, Const(2.0, float32)), float32)
    nest = Nest((I, J), (Store(2, (AT // 4) * 4 + AT % 4, kept),), ((int64, 4), (float32, 36), (float32, 24)))
    assert str(nest).splitlines()[3:] == [
        "      e0 = p1[4*check(p0[i], 9) + j - 1] if 0 <= j - 1 < 4 else 0.0",
        "      p2[4*((6*i + j) // 4) + ((6*i + j) % 4)] = where(e0 < 1.0, e0, 2.0)",
    ]


def test_a_shared_expression_is_written_once():
    x = Load(0, Index.of(I), float32)
    for _ in range(60):  # as a tree this has 2**60 leaves
        x = Op("add", (x, x), float32)
    lines = str(Nest((I,), (Store(1, Index.of(I), x),), ((float32, 4), (float32, 4)))).splitlines()
    assert len(lines) == 2 + 59 + 1
    assert lines[-1].strip() == "p1[i] = e58 + e58"


def test_what_follows_a_product():
    relu = Op("relu", (Op("add", (Finished((I, J), float32), Load(0, Index.of(J), float32)), float32),), float32)
    nest = Nest((I, J), (Store(1, AT, relu),), ((float32, 6), (float32, 24)))
    assert str(nest).splitlines()[-1].strip() == "p1[6*i + j] = relu(product + p0[j])"
