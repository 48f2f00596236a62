"""Progress bars on the terminal that pytest writes to, whatever it captures."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tqdm import tqdm

    from harness.progress import Bars


def bars_through_capture(config: pytest.Config) -> Bars:
    """Bars for a session: none under pytest-xdist, with -q, or where output is no terminal."""
    from harness.progress import ON_TERMINAL, SILENT

    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or config.get_verbosity() < 0:
        return SILENT
    capture = config.pluginmanager.getplugin("capturemanager")
    uncaptured = capture.global_and_fixture_disabled if capture else nullcontext
    with uncaptured():
        if not sys.stdout.isatty():
            return SILENT
        # pytest turns standard output elsewhere, but not what is a copy of it.
        terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding)
    config.add_cleanup(terminal.close)

    def bar(*arguments: Any, **how: Any) -> tqdm:
        with uncaptured():
            # pytest's own line stays as it is, and is begun anew.
            reporter.ensure_newline()
        return ON_TERMINAL(*arguments, file=terminal, **how)

    return bar
