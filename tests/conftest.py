"""What holds for all tests: where continuous integration runs, an interoperability test is never skipped."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

INTEROP = Path(__file__).parent / "interop"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``CI=true`` a skipped test below ``tests/interop`` counts as failed, and says so."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("CI") == "true" and item.path.is_relative_to(INTEROP):
        report.longrepr = f"skipped, which CI=true makes a failure: {report.longrepr}"
        report.outcome = "failed"
    return report
