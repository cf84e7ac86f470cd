"""The fuzz target: a short run of it, and that it finds what it is for."""

import shutil
from pathlib import Path

import pytest

from tests.fuzz.fuzz_kernel import build, fuzz


@pytest.mark.parametrize("broken", [False, True])
def test_the_kernel_stays_within_its_reply(tmp_path: Path, broken: bool) -> None:
    """Thousands of mutated replies pass the sanitizers; a read past the end would not."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here: everything is decoded in Python")
    library, runtimes = build(tmp_path, *(["-DREAD_TOO_FAR"] if broken else []))
    report = tmp_path / "report"
    with report.open("w") as stream:
        status = fuzz(library, runtimes, 50_000, 7, stdout=stream, stderr=stream)
    said = report.read_text()
    assert ("heap-buffer-overflow" in said) == (status != 0) == broken, said
