from pathlib import Path

from benchmarks.process import Peer, environment


def test_environment_sets_threads_and_caches_and_frees_openblas() -> None:
    found = environment({"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "1", "HOME": "/h"}, 3, Path("/c"))
    assert found["HOME"] == "/h"
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(found)
    assert found["OMP_NUM_THREADS"] == found["FIREPOT_NUM_THREADS"] == "3"
    assert found["FIREPOT_CACHE_DIR"] == "/c/firepot"


def test_a_peer_that_fails_answers_with_its_error() -> None:
    with Peer("nowhere", "firepot", 1) as peer:
        assert "nowhere" in peer.ask(do="time")["error"]
        assert "nowhere" in peer.ask(do="time")["error"]


def test_a_peer_that_died_answers_with_its_status() -> None:
    with Peer("nowhere", "firepot", 1) as peer:
        peer.process.kill()
        assert "status -9" in peer.ask(do="time")["error"]
