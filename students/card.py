"""`student.json`, the card of a student's artifact: which kind it is, its settings, and the classes it knows."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology

CARD = "student.json"


class Card(BaseModel):
    """`use` is the catalog's name of the student; `categories` its ontology in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: str
    settings: dict[str, JsonValue]
    categories: tuple[Category, ...]

    @property
    def ontology(self) -> Ontology:
        return Ontology(self.categories)


def write_card(card: Card, artifact: Path) -> None:
    """Writes `artifact`/student.json."""
    (artifact / CARD).write_text(card.model_dump_json(indent=1) + "\n")


def read_card(artifact: Path) -> Card:
    """The card of an artifact's folder; `BadInput` if it has none or it is not one."""
    path = artifact / CARD
    try:
        return Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: expected a student's card, found none ({error.strerror})") from error
    except ValidationError as error:
        raise BadInput(f"{path}: not a student's card: {error}") from error
