"""The results file, `alignment_artifact_analysis_results.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import write_whole
from harness.analysis.causality import Effect
from harness.analysis.comparison import VersionComparison
from harness.analysis.controls import TextBaseline
from harness.analysis.layers import Analysis, LayerResult, PairResponses, layer_id
from harness.analysis.verdict import CRITERIA, Outcome, Verdict, overall
from harness.data.activations import Dropped, LayerSite, PairActivations
from harness.data.pairs import Pair
from harness.data.store import Response
from harness.results.schema import from_plain, plain, record, schema_of
from harness.settings import AnalysisSettings, Criteria

#: Version of the file's schema; raised when a field changes its meaning or goes away.
SCHEMA_VERSION = 1
FILE_NAME = "alignment_artifact_analysis_results.json"

# Keys of `LayerResult`'s fields, where they are called otherwise in the file.
_KEYS = {
    "layer": "layer",
    "site": "site",
    "separation": "held_out",
    "in_sample": "in_sample",
    "companions": "companions",
    "transfer": "category_transfer",
    "steps": "steps",
    "quality": "pair_quality",
    "beyond_base": "beyond_base",
}
_CAUSALITY = Mapping[LayerSite, tuple[Effect, Effect]]


class ResultsError(UserError):
    """A results file that can't be read; the message names it and the place."""


@dataclass(frozen=True)
class Results:
    """What a results file holds; the analysis without its activations."""

    analysis: Analysis
    criteria: Criteria
    comparison: VersionComparison | None
    causal: _CAUSALITY


def to_json(
    analysis: Analysis,
    criteria: Criteria,
    comparison: VersionComparison | None = None,
    causal: _CAUSALITY | None = None,
) -> dict[str, Any]:
    """The results as JSON values: NaN becomes null, infinities the strings "inf" and "-inf"."""
    layers = [
        {
            "id": result.id,
            "verdict": overall(result, criteria),
            "criteria": {name: asdict(judge(result, criteria)) for name, judge in CRITERIA.items()},
            **{key: getattr(result, name) for name, key in _KEYS.items()},
        }
        for result in analysis.values()
    ]
    content = {
        "schema_version": SCHEMA_VERSION,
        "provenance": analysis.provenance,
        "criteria": asdict(criteria),
        "settings": analysis.settings,
        "pairs": {
            "scored": [f"{pair.category}/{pair.id}" for pair in analysis.scored],
            "dropped": _dropped(analysis.dropped),
            "dropped_beside": _dropped(analysis.dropped_beside),
            "merged_duplicates": analysis.merged,
            "cut_to_the_shorter": [f"{pair.category}/{pair.id}" for pair in analysis.cut],
        },
        "layers": layers,
        "text_baselines": analysis.text,
        "comparison": comparison,
        "causality": causal or {},
        "responses": [
            {
                "pair": f"{r.pair.category}/{r.pair.id}",
                "natural": {"prompt": r.pair.natural, **asdict(r.natural)},
                "artifact": {"prompt": r.pair.artifact, **asdict(r.artifact)},
            }
            for r in analysis.responses
        ],
    }
    return plain(content)


def _dropped(dropped: Sequence[Dropped]) -> list[dict[str, str]]:
    return [{"pair": f"{d.pair.category}/{d.pair.id}", "reason": d.reason} for d in dropped]


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the results file."""
    hints = LayerResult.__annotations__
    answer = schema_of(Response)["properties"]
    said = record({"prompt": {"type": "string"}, **answer})
    text, verdict = {"type": "string"}, schema_of(Verdict)
    dropped = {"type": "array", "items": record({"pair": text, "reason": text})}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FILE_NAME,
        **record(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "provenance": {"type": "object"},
                "criteria": schema_of(Criteria),
                "settings": schema_of(AnalysisSettings),
                "pairs": record(
                    {
                        "scored": schema_of(tuple[str, ...]),
                        "dropped": dropped,
                        "dropped_beside": dropped,
                        "merged_duplicates": schema_of(int),
                        "cut_to_the_shorter": schema_of(tuple[str, ...]),
                    },
                    # Files from before they were counted lack them.
                    optional=["cut_to_the_shorter", "dropped_beside"],
                ),
                "layers": {
                    "type": "array",
                    "minItems": 1,
                    "items": record(
                        {
                            "id": text,
                            "verdict": schema_of(Outcome),
                            "criteria": record(dict.fromkeys(CRITERIA, verdict)),
                            **{key: schema_of(hints[name]) for name, key in _KEYS.items()},
                        }
                    ),
                },
                "text_baselines": schema_of(tuple[TextBaseline, ...]),
                "comparison": schema_of(VersionComparison | None),
                "causality": schema_of(_CAUSALITY),
                "responses": {
                    "type": "array",
                    "items": record({"pair": text, "natural": said, "artifact": said}),
                },
            }
        ),
    }  # fmt: skip


def check(content: Any, source: str) -> None:
    """Raise a `ResultsError` that names the first place where `content` isn't of the schema or
    contradicts itself, or says that a text of it can't be written."""
    error = next(Draft202012Validator(schema()).iter_errors(content), None)
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top"
        raise ResultsError(f"{source}: not a results file: at {where}: {error.message[:200]}")
    for entry in content["layers"]:
        if entry["id"] != layer_id(entry["layer"], entry["site"]):
            raise ResultsError(
                f"{source}: {entry['id']} is said to be layer {entry['layer']}, {entry['site']}"
            )
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ResultsError(f"{source}: a text holds half a surrogate pair") from None


def loads(text: str) -> Any:
    """`json.loads` for what `to_json` made.

    Raises:
        ValueError: not JSON, or a whole number that is no float's size.
    """
    return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def write_results(
    path: Path,
    analysis: Analysis,
    criteria: Criteria,
    comparison: VersionComparison | None = None,
    causal: _CAUSALITY | None = None,
) -> None:
    """Write the results file, whole or not at all; what isn't of its schema isn't written."""
    content = to_json(analysis, criteria, comparison, causal)
    check(content, str(path))
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(path, (text + "\n").encode())


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        ResultsError: it can't be read, is damaged, or of another version; file and place are named.
    """
    try:
        content = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: not readable as JSON ({error})") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if type(found) is int and found != SCHEMA_VERSION:
        raise ResultsError(
            f"{path}: schema version {found}; this harness reads version {SCHEMA_VERSION}"
        )
    check(content, str(path))
    try:
        return _from_json(content)
    except (ValueError, KeyError) as error:
        raise ResultsError(f"{path}: its parts contradict each other ({error})") from error


def _from_json(content: Mapping[str, Any]) -> Results:
    responses = []
    for entry in content["responses"]:
        category, _, name = entry["pair"].partition("/")
        pair = Pair(category, name, entry["natural"]["prompt"], entry["artifact"]["prompt"])
        answers = [from_plain(Response, entry[condition]) for condition in ("natural", "artifact")]
        responses.append(PairResponses(pair, *answers))
    pairs = {f"{r.pair.category}/{r.pair.id}": r.pair for r in responses}
    hints = LayerResult.__annotations__
    layers = [
        LayerResult(**{n: from_plain(hints[n], entry[key]) for n, key in _KEYS.items()})
        for entry in content["layers"]
    ]
    scored = tuple(pairs[name] for name in content["pairs"]["scored"])
    for layer in layers:
        if {len(layer.separation.scores_natural), len(layer.separation.scores_artifact)} != {
            len(scored)
        }:
            raise ValueError(f"{layer.id} has other scores than pairs")
    analysis = Analysis(
        results={(layer.layer, layer.site): layer for layer in layers},
        activations=PairActivations((), (), (), ()),
        scored=scored,
        responses=tuple(responses),
        dropped=tuple(Dropped(pairs[d["pair"]], d["reason"]) for d in content["pairs"]["dropped"]),
        dropped_beside=tuple(
            Dropped(pairs[d["pair"]], d["reason"])
            for d in content["pairs"].get("dropped_beside", [])
        ),
        merged=content["pairs"]["merged_duplicates"],
        cut=tuple(pairs[name] for name in content["pairs"].get("cut_to_the_shorter", [])),
        settings=from_plain(AnalysisSettings, content["settings"]),
        text=from_plain(tuple[TextBaseline, ...], content["text_baselines"]),
        provenance=content["provenance"],
    )
    return Results(
        analysis,
        from_plain(Criteria, content["criteria"]),
        from_plain(VersionComparison | None, content["comparison"]),
        from_plain(_CAUSALITY, content["causality"]),
    )
