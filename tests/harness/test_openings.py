"""How likely a model is to begin with an evasion."""

import json
from dataclasses import replace

import numpy as np
import pytest

import gemma_mlx
from harness import Experiment
from harness.analysis.behaviour import compare_openings
from harness.data import embedded
from harness.data.behaviours import load_behaviours
from harness.data.store import StoreError
from harness.openings import opening_log_odds
from tests.support.builders import parsed, two_categories

SHIPPED = load_behaviours(embedded.BEHAVIOURS)
PATTERNS = replace(SHIPPED, openings={kind: texts[:2] for kind, texts in SHIPPED.openings.items()})
PAIRS = parsed(two_categories(8))
PROMPTS = dict(list(PAIRS.prompts().items())[:2])


@pytest.fixture(scope="module")
def checkpoint():
    return gemma_mlx.find_checkpoint(embedded.locate("tiny-gemma3-base"))


def test_are_those_of_the_logits(checkpoint, tmp_path):
    found = opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path)
    gemma = gemma_mlx.load_checkpoint(checkpoint)
    for group, prompt in PROMPTS.items():
        (ids,) = gemma_mlx.encode_prompts(gemma, [prompt])
        sums = []
        for kind in ("evasive", "plain"):
            chances = []
            for text in PATTERNS.openings[kind]:
                after = gemma_mlx.encode_prompts(gemma, [text], chat=False)[0][1:]
                logits = gemma_mlx.logits(gemma, [[*ids, *after]])[0].astype(np.float64)
                logits -= np.logaddexp.reduce(logits, axis=-1, keepdims=True)
                steps = range(len(ids) - 1, len(ids) + len(after) - 1)
                chances.append(sum(logits[t, token] for t, token in zip(steps, after, strict=True)))
            sums.append(np.logaddexp.reduce(chances))
        assert found[group] == pytest.approx(sums[0] - sums[1], abs=1e-4)


@pytest.mark.slow
def test_are_measured_once(checkpoint, tmp_path, monkeypatch):
    first = opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path)
    loads = []
    load = gemma_mlx.load_checkpoint
    monkeypatch.setattr(gemma_mlx, "load_checkpoint", lambda c, **_: loads.append(c) or load(c))
    assert opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path) == first
    assert not loads
    assert opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path, again=True) == first
    assert len(loads) == 1
    (file,) = (tmp_path / "openings").iterdir()
    for damaged in ("{", "[]", json.dumps({"log_odds": {"other": 1}}), '{"log_odds": {"a": "b"}}'):
        file.write_text(damaged)
        assert opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path) == first
    assert len(loads) == 5


def test_an_interrupt_keeps_what_was_measured(checkpoint, tmp_path, monkeypatch):
    whole = opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path / "whole")
    monkeypatch.setattr("harness.openings._EVERY", 0.0)
    read = []

    def interrupted(groups):
        yield groups[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path / "two", progress=interrupted)
    (file,) = (tmp_path / "two" / "openings").iterdir()
    assert json.loads(file.read_text())["log_odds"].keys() == {sorted(PROMPTS)[0]}
    found = opening_log_odds(
        checkpoint, PROMPTS, PATTERNS, tmp_path / "two", progress=lambda g: read.extend(g) or g
    )
    assert read == sorted(PROMPTS)[1:]
    assert found == whole
    assert json.loads(file.read_text())["log_odds"] == whole


def test_what_another_process_measured_meanwhile_stays(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.openings._EVERY", 0.0)

    def slow(groups):
        opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path)
        yield groups[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path, progress=slow)
    (file,) = (tmp_path / "openings").iterdir()
    assert json.loads(file.read_text())["log_odds"].keys() == PROMPTS.keys()


def test_a_store_that_cannot_be_written(checkpoint, tmp_path):
    (tmp_path / "openings").write_text("a file")
    with pytest.raises(StoreError, match="openings"):
        opening_log_odds(checkpoint, PROMPTS, PATTERNS, tmp_path)


def test_conditions_are_compared_pair_by_pair():
    odds = {p.group("natural"): float(n) for n, p in enumerate(PAIRS)}
    odds |= {p.group("artifact"): n + 2.0 for n, p in enumerate(PAIRS)}
    found = compare_openings(odds, PAIRS.pairs, level=0.95)
    assert (found.natural, found.artifact, found.difference) == (3.5, 5.5, 2.0)
    assert found.interval == (2.0, 2.0)


@pytest.mark.slow
def test_an_experiment_asks_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.experiment.load_behaviours", lambda _: PATTERNS)
    quiet = Experiment("tiny-gemma3-base", PAIRS, store=tmp_path)
    assert quiet.opening_log_odds is None
    asked = Experiment("tiny-gemma3-base", PAIRS, store=tmp_path, openings=True)
    assert asked.opening_log_odds.keys() == PAIRS.prompts().keys()
