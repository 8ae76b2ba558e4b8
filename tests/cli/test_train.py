"""The command line: training, an interruption, going on number for number, predicting, errors in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import firepot as fp
from firepot.cli import main
from firepot.vision.datasets import Digits


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "firepot.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_an_interrupted_training_ends_at_the_same_numbers(tmp_path: Path) -> None:
    settings = ("train", "--epochs", "2", "--batch-size", "100", "--model", "lenet")
    whole = start(*settings, "--output", str(tmp_path / "whole"))
    code, out, err = finish(whole)
    assert code == 0, err
    assert "test accuracy" in out

    broken = start(*settings, "--output", str(tmp_path / "broken"))
    metrics = tmp_path / "broken" / "metrics.jsonl"
    while not metrics.exists() and broken.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    broken.send_signal(signal.SIGINT)
    code, out, err = finish(broken)
    assert code == 130, err
    assert "--resume" in out
    code, _, err = finish(start("train", "--resume", str(tmp_path / "broken")))
    assert code == 0, err

    a, b = (fp.load(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "broken"))
    assert a["history"] == b["history"]
    for name, value in a["model"].items():
        np.testing.assert_array_equal(value.numpy(), b["model"][name].numpy())
    lines = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "lr" in row] == list(range(1, 81))
    for file in ("configuration.json", "curves.png", "confusion.png", "report.html", "best.safetensors"):
        assert (tmp_path / "whole" / file).stat().st_size > 0

    digits = Digits(train=False)
    for i in range(3):
        Image.fromarray(digits.images[i, ..., 0]).save(tmp_path / f"{i}.png")
    code, out, err = finish(start("predict", str(tmp_path / "whole"), *(str(tmp_path / f"{i}.png") for i in range(3))))
    assert code == 0, err
    assert [line.split(": ")[1][0] for line in out.splitlines()] == [str(digits.labels[i]) for i in range(3)]


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--data", "no/such/folder"], "no data set 'no/such/folder'"),
    (["train", "--resume", "no/such/run"], "there is no checkpoint"),
    (["predict", "no/such/run", "x.png"], "there is no checkpoint"),
])  # fmt: skip
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_truncated_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.safetensors"
    fp.save({"weight": fp.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])
    assert main(["predict", str(path), "x.png"]) == 1
    assert "cut.safetensors: not a whole safetensors file" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "compilation  works" in capsys.readouterr().out
