"""A good guest: what the installed plugin does to other people's tests, which is nothing."""

import os
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest

from tests.support.builders import two_categories, written
from tests.support.measured import tiny_checkpoint
from tests.support.runs import RESULTS, ROOT, SHORT, run_pytest

HEAVY = {"numpy", "scipy", "mlx", "matplotlib", "transformers", "jinja2", "safetensors"}
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]),
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
TRIVIAL = "def test_it():\n    pass\n"


@pytest.fixture
def suite(tmp_path):
    """Write other people's files into a folder of their own."""

    def write(**files):
        folder = tmp_path / "theirs"
        folder.mkdir(exist_ok=True)
        (folder / "pytest.ini").write_text("[pytest]\n")
        for name, text in files.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        return folder

    return write


def run(folder, *arguments, guest=("-p", "harness.plugin"), **environment):
    """pytest in a process of its own; by itself it loads no plugin but the named ones."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *guest, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


HTML = ("-p", "metadata", "-p", "html")
XDIST = ("-p", "xdist")


def passes(done, count=1):
    """So many, with no warning about us."""
    assert done.returncode == 0, done.stdout
    assert re.search(rf"\b{count} passed\b", done.stdout), done.stdout
    assert "harness" not in done.stdout.partition("warnings summary")[2], done.stdout


def names(folder):
    return sorted(file.name for file in folder.iterdir())


class TestNames:
    """Options, fixtures, ids, signals and objects of others are theirs."""

    @pytest.mark.slow
    def test_options(self, suite):
        folder = suite(
            conftest="""
                def pytest_addoption(parser):
                    for name in ("--model", "--pairs", "--site", "--layers", "--alpha"):
                        parser.addoption(name, default="theirs")
            """,
            test_theirs="""
                def test_given(pytestconfig):
                    assert pytestconfig.getoption("--model") == "mine"
                    assert pytestconfig.getoption("--pairs") == "theirs"
                    assert pytestconfig.getoption("model") == "mine"
            """,
        )
        passes(run(folder, "--model", "mine"))
        passes(run(folder, "--model=mine", guest=()))

    def test_fixtures(self, suite):
        folder = suite(
            conftest="""
                import pytest

                @pytest.fixture
                def layer_result():
                    return "theirs"

                @pytest.fixture(scope="session")
                def results():
                    return "theirs"
            """,
            test_theirs="""
                import pytest

                def test_fixtures(layer_result, results):
                    assert layer_result == results == "theirs"

                @pytest.mark.parametrize("layer_result", [1, 2])
                def test_parameter(layer_result):
                    assert layer_result in (1, 2)
            """,
        )
        passes(run(folder), 3)

    def test_objects_that_cannot_be_looked_at(self, suite):
        """As a request of Flask outside of a request."""
        folder = suite(
            test_theirs="""
                class Proxy:
                    def __getattr__(self, name):
                        raise RuntimeError("outside of a request")

                test_proxy = Proxy()

                def test_it():
                    pass
            """
        )
        passes(run(folder))

    @pytest.mark.slow
    @pytest.mark.parametrize("plugins", [(), (*XDIST, "-n", "1")], ids=["alone", "xdist"])
    def test_keywords(self, suite, plugins):
        """`-k layer_1` is a part of a name, as everywhere."""
        folder = suite(
            test_theirs="""
                import pytest

                LAYERS = ["layer_1", "layer_12", "layer_1-relu", "layer_2"]

                @pytest.mark.parametrize("layer", LAYERS)
                def test_layer(layer):
                    pass
            """
        )
        passes(run(folder, "-k", "layer_1", *plugins), 3)
        assert names(folder) == ["pytest.ini", "test_theirs.py"]

    def test_signals(self, suite):
        folder = suite(
            test_theirs="""
                import signal

                def test_it():
                    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            """
        )
        passes(run(folder))


@contextmanager
def read_only(folder):
    """Not even root writes there."""
    try:
        subprocess.run(["mount", "--bind", folder, folder], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        if os.geteuid() == 0:
            pytest.skip("no disk can be mounted here")
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
class TestNothingIsLeft:
    @pytest.mark.parametrize("plugins", [(), HTML, (*HTML, *XDIST, "-n", "2")],
                             ids=["alone", "html", "xdist"])  # fmt: skip
    def test_file_with_the_reports_name(self, suite, plugins):
        folder = suite(test_theirs=TRIVIAL)
        (folder / "artifact_report").write_text("theirs")
        passes(run(folder, *plugins))
        assert names(folder) == ["artifact_report", "pytest.ini", "test_theirs.py"]
        assert (folder / "artifact_report").read_text() == "theirs"

    def test_read_only_folder(self, suite):
        folder = suite(test_theirs=TRIVIAL)
        with read_only(folder):
            with pytest.raises(OSError, match=r"Read-only|denied"):
                (folder / "file").touch()
            passes(run(folder, *HTML))
        assert names(folder) == ["pytest.ini", "test_theirs.py"]

    @pytest.mark.parametrize("plugins", [(), (*XDIST, "-n", "2")], ids=["alone", "xdist"])
    def test_reports_of_theirs(self, suite, plugins):
        """Under its own title, without a word of ours."""
        folder = suite(test_theirs=TRIVIAL)
        passes(run(folder, *HTML, *plugins, "--html=x.html", "--self-contained-html"))
        assert names(folder) == ["pytest.ini", "test_theirs.py", "x.html"]
        page = (folder / "x.html").read_text(encoding="utf-8")
        assert re.search(r"<title[^>]*>x\.html</title>", page)
        assert "test_theirs.py::test_it" in page
        # The plugins that were loaded may be listed.
        assert "lignment artifacts" not in page

    def test_no_report_under_xdist(self, suite):
        folder = suite(test_theirs=TRIVIAL + "\ndef test_other():\n    pass\n")
        passes(run(folder, *HTML, *XDIST, "-n", "2"), 2)
        assert names(folder) == ["pytest.ini", "test_theirs.py"]


class TestImports:
    @pytest.mark.slow
    def test_of_a_run_of_theirs(self, suite):
        folder = suite(
            test_theirs=f"""
                import sys

                def test_it(pytestconfig):
                    assert pytestconfig.pluginmanager.hasplugin("harness.plugin")
                    assert not {HEAVY} & {{name.partition(".")[0] for name in sys.modules}}
            """
        )
        passes(run(folder))
        passes(run(folder, guest=("-p", "harness.plugin", *SHORT)))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "module", ["harness.cli", "harness.report.page", "harness.results", "harness.experiment"]
    )
    def test_pytest_is_the_plugins_alone(self, module):
        code = f"import sys, {module}; print({{'pytest', '_pytest'}} & set(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout == "set()\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small model, pairs, and a store."""
    folder = tmp_path_factory.mktemp("made")
    tiny_checkpoint(folder / "model")
    written(folder / "pairs.json", two_categories(12))
    return {
        "--artifact-model": folder / "model",
        "--artifact-pairs": folder / "pairs.json",
        "--artifact-store": folder / "store",
        "--artifact-replicates": 200,
        "--artifact-max-tokens": 3,
    }


def checks(folder, given, *arguments, guest=("-p", "harness.plugin"), **environment):
    """Our checks from somebody's folder, with the options' long names; exit code and output."""
    options = [f"{flag}={value}" for flag, value in given.items()]
    return run_pytest(
        folder, *guest, ROOT / "artifact_checks" / "test_separation.py", "-c",
        folder / "pytest.ini", "--rootdir", folder, "--confcutdir", folder, *options, *arguments,
        **{**ENVIRONMENT, **environment},
    )  # fmt: skip


@pytest.mark.slow
class TestOurChecks:
    """The same plugin, asked for."""

    def test_run_by_pyargs_each_check_is_on_the_page_once(self, suite, made):
        folder = suite()
        options = [f"{flag}={value}" for flag, value in made.items()]
        code, output = run_pytest(
            folder, "-p", "harness.plugin", "--pyargs", "artifact_checks.test_separation",
            "-k", "layer_1", *options, **ENVIRONMENT,
        )  # fmt: skip
        assert code == pytest.ExitCode.OK, output
        page = (folder / "artifact_report" / "report.html").read_text(encoding="utf-8")
        named = re.findall(r"<code>(test_\w+)</code>", page)
        assert named.count("test_effect_size") == named.count("test_accuracy") == 1

    def test_short_names_are_the_long_ones(self, suite, made):
        folder = suite(
            test_theirs="""
                def test_model(pytestconfig):
                    assert pytestconfig.getoption("artifact_model") == "mine"
            """
        )
        both = ("-p", "harness.plugin", *SHORT)
        for guest, flag in ((both, "--model"), (both, "--artifact-model")):
            passes(run(folder, flag, "mine", guest=guest))
        passes(run(folder, "--artifact-model", "mine"))
        assert "unrecognized arguments: --model" in run(folder, "--model", "mine").stdout

    @pytest.mark.parametrize("plugins", [(), HTML, (*HTML, *XDIST, "-n", "2")],
                             ids=["alone", "html", "xdist"])  # fmt: skip
    def test_the_page_is_ours_whatever_else_is_loaded(self, suite, made, plugins):
        folder = suite(
            test_mine="""
                def test_agree(layer_result):
                    assert layer_result.layer == 1
            """
        )
        code, output = checks(folder, made, folder / "test_mine.py", *plugins)
        assert code in (0, 1), output
        page = (folder / "artifact_report" / "report.html").read_text(encoding="utf-8")
        assert ": alignment artifacts</title>" in page
        assert "of 2 layers separate" in page
        for name in ("effect_size", "accuracy", "significance"):
            assert f"test_{name}</code>" in page
        assert "test_agree</code> failed in 1 of 2" in page
        assert "data-jsonblob" not in page
        assert RESULTS in names(folder / "artifact_report")

    @pytest.fixture
    def earlier(self, suite):
        folder = suite()
        (folder / "artifact_report").mkdir()
        page = folder / "artifact_report" / "report.html"
        page.write_text("of an earlier run")
        yield folder
        assert page.read_text() == "of an earlier run"
        assert names(folder) == ["artifact_report", "pytest.ini"]
        assert names(folder / "artifact_report") == ["report.html"]

    @pytest.mark.parametrize("plugins", [HTML, (*XDIST, "-n", "2")], ids=["html", "xdist"])
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"--artifact-layers": "99"}, "layer 99 doesn't exist"),
            ({"--artifact-max-tokens": 5000}, "the model's context is 1024"),
        ],
        ids=["before collection", "in a fixture"],
    )
    def test_bad_input_is_one_line_and_the_earlier_report_stays(
        self, earlier, made, plugins, changes, message
    ):
        code, output = checks(earlier, {**made, **changes}, *plugins)
        assert code == pytest.ExitCode.USAGE_ERROR, output
        assert "INTERNALERROR" not in output
        assert "Traceback" not in output
        assert output.count(message) == 1

    @pytest.mark.parametrize("selection", [("--collect-only",), ("-k", "nosuchcheck")])
    def test_earlier_report_outlives_a_run_without_checks(self, earlier, made, selection):
        code, output = checks(earlier, made, *HTML, *selection)
        assert code in (0, 5), output
        assert "INTERNALERROR" not in output

    def test_earlier_report_outlives_an_interrupted_run(self, earlier, made, tmp_path):
        (tmp_path / "interrupting.py").write_text(
            textwrap.dedent(
                """
                import signal
                import gemma_mlx

                def run_batch(*_):
                    signal.raise_signal(signal.SIGINT)

                gemma_mlx.run_batch = run_batch
                """
            )
        )
        path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ["PYTHONPATH"]])
        code, output = checks(
            earlier, {**made, "--artifact-store": tmp_path / "empty"}, *HTML,
            "-p", "interrupting", PYTHONPATH=path,
        )  # fmt: skip
        assert code == pytest.ExitCode.INTERRUPTED, output
        assert "interrupted; what was finished is kept" in output
