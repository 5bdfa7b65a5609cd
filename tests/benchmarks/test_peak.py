"""The machine's peak: a program compiled when needed, or the reason why it is unknown."""

import pytest

from benchmarks import peak


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Makes CXX a shell script."""

    def write(script: str) -> None:
        path = tmp_path / "stub-compiler"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return write


def test_measures_this_machine():
    assert peak.multiply_adds_per_second(1, milliseconds=1, runs=2) > 0


def test_arguments_and_output_of_the_program(stub):
    stub("""for last; do :; done; printf '#!/bin/sh\\necho $1$2$3\\n' > "$last"; chmod +x "$last\"""")
    assert peak.multiply_adds_per_second(3, milliseconds=4, runs=5) == 345


def test_a_missing_compiler_gives_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(peak.UnknownPeakError, match="no C\\+\\+ compiler found, looked for CXX=no-such-compiler"):
        peak.multiply_adds_per_second(1)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(peak.UnknownPeakError, match=r"looked for c\+\+, g\+\+, clang\+\+"):
        peak.multiply_adds_per_second(1)


def test_compiler_errors_are_passed_on(stub):
    stub("echo 'no such option' >&2; exit 3")
    with pytest.raises(peak.UnknownPeakError, match="stub-compiler ended with exit status 3: no such option"):
        peak.multiply_adds_per_second(1)


def test_arguments_must_be_positive():
    with pytest.raises(ValueError, match=r"must be positive, got \(0, 20, 20\)"):
        peak.multiply_adds_per_second(0)
