from typing import Any

import pytest

from benchmarks import report


def row(**times: list[list[float]]) -> dict[str, dict[str, Any]]:
    return {name.replace("_", "-"): {"train": turns} for name, turns in times.items()}


def test_best_peer_is_the_quickest_that_is_not_firepot() -> None:
    measured = row(firepot=[[1.0]], firepot_eager=[[1.5]], torch=[[3.0], [3.2]], jax=[[2.0]])
    assert report.best_peer(measured, "train") == "jax"
    assert report.best_peer(row(firepot=[[1.0]]), "train") is None


def test_ratio_is_that_of_the_medians_with_quartiles_of_the_turns() -> None:
    low, middle, high = report.ratio(row(firepot=[[1.0], [2.0], [1.0]], torch=[[3.0], [4.0], [2.0]]), "train") or (0,) * 3
    assert middle == pytest.approx(3.0)  # 3 / 1
    assert (low, high) == pytest.approx((2.0, 2.5))  # of 3, 2 and 2


def test_ratio_of_a_missing_measurement_is_none() -> None:
    assert report.ratio(row(torch=[[3.0]]), "train") is None
    assert report.ratio(row(firepot=[[3.0]]), "train") is None


def test_times_table_keeps_losing_rows_failures_and_the_geometric_mean() -> None:
    rows = {"mlp": row(firepot=[[1.0]], torch=[[4.0]]), "gpt": row(firepot=[[4.0]], torch=[[1.0]])}
    rows["gpt"]["jax"] = {"error": "out of memory"}
    rows["mlp"]["jax"] = {"error": "not installed"}
    table = report.times_table(rows, "train")
    assert table[0] == ["ms", "Firepot", "PyTorch", "JAX", "best peer ÷ Firepot"]
    assert table[1] == ["mlp", "**1000**", "**4000**", "not installed", "4.00 (4.00–4.00)"]
    assert table[2] == ["gpt", "**4000**", "**1000**", "failed", "0.25 (0.25–0.25)"]
    assert table[3] == ["geometric mean", "", "", "", "**1.00**, lowest 0.25"]


def test_markdown_columns_are_aligned() -> None:
    text = report.markdown([["a", "long"], ["value", "1"]])
    assert text.splitlines() == ["| a     | long |", "| :---- | ---: |", "| value |    1 |"]


def test_first_steps_and_memory() -> None:
    rows: dict[str, Any] = {
        "mlp": {
            "firepot": {"first": {"cold": 1.5, "warm": 0.25}, "memory": 100.0},
            "torch": {"first": {"cold": 2.0}, "memory": 200.0},
        }
    }
    assert report.first_step_table(rows)[1] == ["mlp", "1.50 / 0.25", "2.00"]
    assert report.memory_table(rows)[1] == ["mlp", "100", "200", "0.50"]


def test_eager_sentence() -> None:
    rows = {"mlp": row(firepot=[[1.0]], firepot_eager=[[1.2]])}
    assert "takes 1.20 times as long" in report.eager_sentence(rows)
    assert report.eager_sentence({"mlp": row(firepot=[[1.0]])}) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1234"), (99.95, "100.0"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text
