"""The same bytes whatever the hash seed, the threads, the features of the CPU. Digests are committed.

A change of what is learned or written changes them: redirect the output of `python -m tests.determinism.stream` into
`digests.json` here, and say in the commit why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exploring import some

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "digests.json").read_text())


def digests(**environment: str) -> dict[str, str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.determinism.stream"]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=os.environ | environment, capture_output=True, text=True, timeout=300, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("seed", some(range(10)))
def test_the_hash_seed_decides_nothing(seed: int) -> None:
    assert digests(PYTHONHASHSEED=str(seed)) == EXPECTED


@pytest.mark.parametrize("threads", some(["4", "2", "1"]))
def test_threads_decide_nothing(threads: str) -> None:
    assert digests(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads) == EXPECTED


def dispatched() -> str:
    """The features of this CPU that NumPy chooses code by."""
    code = "import numpy._core._multiarray_umath as m; print(*[n for n in m.__cpu_dispatch__ if m.__cpu_features__[n]])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_features_of_the_cpu_decide_nothing() -> None:
    names = dispatched()
    if not names:
        pytest.skip("NumPy dispatches on no feature of this CPU, so there is nothing to turn off")
    assert digests(NPY_DISABLE_CPU_FEATURES=names) == EXPECTED
