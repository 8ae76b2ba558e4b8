import numpy

from benchmarks import installation


def test_names_are_normalised() -> None:
    assert installation.normalised("Typing_Extensions.X") == "typing-extensions-x"


def test_requirements_of_extras_and_other_systems_are_left_out() -> None:
    given = ["numpy>=1", "pytest; extra == 'test'", "winapi; sys_platform == 'nowhere'", "six; python_version > '3'"]
    assert installation.required(given) == ["numpy", "six"]


def test_size_counts_the_files_and_what_is_required() -> None:
    sizes = installation.installed_megabytes("firepot")
    assert {"firepot", "numpy", "llvmlite", "pillow", "safetensors"} == set(sizes)
    assert sizes["numpy"] > 10, numpy.__file__
    assert 0.3 < sizes["firepot"] < 20
