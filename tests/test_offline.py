"""Whatever wants the network is refused and found out, in this process and in others."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

# Set aside for documentation; nothing answers there.
OUTSIDE = "192.0.2.1"


def connect(host: str) -> None:
    with socket.socket() as there:
        there.settimeout(1)
        there.connect((host, 9))


def send(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as there:
        there.sendto(b"", (host, 9))


def look_up(host: str) -> None:
    socket.getaddrinfo(host, 443)


@pytest.fixture
def written_down(refused: Path) -> Callable[[], str]:
    """What was refused in this test, taken away so that it doesn't fail for it."""

    def take() -> str:
        said = refused.read_text(encoding="utf-8")
        refused.unlink()
        return said

    return take


@pytest.mark.parametrize(
    ("how", "host"),
    [
        (connect, OUTSIDE),
        (send, OUTSIDE),
        (look_up, OUTSIDE),
        (look_up, "2001:db8::1"),
        (look_up, "example.invalid"),
    ],
)
def test_refused_here(
    written_down: Callable[[], str], how: Callable[[str], None], host: str
) -> None:
    with pytest.raises(ConnectionRefusedError, match="tests have no network"):
        how(host)
    assert repr(host) in written_down()


@pytest.mark.parametrize("folder", [".", ".."])
def test_refused_in_another_process(
    written_down: Callable[[], str], tmp_path: Path, folder: str
) -> None:
    """Also where the process makes nothing of it."""
    code = (
        "import socket\n"
        f"try: socket.create_connection(({OUTSIDE!r}, 9), 1)\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / folder, capture_output=True, text=True
    )
    assert "tests have no network" in done.stdout, done.stderr
    assert OUTSIDE in written_down()


def test_this_machine_is_reached(
    refused: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 5).close()
        socket.create_connection(("localhost", server.getsockname()[1]), 5).close()
    # The path of a Unix socket has to be short.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("here")
        server.listen()
        client.connect("here")
    assert not refused.exists()


def test_a_test_that_wants_the_network_fails(pytester: pytest.Pytester) -> None:
    """Though it catches the error."""
    pytester.makeconftest("from tests.conftest import _no_network, refused")
    pytester.makepyfile(
        "import socket\n"
        "def test_quiet():\n"
        f"    try: socket.create_connection(({OUTSIDE!r}, 9), 1)\n"
        "    except OSError: pass\n"
    )
    result = pytester.runpytest_inprocess("-p", "no:html", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["a test wanted the network:", f"socket.getaddrinfo '{OUTSIDE}' in *"]
    )
