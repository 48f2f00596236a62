"""Tokens and their scores: what each belongs to, and the file that they are kept in."""

import json
import re

import numpy as np
import pytest

from harness.analysis import analyze
from harness.data.pairs import CONDITIONS
from harness.experiment import Experiment
from harness.results import Results
from harness.results.file import FILE_NAME, ResultsError
from harness.results.tokens import TOKENS_NAME
from harness.settings import AnalysisSettings, Criteria
from tests.support.builders import noise, parsed, planted, run_of, two_categories
from tests.support.measured import tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
QUICK = AnalysisSettings(replicates=100)


def uneven(pair, condition, layer, site):
    """One to five tokens, so that one arm is longer than the other in most pairs."""
    steps = 1 + len(f"{pair.natural}{condition}") * int(pair.id[1:]) % 5
    return planted(1.0, noise(steps=steps))(pair, condition, layer, site)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pairs = parsed(two_categories(12))
    run = run_of(tmp_path_factory.mktemp("tokens"), pairs, uneven, layers=(0, 3))
    found = analyze(
        run, pairs, layers=(0, 3), sites=("mlp_out",), settings=QUICK, decode=lambda t: f" <{t}>"
    )  # fmt: skip
    return Results(found, Criteria())


def test_their_averages_are_the_scores_of_the_prompts(results):
    tokens = results.analysis.tokens
    assert len(set(map(tuple, tokens.lengths.tolist()))) > 3
    for key, result in results.items():
        row = tokens.scores[key]
        for number, ends in enumerate(tokens.ends):
            for end, length, scores in zip(
                ends, tokens.lengths[number],
                (result.separation.scores_natural, result.separation.scores_artifact),
                strict=True,
            ):  # fmt: skip
                kept = row[end - length : end][: min(tokens.lengths[number])]
                assert kept.mean() == pytest.approx(scores[number], rel=1e-4, abs=1e-5)


def test_each_has_the_text_of_its_id(results):
    texts = iter(results.analysis.tokens.texts)
    for pair in results.analysis.scored:
        (written,) = (r for r in results.analysis.responses if r.pair == pair)
        for condition in CONDITIONS:
            for token in getattr(written, condition).token_ids:
                assert next(texts) == f" <{token}>"
    assert next(texts, None) is None


@pytest.mark.slow
def test_are_read_with_the_results_that_they_belong_to(results, tmp_path):
    results.write(tmp_path, page=False)
    made, found = results.analysis.tokens, Results.read(tmp_path / FILE_NAME).analysis.tokens
    assert found.pairs == made.pairs
    assert found.texts == made.texts
    np.testing.assert_array_equal(found.lengths, made.lengths)
    for key, scores in made.scores.items():
        np.testing.assert_array_equal(found.scores[key], scores)
    file = tmp_path / FILE_NAME
    content = json.loads(file.read_text())
    content["provenance"]["date"] = "another"
    file.write_text(json.dumps(content))
    assert Results.read(file).analysis.tokens is None
    (tmp_path / TOKENS_NAME).unlink()
    assert Results.read(file).analysis.tokens is None


def test_file_says_whose_each_is(results, tmp_path):
    """As the docs read it, without this package."""
    results.write(tmp_path, page=False)
    file = np.load(tmp_path / TOKENS_NAME)
    chosen = (file["pair"] == 5) & file["artifact"] & file["counts"]
    row = np.flatnonzero((file["layers"] == 3) & (file["sites"] == "mlp_out"))[0]
    expected = results[3, "mlp_out"].separation.scores_artifact[5]
    assert file["scores"][row, chosen].mean() == pytest.approx(expected, rel=1e-4)
    assert file["vocabulary"][file["text"]][0] == results.analysis.tokens.texts[0]
    assert file["position"][:1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", np.zeros((2, 3), np.float32), "contradict each other (tokens out of order)"),
        ("text", np.full(7, 99), "contradict each other"),
        ("pairs", np.array(["no/pair"]), "contradict each other ('no/pair')"),
        ("scores", np.array([["x"]]), "scores is <U1"),
        ("scores", np.array([[{}]], dtype=object), "damaged"),
    ],
)
def test_a_damaged_file_is_named(results, tmp_path, name, value, message):
    results.write(tmp_path, page=False)
    path = tmp_path / TOKENS_NAME
    arrays = {**np.load(path), name: value}
    np.savez(path, **arrays)
    with pytest.raises(ResultsError, match=f"{TOKENS_NAME}: .*{re.escape(message)}"):
        Results.read(tmp_path / FILE_NAME)


@pytest.mark.slow
def test_a_checkpoints_tokens_are_read_as_its_tokenizer_does(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    decode = Experiment(checkpoint.path)._decode
    ids = [5, 30, 60, 90]
    assert [decode(i) for i in ids] == [checkpoint.read_tokenizer().decode([i]) for i in ids]
