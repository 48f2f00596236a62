"""Facts about a run that can be written down, whatever the pairs file says of itself."""

import json
import subprocess

import pytest

import gemma_mlx
from harness.results.provenance import provenance
from harness.settings import AnalysisSettings, CollectSettings
from tests.support.builders import document, entry, parsed


def facts(checkpoint, version="1.0"):
    pairs = parsed(document({"one": [entry(0)]}, version=version))
    return provenance(
        "a/model",
        "main",
        None,
        checkpoint,
        pairs,
        CollectSettings(max_tokens=7),
        AnalysisSettings(),
    )


def test_what_was_run(small_checkpoint):
    found = facts(small_checkpoint)
    assert (found["model"], found["revision"]) == ("a/model", "main")
    assert found["model_fingerprint"] == small_checkpoint.fingerprint
    assert found["pairs_file"] == "pairs.json"
    assert found["collection"]["max_tokens"] == 7
    assert found["analysis"]["replicates"] == AnalysisSettings().replicates
    assert found["device"] == gemma_mlx.device_name()
    assert json.loads(json.dumps(found))["pairs_version"] == "1.0"


@pytest.mark.parametrize("version", ["2", 2, 2.5, None])
def test_version_of_the_pairs(small_checkpoint, version):
    assert facts(small_checkpoint, version)["pairs_version"] == version


@pytest.mark.parametrize("version", [{"a": 1}, [[[[]]]]])
def test_version_that_is_none(small_checkpoint, version):
    assert facts(small_checkpoint, version)["pairs_version"] is None


@pytest.mark.parametrize(
    "error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")]
)
def test_without_git(small_checkpoint, monkeypatch, error):
    def run(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert facts(small_checkpoint)["git_commit"] is None
