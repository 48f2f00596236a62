"""A pytest plugin that adds the short names of our options: `--model` for `--artifact-model`.

Not registered by installing the package, since other people's tests may have a `--model` of their
own. A repository that wants them says so in the conftest.py of its root folder:

    pytest_plugins = ["harness.short_options"]
"""

import pytest

from harness.options import OPTIONS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("artifacts-short", "alignment artifacts, short names")
    for option in OPTIONS:
        if option.short:
            group.addoption(option.short_flag, help=f"same as {option.flag}", **option.keywords)
