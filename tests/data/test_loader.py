"""The loader: order, randomness, resumption, workers and their failures."""

import functools
import json
import operator
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

import firepot as fp
from firepot.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    get_worker_info,
    sample_random,
)


class Noisy(Dataset):
    def __len__(self):
        return 22

    def __getitem__(self, index):
        return {"value": np.full(3, index + sample_random().random()), "index": index, "name": f"s{index}"}


class Stream(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return iter(range(first, 20, step))

    def __len__(self):
        return 20


def batches(loader, epochs=2):
    return [plain(batch) for _ in range(epochs) for batch in loader]


def plain(batch):
    return batch["value"].numpy().tolist(), batch["index"].tolist(), batch["name"]


def test_sequential_batches_are_the_samples_in_order():
    loader = DataLoader(TensorDataset(np.arange(10), np.arange(10) * 2.0), batch_size=4)
    seen = [(a.tolist(), b.tolist()) for a, b in loader]
    assert seen == [([0, 1, 2, 3], [0, 2, 4, 6]), ([4, 5, 6, 7], [8, 10, 12, 14]), ([8, 9], [16, 18])]
    assert len(loader) == 3
    assert [len(a) for a, _ in DataLoader(loader.dataset, 4, drop_last=True)] == [4, 4]


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 3, "persistent_workers": True}])
def test_workers_change_neither_order_nor_randomness(options):
    expected = batches(DataLoader(Noisy(), 4, shuffle=True, generator=5))
    assert batches(DataLoader(Noisy(), 4, shuffle=True, generator=5, **options)) == expected
    assert expected[0] != expected[6]  # a new order every epoch
    assert batches(DataLoader(Noisy(), 4, shuffle=True, generator=6)) != expected
    assert sorted(i for _, indices, _ in expected[:6] for i in indices) == list(range(22))


@pytest.mark.parametrize("stop", [0, 3, 6])
@pytest.mark.parametrize("sampler", [False, True])
def test_resumes_in_the_middle_of_an_epoch(stop, sampler):
    def make(workers):
        if sampler:
            own = RandomSampler(Noisy(), generator=11)
            return DataLoader(Noisy(), 4, sampler=own, generator=1, num_workers=workers)
        return DataLoader(Noisy(), 4, shuffle=True, generator=1, num_workers=workers)

    expected = batches(make(0))
    loader = make(2)
    running = iter(loader)
    seen = [plain(next(running)) for _ in range(stop)]
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["batches"] == stop
    resumed = make(0)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert seen + batches(resumed) == expected


def test_stream_is_divided_among_workers_and_resumed():
    assert [b.tolist() for b in DataLoader(Stream(), 8)] == [[*range(8)], [*range(8, 16)], [16, 17, 18, 19]]
    loader = DataLoader(Stream(), 4, num_workers=2)
    expected = [b.tolist() for b in loader]
    assert expected[:2] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert sorted(functools.reduce(operator.iadd, expected, [])) == list(range(20))
    running = iter(loader)
    next(running), next(running)
    state = loader.state_dict()
    loader.load_state_dict(state)
    assert [b.tolist() for b in loader] == expected[2:]
    assert [len(b) for b in DataLoader(Stream(), 8, drop_last=True)] == [8, 8]


def test_batch_sampler_and_single_samples():
    data = TensorDataset(np.arange(6))
    loader = DataLoader(data, batch_sampler=[[5, 0], [1]], num_workers=1)
    assert [b.tolist() for (b,) in loader] == [[5, 0], [1]]
    assert len(DataLoader(data, batch_sampler=BatchSampler(range(6), 4))) == 2
    assert [float(b) for (b,) in DataLoader(TensorDataset(np.arange(3.0)), batch_size=None)] == [0, 1, 2]


def test_arrays_of_an_own_collate_function_stay_as_they_are():
    loader = DataLoader(Noisy(), 4, collate_fn=lambda b: np.stack([s["value"] for s in b]), num_workers=1)
    kept = list(loader)
    assert all(type(b) is np.ndarray for b in kept)
    assert [int(row[0]) for b in kept for row in b] == list(range(22))  # not overwritten by later batches
    kept[0][:] = 0  # and writable


def test_subset_takes_whole_batches_of_what_it_divides():
    subset = Subset(TensorDataset(np.arange(10) * 10), [7, 3, 1])
    assert [b.tolist() for (b,) in DataLoader(subset, 2)] == [[70, 30], [10]]


class Failing(Noisy):
    def __getitem__(self, index):
        if index == 9:
            raise KeyError("nine is bad")
        return index


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


class FailingOddly(Noisy):
    def __getitem__(self, index):
        raise Unpicklable("odd", 1)


class Dying(Noisy):
    def __getitem__(self, index):
        os._exit(3) if index == 9 else None
        return index


class Killed(Noisy):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL) if index == 9 else None
        return index


class Drawing(Noisy):
    def __getitem__(self, index):
        return (fp.rand(2) + fp.ones(2)).numpy()


class Slow(Noisy):
    def __getitem__(self, index):
        time.sleep(5)


def test_a_workers_error_is_raised_with_its_traceback():
    with pytest.raises(KeyError, match="nine is bad") as caught:
        list(DataLoader(Failing(), 4, num_workers=2))
    assert "raise KeyError" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"Unpicklable.*worker process 0") as caught:
        list(DataLoader(FailingOddly(), 4, num_workers=1))
    assert 'Unpicklable("odd", 1)' in str(caught.value)
    with pytest.raises(KeyError, match="nine is bad"):
        list(DataLoader(Failing(), 4))
    assert not active_children()


def test_a_dead_and_a_slow_worker_are_told():
    with pytest.raises(RuntimeError, match=r"worker process 0 .* ended unexpectedly with exit code 3"):
        list(DataLoader(Dying(), 4, num_workers=2))
    with pytest.raises(RuntimeError, match="no batch within the timeout"):
        list(DataLoader(Slow(), 4, num_workers=1, timeout=0.1))
    with pytest.raises(RuntimeError, match=r"worker process 0 .* SIGKILL \(often: the system ran out of memory"):
        list(DataLoader(Killed(), 4, num_workers=2))
    assert not active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_error_the_state_is_that_of_the_batches_handed_out(workers):
    loader = DataLoader(Failing(), 4, num_workers=workers, generator=1)
    seen = []
    with pytest.raises(KeyError):
        seen += iter(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (0, 2)
    resumed = DataLoader(Noisy(), 4, generator=1)
    resumed.load_state_dict(state)
    assert next(iter(resumed))["index"].tolist() == [8, 9, 10, 11]


def test_workers_compute_with_tensors_and_draw_numbers_of_their_own():
    assert fp.ones(3).sum().item() == 3  # the loader's process has threads before it forks
    rows = np.concatenate([batch.numpy() for batch in DataLoader(Drawing(), 4, num_workers=2)])
    assert rows.shape == (22, 2) and len(np.unique(rows)) == 44 and (rows >= 1).all()


def test_an_error_of_the_init_function_is_told():
    def refuse(number):
        raise ValueError(f"worker {number} refuses")

    with pytest.raises(ValueError, match="worker 0 refuses"):
        list(DataLoader(Noisy(), 4, num_workers=1, worker_init_fn=refuse))


def test_leaving_an_epoch_ends_its_workers():
    for _ in DataLoader(Noisy(), 2, num_workers=2):
        break
    deadline = time.monotonic() + 5
    while active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not active_children()


_PROGRAM = """
import time, numpy as np
from firepot.data import DataLoader, Dataset
class Data(Dataset):
    def __len__(self): return 100000
    def __getitem__(self, index): time.sleep(0.001); return np.zeros((3, 64, 64), np.float32)
if __name__ == "__main__":
    for number, batch in enumerate(DataLoader(Data(), 4, num_workers=2)):
        if number == 2:
            from multiprocessing import active_children
            print(*[child.pid for child in active_children()], flush=True)
"""


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_and_no_memory_outlives_an_interrupt(tmp_path, number):
    (tmp_path / "program.py").write_text(_PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment,
    )  # fmt: skip
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    _, errors = process.communicate(timeout=10)
    assert errors.count("KeyboardInterrupt") == (number == signal.SIGINT)

    def segments() -> set[str]:
        return {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("psm_")}

    # The tracker of shared memory cleans up after the last worker; tests beside this one have segments for a moment.
    deadline = time.monotonic() + 10
    while (segments() or not all(map(gone, workers))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(map(gone, workers))
    assert not segments()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": -1}, "num_workers"),
        ({"batch_size": 0}, "batch_size"),
        ({"prefetch_factor": 2}, "need num_workers"),
        ({"batch_sampler": [[0]], "shuffle": True}, "batch_sampler excludes"),
        ({"sampler": [0], "shuffle": True}, "not both"),
        ({"batch_size": None, "drop_last": True}, "excludes drop_last"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(Noisy(), **arguments)


def test_empty_data_sets_and_stream_orders_are_told():
    with pytest.raises(ValueError, match="empty"):
        DataLoader(TensorDataset(np.zeros((0, 3))))
    with pytest.raises(ValueError, match="order of its own"):
        DataLoader(Stream(), shuffle=True)
    with pytest.raises(ValueError, match="lacks"):
        DataLoader(Noisy()).load_state_dict({"epoch": 0})
