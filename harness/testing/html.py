"""pytest-html's report, made only where there is something to report."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.testing.session import ANALYSIS


def ask_for_report(config: pytest.Config, path: Path) -> None:
    """Have pytest-html write a self-contained report to `path`, unless the user named another.

    To be called before pytest-html is configured, which is before it's known whether there are
    checks: the request is taken back if none gets that far.
    """
    # Under xdist the controller alone writes.
    worker = hasattr(config, "workerinput")
    if config.pluginmanager.hasplugin("html") and not config.option.htmlpath and not worker:
        config.option.htmlpath = str(path)
        config.option.self_contained_html = True
        config.pluginmanager.register(_ReportKeeper(config))


class _ReportKeeper:
    """Keeps an earlier report.html from being replaced by a run that has nothing to report:
    one without checks, or one that ended before there were results."""

    def __init__(self, config: pytest.Config):
        self._config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        try:
            return (yield)
        except BaseException:
            self._drop()
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, Any]:
        try:
            return (yield)
        finally:
            if ANALYSIS not in self._config.stash:
                self._drop()

    def _drop(self) -> None:
        for plugin in self._config.pluginmanager.get_plugins():
            if type(plugin).__module__.startswith("pytest_html."):
                self._config.pluginmanager.unregister(plugin)
        folder = Path(self._config.option.htmlpath).parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
