import json
from pathlib import Path

from benchmarks.__main__ import main


def test_a_small_run_from_the_command_line_to_the_tables(tmp_path: Path) -> None:
    arguments = ["--models", "mlp", "--peers", "firepot", "--rounds", "1", "--seconds", "0.01", "--output", str(tmp_path)]
    main([*arguments, "--parts", "first", "train", "autocast"])
    main([*arguments, "--parts", "infer", "--keep"])
    measured = json.loads((tmp_path / "networks.json").read_text())["models"]["mlp"]["firepot"]
    assert "error" not in measured
    assert measured["first"]["warm"] > 0
    assert measured["first"]["cold"] > 0
    assert 20 < measured["memory"] < 4000
    for quantity in ("train", "autocast", "infer1", "infer32"):
        assert all(0 < t < 60 for turn in measured[quantity] for t in turn)
    assert "### Inference, batch 32" in (tmp_path / "README.md").read_text()
