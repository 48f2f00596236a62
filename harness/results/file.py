"""The results file, `alignment_artifact_analysis_results.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from jsonschema import Draft202012Validator

from gemma_mlx.errors import UserError
from harness.analysis.claims import CLAIMS
from harness.analysis.comparison import VersionComparison
from harness.analysis.controls import TextBaseline
from harness.analysis.findings import Findings
from harness.analysis.layers import Analysis, LayerResult, PairResponses, layer_id
from harness.analysis.verdict import CRITERIA, Outcome, Verdict
from harness.data.activations import Dropped, PairActivations
from harness.data.pairs import CONDITIONS, Pair
from harness.data.store import Response
from harness.results.schema import from_plain, plain, record, schema_of
from harness.settings import AnalysisSettings, Criteria

#: Version of the file's schema; raised when a field changes its meaning or goes away.
SCHEMA_VERSION = 3
FILE_NAME = "alignment_artifact_analysis_results.json"

_LAYER = tuple(f.name for f in fields(LayerResult))


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
        "pairs": {
            "scored": _names(analysis.scored),
            "dropped": _dropped(analysis.dropped),
            "dropped_beside": _dropped(analysis.dropped_beside),
            "merged": analysis.merged,
            "cut": _names(analysis.cut),
        },
        "layers": [
            {
                "id": result.id,
                "verdict": found.outcome(key),
                "criteria": verdicts[key],
                "claims": found.ladder(key).verdicts,
                **{name: getattr(result, name) for name in _LAYER},
            }
            for key, result in found.items()
        ],
        "text": analysis.text,
        "comparison": found.comparison,
        "interventions": found.interventions,
        "responses": [
            {
                "pair": _name(r.pair),
                "natural": {"prompt": r.pair.natural, **asdict(r.natural)},
                "artifact": {"prompt": r.pair.artifact, **asdict(r.artifact)},
            }
            for r in analysis.responses
        ],
    }
    return plain(content)


def _name(pair: Pair) -> str:
    return f"{pair.category}/{pair.id}"


def _names(pairs: Sequence[Pair]) -> list[str]:
    return [_name(pair) for pair in pairs]


def _dropped(dropped: Sequence[Dropped]) -> list[dict[str, str]]:
    return [{"pair": _name(d.pair), "reason": d.reason} for d in dropped]


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the results file."""
    hints = get_type_hints(LayerResult)
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
                        "merged": schema_of(int),
                        "cut": schema_of(tuple[str, ...]),
                    }
                ),
                "layers": {
                    "type": "array",
                    "minItems": 1,
                    "items": record(
                        {
                            "id": text,
                            "verdict": schema_of(Outcome),
                            "criteria": record(dict.fromkeys(CRITERIA, verdict)),
                            "claims": record(dict.fromkeys(CLAIMS, schema_of(Verdict | None))),
                            **{name: schema_of(hints[name]) for name in _LAYER},
                        }
                    ),
                },
                "text": schema_of(tuple[TextBaseline, ...]),
                "comparison": schema_of(VersionComparison | None),
                "interventions": schema_of(get_type_hints(Findings)["interventions"]),
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


def to_text(found: Findings, source: str) -> str:
    """What stands in a results file.

    Raises:
        ResultsError: it wouldn't be of the schema; `source` is its name in the message.
    """
    content = to_json(found)
    check(content, source)
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def parse(text: str, source: str) -> Findings:
    """What a results file holds; its analysis has no activations.

    Raises:
        ResultsError: damaged, or of another version; `source` and place are named.
    """
    try:
        content = loads(text)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{source}: not readable as JSON ({error})") from error
    return from_json(content, source)


def from_json(content: Any, source: str) -> Findings:
    """`parse` for values that were read already."""
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
    responses = []
    for entry in content["responses"]:
        category, _, name = entry["pair"].partition("/")
        pair = Pair(category, name, entry["natural"]["prompt"], entry["artifact"]["prompt"])
        answers = [from_plain(Response, entry[condition]) for condition in CONDITIONS]
        responses.append(PairResponses(pair, *answers))
    pairs = {_name(r.pair): r.pair for r in responses}
    hints = get_type_hints(LayerResult)
    layers = [
        LayerResult(**{name: from_plain(hints[name], entry[name]) for name in _LAYER})
        for entry in content["layers"]
    ]
    listed = content["pairs"]
    scored = tuple(pairs[name] for name in listed["scored"])
    for layer in layers:
        if {len(layer.separation.scores_natural), len(layer.separation.scores_artifact)} != {
            len(scored)
        }:
            raise ValueError(f"{layer.id} has other scores than pairs")
    dropped, beside = (
        tuple(Dropped(pairs[d["pair"]], d["reason"]) for d in listed[name])
        for name in ("dropped", "dropped_beside")
    )
    analysis = Analysis(
        results={(layer.layer, layer.site): layer for layer in layers},
        activations=PairActivations((), (), (), (), ()),
        scored=scored,
        responses=tuple(responses),
        dropped=dropped,
        dropped_beside=beside,
        merged=listed["merged"],
        cut=tuple(pairs[name] for name in listed["cut"]),
        settings=from_plain(AnalysisSettings, content["settings"]),
        text=from_plain(tuple[TextBaseline, ...], content["text"]),
        provenance=content["provenance"],
    )
    rest = ("criteria", "comparison", "interventions")
    kinds = get_type_hints(Findings)
    return Findings(analysis, **{name: from_plain(kinds[name], content[name]) for name in rest})
