"""The files and folders that `data:` names, looked at before any work, as ingest will; no photo is decoded."""

import os
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.stages.ingest import IngestConfig
from pipeline.stages.intake import Intake
from pipeline.stages.sources import FolderData, Split, ToyworldData, coco_splits, find_photos


def input_problems(config: IngestConfig, root: Path) -> list[str]:
    """Everything that would end ingest, told by opening the COCO files and looking for the images they list."""
    data, problems = config.data, list[str]()
    if isinstance(data, ToyworldData):
        return []
    try:
        if isinstance(data, FolderData):
            find_photos(root / data.images)
            return []
        splits = coco_splits(data, root)
        folders = dict.fromkeys(split.images for split in splits)
        problems += [f"{f}: expected a folder of images, found none" for f in folders if not f.is_dir()]
        with Intake(splits, config.setting()) as intake:
            problems += [] if problems else _absent(intake, splits)
            intake.check()
    except BadInput as error:
        problems += str(error).splitlines()
    return problems


def _absent(intake: Intake, splits: list[Split]) -> list[str]:
    """The splits of which not one listed image is there; single ones that lack go to quarantine."""
    return [
        f"{split.json_file}: none of its {len(names)} images is in {split.images}, first {names[0]!r}"
        for split, names in zip(splits, intake.listed(), strict=True)
        if names and not any(os.path.isfile(split.images / name) for name in names)
    ]
