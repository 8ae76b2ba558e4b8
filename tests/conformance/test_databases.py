"""A few entries of PyTorch's databases of modules and optimisers, and what the page tells of results."""

from __future__ import annotations

import pytest
import torch

from conformance import modules, optimizers, report


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Linear", "Conv2d", "BatchNorm2d", "LSTM", "MultiheadAttention", "Embedding", "CrossEntropyLoss"])
def test_samples_of_modules_agree_with_pytorch(name: str) -> None:
    torch.manual_seed(0)
    result = modules.check(modules.entries()[name], samples=2)
    assert report.passes(result), "\n".join(report.lines(result))
    assert result["checks"]["training"]["passed"] == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["SGD", "AdamW", "LBFGS"])
def test_steps_of_optimisers_agree_with_pytorch(name: str) -> None:
    torch.manual_seed(0)
    result = optimizers.check(optimizers.entries()[name], samples=2)
    assert report.passes(result), "\n".join(report.lines(result))
    assert result["checks"]["parameters"]["passed"] == 2


def test_the_page_counts_and_tells_reasons() -> None:
    good = {"passed": 2, "failed": 0, "skipped": 0, "reasons": [], "skips": []}
    bad = {"passed": 1, "failed": 1, "skipped": 1, "reasons": ["1 of 3 elements differ"], "skips": ["sparse tensors"]}
    results = {
        ("module", "A"): {"entry": "A", "checks": {"training": good}, "tree": "abc", "samples": None},
        ("module", "B"): {"entry": "B", "checks": {"training": bad}, "tree": "abc", "samples": 2},
        ("module", "C"): {"entry": "C", "missing": "not written yet"},
        ("module", "D"): {"entry": "D", "waiting": True},
    }
    text = report.section(results, "module")
    assert "2 of 4 entries are provided; 1 of them pass every check." in text
    assert "| training | 1 of 2 | 3 of 4 |" in text
    assert "- `B`\n  - training 1/2: 1 of 3 elements differ" in text
    assert "- not written yet: `C`" in text
    assert "1 entries have not been checked since they may have changed: `D`." in text
    assert "- `D`" not in text
    assert "sparse tensors (1)" in text
