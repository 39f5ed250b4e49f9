"""The files and folders that `data:` names, looked at before any work, as ingest will; no photo is decoded."""

from pathlib import Path

from pipeline.data.errors import BadInput, printable
from pipeline.data.paths import Place, check_folder, is_there, place_of
from pipeline.stages.folders import find_photos
from pipeline.stages.ingest import IngestConfig
from pipeline.stages.intake import Intake
from pipeline.stages.sources import FolderData, Split, ToyworldData, coco_splits


def input_problems(config: IngestConfig, root: Path) -> list[str]:
    """Everything that would end ingest, told by opening the COCO files and looking for the images they list."""
    data, problems = config.data, list[str]()
    if isinstance(data, ToyworldData):
        return []
    try:
        if isinstance(data, FolderData):
            find_photos(place_of(root, data.images))
            return []
        splits = coco_splits(data, root)
        for folder in dict.fromkeys(split.images for split in splits):
            problems += _folder_problems(folder)
        with Intake(splits, config.setting()) as intake:
            problems += [] if problems else _absent(intake, splits)
            intake.check()
    except BadInput as error:
        problems += str(error).splitlines()
    return problems


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
