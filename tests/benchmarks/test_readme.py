from pathlib import Path

import pytest

from benchmarks import readme

RESULTS = {
    "machine": {
        "processor": "P", "llvm_name": "p", "cores": 2, "threads": 2, "vector_bits": 512, "memory_gib": 8, "system": "S",
        "python": "3", "versions": {"numpy": "2"}, "peak": 200.0, "copy": 30.0,
    },
    "models": {"mlp": {"firepot": {"train": [[1.0]]}, "torch": {"train": [[2.0]]}}},
}  # fmt: skip


def test_insert_replaces_only_what_is_between_the_markers() -> None:
    text = f"before\n{readme.START}\nold\n{readme.END}\nafter\n"
    once = readme.insert(text, "new\n")
    assert once == f"before\n{readme.START}\n\nnew\n\n{readme.END}\nafter\n"
    assert readme.insert(once, "new") == once


@pytest.mark.parametrize("text", ["", readme.START, f"{readme.END}{readme.START}", f"{readme.START}{readme.END}" * 2])
def test_insert_refuses_a_text_without_one_pair_of_markers(text: str) -> None:
    with pytest.raises(ValueError, match="must have one line"):
        readme.insert(text, "new")


def test_update_links_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"{readme.START}{readme.END}")
    readme.update(file, RESULTS, tmp_path / "benchmarks" / "results")
    text = file.read_text()
    assert "(benchmarks/results/networks.png)" in text
    assert "2.00 (2.00–2.00)" in text
