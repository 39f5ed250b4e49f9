"""The files and folders that `data:` names, looked at before any work, as ingest will; no photo is decoded."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.errors import BadInput, printable
from pipeline.data.paths import Place, check_folder, is_there, place_of
from pipeline.data.records import WeakKind
from pipeline.stages.folders import find_photos
from pipeline.stages.ingest import IngestConfig
from pipeline.stages.intake import Intake
from pipeline.stages.sources import CocoData, FolderData, Split, coco_splits
from pipeline.toyworld.world import classes


@dataclass
class Inputs:
    """What was found: `problems`, and the names of the classes that weak labels leave to be `sought`."""

    problems: list[str] = field(default_factory=list)
    sought: tuple[str, ...] = ()


def look_at(config: IngestConfig, root: Path) -> Inputs:
    """Everything that would end ingest, told by opening the COCO files and looking for the images they list."""
    data, found = config.data, Inputs()
    try:
        if isinstance(data, CocoData):
            _look_at_files(data, config, root, found)
        elif isinstance(data, FolderData):
            found.sought = tuple(data.classes) if config.kind is WeakKind.NONE else ()
            find_photos(place_of(root, data.images))
        elif config.kind in (WeakKind.NONE, WeakKind.CLASS):
            found.sought = tuple(c.name for c in classes(data.world))
    except BadInput as error:
        found.problems += str(error).splitlines()
    return found


def _look_at_files(data: CocoData, config: IngestConfig, root: Path, found: Inputs) -> None:
    splits = coco_splits(data, root)
    for folder in dict.fromkeys(split.images for split in splits):
        found.problems += _folder_problems(folder)
    with Intake(splits, config.setting()) as intake:
        found.sought = intake.sought()
        found.problems += [] if found.problems else _absent(intake, splits)
        intake.check()


def _folder_problems(folder: Place) -> list[str]:
    try:
        check_folder(folder)
    except BadInput as error:
        return [str(error)]
    return []


def _absent(intake: Intake, splits: list[Split]) -> list[str]:
    """The splits of which not one listed image is there; single ones that lack go to quarantine."""
    return [
        f"{split.json_file}: none of its {len(names)} images is in {printable(str(split.images))}, first {names[0]!r}"
        for split, names in zip(splits, intake.listed(), strict=True)
        if names and not any(is_there(split.images, name) for name in names)
    ]
