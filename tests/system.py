"""Programs that come with Debian's packages, for tests that are marked `system`."""

import os
import shutil
from collections import Counter

import pytest

# By program; a package that is not listed has the name of its program.
_PACKAGES = {"softhsm2-util": "softhsm2", "systemd-analyze": "systemd"}
_LEFT_OUT = "left out: needs "


def program(name: str) -> str | None:
    """Where a program is; servers stand where only root's PATH leads."""
    return shutil.which(name, path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin")))


def skip_without_programs(item: pytest.Item) -> None:
    """Leave a test out if a program that its marker names is not there."""
    marker = item.get_closest_marker("system")
    missing = [name for name in marker.args if not program(name)] if marker else []
    if missing:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        pytest.skip(f"{_LEFT_OUT}{packages}")


def tell_what_was_left_out(reporter: pytest.TerminalReporter) -> None:
    """Name the packages that were missing, and for how many tests."""
    reasons = (str(report.longrepr[2]) for report in reporter.stats.get("skipped", []))
    packages = Counter(reason.partition(_LEFT_OUT)[2] for reason in reasons if _LEFT_OUT in reason)
    for names, count in packages.items():
        reporter.write_line(f"{count} test(s) left out: apt-get install {names}", yellow=True)
