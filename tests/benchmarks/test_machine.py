import subprocess
import sys

from benchmarks import machine


def test_the_watch_does_not_count_the_callers_own_work() -> None:
    watch = machine.Watch()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    own = watch.others()
    assert 0 <= own <= 1
    watch.busy -= 1000.0  # as if others had worked for so long
    assert watch.others() > own


def test_warning_names_what_was_disturbed() -> None:
    text = machine.warning({"mlp": 0.01, "gpt train": 0.25})
    assert "25 % during gpt train" in text
    assert "mlp" not in text
    assert machine.warning({"mlp": 0.01}) == ""
