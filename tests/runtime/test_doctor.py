from firepot.runtime import doctor, pool


def test_examine_measures_plausible_speeds() -> None:
    report = doctor.examine()
    assert report.compiled_correctly
    assert report.threads == pool.get_num_threads()
    assert 0.5 < report.gflops_one_thread < 1000
    assert report.gflops_all_threads > 0.3 * report.gflops_one_thread
    assert 0.1 < report.copy_gb_per_second < 10_000
    assert report.processor.vector_bytes in (16, 32, 64)
    assert report.cache_bytes >= 0
    assert report.compile_seconds >= 0
