"""The command line: training, an interruption, going on number for number, predicting, errors in one line."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

import firepot as fp
from firepot.cli import extras, main
from firepot.vision import datasets
from firepot.vision.datasets import Digits


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "firepot.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def scalars(folder: Path) -> list[tuple[str, int]]:
    """(name, step) of every scalar in the TensorBoard event files, read record by record."""
    found = []
    for path in folder.glob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):  # a length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            at += 16 + length
    return found


def test_an_interrupted_training_ends_at_the_same_numbers(tmp_path: Path) -> None:
    settings = ("train", "--epochs", "2", "--batch-size", "100", "--augment", "mixup")
    whole = start(*settings, "--output", str(tmp_path / "whole"))
    code, out, err = finish(whole)
    assert code == 0, err
    assert err == ""
    assert [line.split(":")[0] for line in out.splitlines()[1:3]] == ["epoch 1/2", "epoch 2/2"]
    assert out.splitlines()[-1].startswith("test accuracy")

    broken = start(*settings, "--output", str(tmp_path / "broken"), "--workers", "2")
    metrics = tmp_path / "broken" / "metrics.jsonl"
    while not metrics.exists() and broken.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    broken.send_signal(signal.SIGINT)
    code, out, err = finish(broken)
    assert code == 130, err
    assert "--resume" in out
    code, _, err = finish(start("train", "--resume", str(tmp_path / "broken"), "--workers", "1"))
    assert code == 0, err

    a, b = (fp.load(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "broken"))
    assert a["history"] == b["history"]
    for name, value in a["model"].items():
        np.testing.assert_array_equal(value.numpy(), b["model"][name].numpy())
    assert metrics.read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in lines if "lr" in row] == list(range(1, 81))
    expected = [("step/loss", step) for step in range(1, 81)] + [("epoch/test_accuracy", step) for step in (40, 80)]
    for folder in ("whole", "broken"):
        shown = [s for s in scalars(tmp_path / folder) if s[0] in ("step/loss", "epoch/test_accuracy")]
        assert sorted(shown) == sorted(expected)
        for file in ("configuration.json", "curves.png", "confusion.png", "report.html", "best.safetensors"):
            assert (tmp_path / folder / file).stat().st_size > 0
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "src=\"data:image/png;base64," in page and "http" not in page

    digits = Digits(train=False)
    for i in range(3):
        Image.fromarray(digits.images[i, ..., 0]).save(tmp_path / f"{i}.png")
    (tmp_path / "empty.png").touch()
    images = [str(tmp_path / f"{name}.png") for name in (0, "empty", 1, "missing", 2)]
    code, out, err = finish(start("predict", str(tmp_path / "whole"), *images, "--top", "1"))
    assert code == 1
    assert [line.split(": ")[1][0] for line in out.splitlines()] == [str(digits.labels[i]) for i in range(3)]
    assert all(line.count(",") == 0 for line in out.splitlines())
    assert "empty.png: the file is empty" in err and "missing.png: No such file or directory" in err

    for arguments, message in (
        (["train", "--resume", str(tmp_path / "whole"), "--lr", "0.5"], "--lr 0.5 does not fit --resume"),
        (["train", "--output", str(tmp_path / "whole")], "holds a training"),
    ):
        code, out, err = finish(start(*arguments))
        assert (code, out) == (1, "") and message in err


def test_in_bfloat16(tmp_path: Path) -> None:
    settings = ["train", "--epochs", "1", "--batch-size", "100", "--augment", "none", "--output"]
    losses = []
    for precision in ("float32", "bfloat16"):
        assert main([*settings, str(tmp_path / precision), "--precision", precision]) == 0
        rows = [json.loads(line) for line in (tmp_path / precision / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    exact, lower = losses
    assert lower != exact and lower[-1] < 0.8 * lower[0]
    np.testing.assert_allclose(lower, exact, rtol=0.1)
    weights = fp.load(tmp_path / "bfloat16" / "checkpoint.safetensors")["model"].values()
    assert all(t.dtype is not fp.bfloat16 for t in weights)


def test_a_lacking_extra_is_told_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "matplotlib" else name)
    assert main(["train"]) == 1
    assert "needs matplotlib, not installed here: pip install 'firepot[train]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_image_on_the_way_keeps_what_was_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(15):
            noise = np.random.default_rng(i).integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(noise).save(tmp_path / "data" / name / f"{i}.png")
    monkeypatch.setattr(datasets, "_IN_MEMORY_BYTES", 0)  # so that files are read as they are needed
    arguments = ["train", "--data", str(tmp_path / "data"), "--epochs", "1", "--batch-size", "4"]
    bad = tmp_path / "data" / "b" / "4.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:400])
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr().err
    assert "b/4.png: the image is damaged" in shown and "the newest checkpoint is of step" in shown
    bad.write_bytes(good)
    assert main(["train", "--resume", str(tmp_path / "out")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    a, b = (fp.load(tmp_path / name / "checkpoint.safetensors") for name in ("out", "whole"))
    assert a["history"] == b["history"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--data", "no/such/folder"], "no data set 'no/such/folder'"),
    (["train", "--resume", "no/such/run"], "there is no checkpoint"),
    (["predict", "no/such/run", "x.png"], "there is no checkpoint"),
    (["train", "--output", "/proc/no"], "/proc/no"),
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


def test_wrong_arguments_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["train", "--lr", "0"], "must be above 0"), (["train", "--label-smoothing", "1"], "0 or more, below 1"),
        (["train", "--workers", "-1"], "0 or more"), (["train", "--model", "alexnet"], "invalid choice"),
        (["predict", "x", "y", "--top", "0"], "1 or more"), ([], "COMMAND"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
