"""pytest-html's report, made only where there is something to report."""

from pathlib import Path
from typing import Any

import pytest

from harness.options import OptionError

# The plugins that make this run's report, and the folders that weren't there for it; the innermost
# first.
_STARTED = pytest.StashKey[tuple[list[Any], list[Path]]]()


class _Title:
    """Registered with a report that we start; one that the user asked for keeps its title."""

    def pytest_html_report_title(self, report: Any) -> None:
        report.title = "Alignment artifacts"


def start_report(session: Any, path: Path) -> list[Any]:
    """Have pytest-html write a self-contained report to `path`, unless the user named another.

    pytest-html starts when pytest is configured, before it is known whether there are checks. It
    is started now instead; returned are the plugins that make its report, if any.

    Raises:
        OptionError: the folder of `path` can't be made.
    """
    config: pytest.Config = session.config
    # Under xdist the controller alone writes.
    if (
        not config.pluginmanager.hasplugin("html")
        or config.option.htmlpath
        or hasattr(config, "workerinput")
    ):
        return []
    from pytest_html import plugin

    absent = [folder for folder in path.parents if not folder.exists()]
    config.option.htmlpath = str(path)
    config.option.self_contained_html = True
    try:
        plugin.pytest_configure(config)
    except OSError as error:
        raise OptionError(f"{path.parent}: no report can be written there ({error})") from error
    config.pluginmanager.register(_Title())
    started = [
        each
        for each in config.pluginmanager.get_plugins()
        if type(each).__module__.startswith("pytest_html.")
    ]
    config.stash[_STARTED] = started, absent
    for report in started:
        report.pytest_sessionstart(session)
    return started


def drop_report(config: pytest.Config) -> None:
    """Keep an earlier report from being replaced by a run that ended without results, and delete
    the folders that were made for this run's, as far as they are empty."""
    started, absent = config.stash.get(_STARTED, ([], []))
    for report in started:
        config.pluginmanager.unregister(report)
    for folder in absent:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
