"""What a COCO file lists and a record does not hold; each function is a pass of its own over the file."""

from pathlib import Path

from pipeline.data.coco_json import entries
from pipeline.data.rle_text import MAX_PIXELS


def listed_roles(path: Path) -> dict[int, str]:
    """What our own export says of its images (`pseudo.role`), by id; empty for a file of others."""
    roles = {}
    for entry in entries(path, frozenset({"images"})):
        raw = entry.value if isinstance(entry.value, dict) else {}
        extra, number = raw.get("pseudo"), raw.get("id")
        if type(number) is int and isinstance(extra, dict) and isinstance(extra.get("role"), str):
            roles[number] = extra["role"]
    return roles


def listed_areas(path: Path) -> dict[int, float]:
    """The `area` of annotations by id, where it is a number that a mask can have."""
    areas = {}
    for entry in entries(path, frozenset({"annotations"})):
        raw = entry.value if isinstance(entry.value, dict) else {}
        area, number = raw.get("area"), raw.get("id")
        if type(number) is not int or isinstance(area, bool) or not isinstance(area, int | float):
            continue
        if 0 <= area <= MAX_PIXELS:  # NaN is not
            areas[number] = float(area)
    return areas
