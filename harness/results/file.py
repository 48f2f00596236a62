"""The results file, `alignment_artifact_analysis_results.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_type_hints

from jsonschema import Draft202012Validator

from gemma_mlx.errors import UserError
from harness.analysis.behaviour import PairResponses
from harness.analysis.claims import CLAIMS
from harness.analysis.findings import Findings
from harness.analysis.judges import CRITERIA
from harness.analysis.layers import Analysis, LayerResult
from harness.analysis.verdict import Outcome, Verdict
from harness.data.activations import PairActivations
from harness.data.pairs import CONDITIONS, Pair
from harness.data.store import Response
from harness.results.schema import from_plain, plain, record, schema_of

#: Version of the file's schema; raised when a field changes its meaning or goes away.
SCHEMA_VERSION = 6
FILE_NAME = "alignment_artifact_analysis_results.json"

# Fields of the analysis that say what became of the pairs.
_PAIRS = (
    "scored",
    "dropped",
    "dropped_beside",
    "merged",
    "cut",
    "links",
    "alike",
    "alike_undecided",
)


class ResultsError(UserError):
    """A results file that can't be read; the message names it and the place."""


def to_json(found: Findings) -> dict[str, Any]:
    """The results as JSON values: NaN becomes null, infinities the strings "inf" and "-inf"."""
    analysis = found.analysis
    verdicts = found.verdicts()
    content = {
        "schema_version": SCHEMA_VERSION,
        "provenance": analysis.provenance,
        "criteria": found.criteria,
        "settings": analysis.settings,
        "pairs": {name: getattr(analysis, name) for name in _PAIRS},
        "layers": [
            {
                "id": result.id,
                "verdict": found.outcome(key),
                "criteria": verdicts[key],
                "claims": found.ladder(key).verdicts,
                **vars(result),
            }
            for key, result in found.items()
        ],
        "text": analysis.text,
        "behaviour": analysis.behaviour,
        "openings": analysis.openings,
        "comparison": found.comparison,
        "interventions": found.interventions,
        "responses": [
            {
                "pair": r.pair,
                "natural": {"prompt": r.pair.natural, **asdict(r.natural)},
                "artifact": {"prompt": r.pair.artifact, **asdict(r.artifact)},
            }
            for r in analysis.responses
        ],
    }
    return plain(content)


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the results file."""
    found, analysis = get_type_hints(Findings), get_type_hints(Analysis)
    text, verdict = schema_of(str), schema_of(Verdict)
    said = record({"prompt": text, **schema_of(Response)["properties"]})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FILE_NAME,
        **record(
            {
                "schema_version": {"const": SCHEMA_VERSION},
                "provenance": {"type": "object"},
                "criteria": schema_of(found["criteria"]),
                "settings": schema_of(analysis["settings"]),
                "pairs": record({name: schema_of(analysis[name]) for name in _PAIRS}),
                "layers": {
                    "type": "array",
                    "minItems": 1,
                    "items": record(
                        {
                            "id": text,
                            "verdict": schema_of(Outcome),
                            "criteria": record(dict.fromkeys(CRITERIA, verdict)),
                            "claims": record(dict.fromkeys(CLAIMS, schema_of(Verdict | None))),
                            **schema_of(LayerResult)["properties"],
                        }
                    ),
                },
                "text": schema_of(analysis["text"]),
                "behaviour": schema_of(analysis["behaviour"]),
                "openings": schema_of(analysis["openings"]),
                "comparison": schema_of(found["comparison"]),
                "interventions": schema_of(found["interventions"]),
                "responses": {
                    "type": "array",
                    "items": record({"pair": text, "natural": said, "artifact": said}),
                },
            }
        ),
    }


def check(content: Any, source: str) -> None:
    """Raise a `ResultsError` that names the first place where `content` isn't of the schema."""
    error = next(Draft202012Validator(schema()).iter_errors(content), None)
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top"
        raise ResultsError(f"{source}: not a results file: at {where}: {error.message[:200]}")


def to_bytes(found: Findings, source: str) -> bytes:
    """What stands in a results file.

    Raises:
        ResultsError: it wouldn't be of the schema, or can't be written in UTF-8; `source` is its
            name in the message.
    """
    content = to_json(found)
    check(content, source)
    try:
        return f"{json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        raise ResultsError(f"{source}: a text holds half a surrogate pair") from None


def from_json(content: Any, source: str) -> Findings:
    """What a results file holds, given as JSON values; its analysis has no activations.

    Raises:
        ResultsError: damaged, or of another version; `source` and place are named.
    """
    found = content.get("schema_version") if isinstance(content, dict) else None
    if type(found) is int and found != SCHEMA_VERSION:
        raise ResultsError(
            f"{source}: schema version {found}; this harness reads version {SCHEMA_VERSION}"
        )
    check(content, source)
    try:
        return _findings(content)
    except (ValueError, KeyError) as error:
        raise ResultsError(f"{source}: its parts contradict each other ({error})") from error


def _findings(content: Mapping[str, Any]) -> Findings:
    responses = tuple(map(_responses, content["responses"]))
    pairs = {str(r.pair): r.pair for r in responses}
    kinds = get_type_hints(Analysis)
    layers = from_plain(tuple[LayerResult, ...], content["layers"])
    analysis = Analysis(
        results={(layer.layer, layer.site): layer for layer in layers},
        activations=PairActivations((), (), (), (), ()),
        responses=responses,
        provenance=content["provenance"],
        **{
            name: from_plain(kinds[name], content[name])
            for name in ("settings", "text", "behaviour", "openings")
        },
        **{name: from_plain(kinds[name], content["pairs"][name], pairs) for name in _PAIRS},
    )
    for entry, layer in zip(content["layers"], layers, strict=True):
        if entry["id"] != layer.id:
            raise ValueError(f"{entry['id']} is said to be layer {layer.layer}, {layer.site}")
        scores = layer.separation.scores_natural, layer.separation.scores_artifact
        if {len(arm) for arm in scores} != {len(analysis.scored)}:
            raise ValueError(f"{layer.id} has other scores than pairs")
    kinds = get_type_hints(Findings)
    rest = ("criteria", "comparison", "interventions")
    return Findings(analysis, **{name: from_plain(kinds[name], content[name]) for name in rest})


def _responses(entry: Mapping[str, Any]) -> PairResponses:
    category, _, name = entry["pair"].partition("/")
    pair = Pair(category, name, *(entry[condition]["prompt"] for condition in CONDITIONS))
    return PairResponses(pair, *(from_plain(Response, entry[c]) for c in CONDITIONS))
