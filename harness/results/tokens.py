"""The tokens' scores in a file of their own beside the results, `alignment_artifact_tokens.npz`."""

import io
import zipfile
from pathlib import Path

import numpy as np

from harness.analysis.layers import Analysis
from harness.analysis.tokens import TokenScores
from harness.data.activations import AnalysisError
from harness.data.npz_file import read_arrays
from harness.results.file import ResultsError

#: Its name.
TOKENS_NAME = "alignment_artifact_tokens.npz"

_ARRAYS = {
    "run": "U", "pairs": "U", "layers": "i", "sites": "U", "vocabulary": "U", "pair": "i",
    "artifact": "b", "position": "i", "counts": "b", "text": "i", "scores": "f",
}  # fmt: skip


def _run(analysis: Analysis) -> str:
    """What tells the file of one run from that of another."""
    return " ".join(str(analysis.provenance.get(name)) for name in ("run_key", "date"))


def to_bytes(analysis: Analysis) -> bytes | None:
    """The file's content; None where no tokens were scored.

    Arrays: `scores` float32 (layers and sites, tokens), whose rows are `layers` and `sites` and
    whose columns are told by `pair` (an index into `pairs`), `artifact` (whether it is of the
    artifact prompt), `position` (from 0), `text` (an index into `vocabulary`) and `counts` (whether
    it is one of those that the prompt's score is the average of).
    """
    tokens = analysis.tokens
    if tokens is None:
        return None
    vocabulary, text = np.unique(np.array(tokens.texts, dtype=np.str_), return_inverse=True)
    lengths = tokens.lengths.ravel()
    position = np.concatenate([np.arange(length) for length in lengths])
    of_prompt = np.repeat(np.arange(len(lengths)), lengths)
    arrays = {
        "run": np.array(_run(analysis)),
        "pairs": np.array([str(pair) for pair in tokens.pairs]),
        "layers": np.array([layer for layer, _ in tokens.scores]),
        "sites": np.array([site for _, site in tokens.scores]),
        "vocabulary": vocabulary,
        "pair": (of_prompt // 2).astype(np.int32),
        "artifact": of_prompt % 2 == 1,
        "position": position.astype(np.int32),
        "counts": position < tokens.lengths.min(axis=1)[of_prompt // 2],
        "text": text.astype(np.int32),
        "scores": np.stack(list(tokens.scores.values())),
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            # A date of its own would make each file another one.
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with file.open(member, "w") as content:
                np.lib.format.write_array(content, array, allow_pickle=False)
    return stream.getvalue()


def read_tokens(path: Path, analysis: Analysis) -> TokenScores | None:
    """The scores that belong to an analysis; None where the file isn't there, or is of another run.

    Raises:
        ResultsError: it is damaged, or holds something else than it should.
    """
    if not path.exists():
        return None
    try:
        found = read_arrays(path, list(_ARRAYS))
    except AnalysisError as error:
        raise ResultsError(str(error)) from error
    wrong = [name for name, kind in _ARRAYS.items() if found[name].dtype.kind != kind]
    if wrong:
        raise ResultsError(f"{path}: {wrong[0]} is {found[wrong[0]].dtype}")
    if found["run"].tolist() != _run(analysis):
        return None
    pairs = {str(pair): pair for pair in analysis.scored}
    try:
        scores, text = found["scores"], found["vocabulary"][found["text"]].tolist()
        prompts = found["pair"] * 2 + found["artifact"]
        lengths = np.bincount(prompts, minlength=2 * len(found["pairs"])).reshape(-1, 2)
        if (np.diff(prompts) < 0).any() or scores.shape[1:] != (len(text),):
            raise ValueError("tokens out of order")
        keys = zip(found["layers"].tolist(), found["sites"].tolist(), strict=True)
        return TokenScores(
            tuple(pairs[name] for name in found["pairs"].tolist()),
            lengths,
            tuple(text),
            dict(zip(keys, scores, strict=True)),
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ResultsError(f"{path}: its parts contradict each other ({error})") from error
