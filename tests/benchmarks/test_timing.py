import pytest

from benchmarks.timing import geometric_mean, quartiles, timed


def test_geometric_mean_of_a_number_and_its_inverse_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_geometric_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        geometric_mean([])


def test_quartiles() -> None:
    assert quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_timed_calls_at_least_as_often_as_asked_and_keeps_few() -> None:
    calls = []
    assert len(timed(lambda: calls.append(None), 0.0, at_least=3)) == 3 == len(calls)
    many = timed(lambda: calls.append(None), 0.01)
    assert len(calls) > 200
    assert len(many) <= 24
