"""Keys: a result is found by the sha256 of all that it depends on, and of nothing else.

Never in a key: resources, workers, engine, where the user's data and weights lie (their content is), times. Floats and
texts go in by their canonical JSON.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.engine.machine import Name
from pipeline.engine.plan import PlannedStage

KEY_FORMAT = 3  # bump when what a unit or artifact file looks like changes
DTYPE = "float32"  # what stages compute in unless their own config says otherwise


@dataclass(frozen=True)
class Setting:
    """What all stages of a run share and every key holds."""

    device_type: str
    torch_threads: int
    ontology_digest: str


def canonical(value: JsonValue) -> bytes:
    """The one JSON spelling of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(value: JsonValue) -> str:
    """sha256 of the canonical JSON, hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def stage_digest(planned: PlannedStage, *, artifacts: Mapping[str, str], setting: Setting) -> str:
    """Digest of all that the units of one stage have in common; `artifacts`: name -> content digest."""
    return digest_of(
        {
            "format": KEY_FORMAT,
            "stage": planned.stage.name,
            "version": planned.stage.version,
            "config": config_content(planned),
            "weights": dict(planned.weights),
            "artifacts": dict(artifacts),
            "ontology": setting.ontology_digest,
            "device": setting.device_type,
            "dtype": DTYPE,
            "torch_threads": setting.torch_threads,
        }
    )


def config_content(planned: PlannedStage) -> JsonValue:
    """A stage's settings without what is not in its keys."""
    return _without(
        planned.config.model_dump(mode="json"), planned.not_in_key | type(planned.config).not_in_key
    )


def _without(value: JsonValue, paths: Collection[str]) -> JsonValue:
    if not isinstance(value, dict):
        return value
    inner = {
        key: [path.partition(".")[2] for path in paths if path.partition(".")[0] == key] for key in value
    }
    return {key: _without(child, inner[key]) for key, child in value.items() if key not in paths}


def unit_key(stage: str, bucket: str, inputs: str) -> str:
    """Key of one unit: the stage's digest, the bucket's name and the digest of its input rows."""
    return digest_of({"kind": "unit", "stage": stage, "bucket": bucket, "inputs": inputs})


def key_with_losses(unit: str, lost: Mapping[Name, str]) -> str:
    """Key of a unit, or of ingest's artifact, from which the engine had to leave out images (name -> reason).

    An unreadable disk or a killed worker is no matter of content: under the unit's own key it would be kept for ever.
    """
    return digest_of({"kind": "with losses", "unit": unit, "lost": {str(i): r for i, r in lost.items()}})


def job_key(
    stage: str, *, inputs: str, seed: int, identity: str, timed: Mapping[str, str] | None = None
) -> str:
    """Recipe key of a job: its stage's digest, its input rows, the seed and what it reads from outside.

    `timed`: label -> digest of the keys of the stages whose seconds it reads.
    """
    parts: JsonValue = {
        "kind": "job",
        "stage": stage,
        "inputs": inputs,
        "seed": seed,
        "identity": identity,
        "timed": dict(timed or {}),
    }
    return digest_of(parts)
