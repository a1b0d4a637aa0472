"""What holds for the tests themselves."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
_FROM_A_TEST = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+", re.MULTILINE)


def test_no_module_of_the_tests_imports_a_test_module() -> None:
    assert _FROM_A_TEST.search("from tests.unit.cli.test_commands import ran")
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 100
    assert [str(file) for file in files if _FROM_A_TEST.search(file.read_text(encoding="utf-8"))] == []
