"""The results file, `alignment_artifact_analysis_results.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from harness.activations import LayerSite
from harness.analysis import Analysis, layer_id
from harness.causality import Effect
from harness.store import write_atomically
from harness.verdict import CRITERIA, Criteria, overall
from harness.versions import VersionComparison

#: Version of the file's schema; raised when a field changes its meaning or goes away.
SCHEMA_VERSION = 1
FILE_NAME = "alignment_artifact_analysis_results.json"


def to_json(
    analysis: Analysis,
    criteria: Criteria,
    comparison: VersionComparison | None = None,
    causal: Mapping[LayerSite, tuple[Effect, Effect]] | None = None,
) -> dict[str, Any]:
    """The results as JSON values: NaN becomes null, infinities the strings "inf" and "-inf"."""
    layers = [
        {
            "id": result.id,
            "layer": result.layer,
            "site": result.site,
            "verdict": overall(result, criteria),
            "criteria": {name: asdict(judge(result, criteria)) for name, judge in CRITERIA.items()},
            "held_out": asdict(result.separation),
            "in_sample": asdict(result.in_sample),
            "companions": {name: asdict(s) for name, s in result.companions.items()},
            "category_transfer": [asdict(transfer) for transfer in result.transfer],
            "steps": [asdict(step) for step in result.steps],
            "pair_quality": None if result.quality is None else asdict(result.quality),
            "beyond_base": None if result.beyond_base is None else asdict(result.beyond_base),
        }
        for result in analysis.values()
    ]
    content = {
        "schema_version": SCHEMA_VERSION,
        "provenance": analysis.provenance,
        "criteria": asdict(criteria),
        "pairs": {
            "scored": [f"{pair.category}/{pair.id}" for pair in analysis.scored],
            "dropped": [
                {"pair": f"{d.pair.category}/{d.pair.id}", "reason": d.reason}
                for d in analysis.dropped
            ],
            "merged_duplicates": analysis.merged,
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


def write_results(
    path: Path,
    analysis: Analysis,
    criteria: Criteria,
    comparison: VersionComparison | None = None,
    causal: Mapping[LayerSite, tuple[Effect, Effect]] | None = None,
) -> None:
    """Write the results file, whole or not at all."""
    content = to_json(analysis, criteria, comparison, causal)
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON values: NaN becomes null, infinities the
    strings "inf" and "-inf", keys (layer, site) their id."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _key(key: Any) -> str:
    return layer_id(*key) if isinstance(key, tuple) else str(key)
