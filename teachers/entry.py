"""What an entry of the catalog is: one kind of teacher or proposer, and the place where a model is to live."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pipeline.data.records import Ontology
from teachers.protocols import Proposer, Teacher

Kind = Literal["teacher", "proposer"]


@dataclass(frozen=True)
class Place:
    """Where a model is to live: the classes it serves, its device, and the folder it was tuned into, if any."""

    ontology: Ontology
    device: str
    artifact: Path | None = None


@dataclass(frozen=True)
class Known:
    """The only `names`, normalised, that a proposer can find; `told` says so: "the proposer knows this and that"."""

    names: frozenset[str]
    told: str


@dataclass(frozen=True)
class Entry:
    """One kind of model; `what` says so in a line, `licence` is its code's.

    `identity` tells what the weights that settings name are, by content; `inspect` has, for each part of the model that
    has weights of its own, what raises BadInput unless they fit. `tunable`: whether `finetune_teacher` can work on it;
    `gated`: whether `gate` can too. `whole_classes`: it labels classes, not objects, and reads no more than tags.
    `finds`: whether a teacher of these settings finds its boxes by itself. `knows`: the only names that a proposer can
    find, None for any.
    """

    kind: Kind
    what: str
    Settings: type[BaseModel]
    build: Callable[[BaseModel, Place], Teacher | Proposer]
    identity: Callable[[BaseModel], Mapping[str, str]]
    inspect: Mapping[str, Callable[[BaseModel], None]]
    tunable: bool = False
    gated: bool = False
    whole_classes: bool = False
    finds: Callable[[BaseModel], bool] = lambda _: False
    knows: Callable[[BaseModel], Known | None] = lambda _: None
    licence: str = "Apache-2.0"
