"""`pipeline validate` on anything: it ends in time with 0, 1 or 2 and whole lines, and agrees with what a run does."""

import copy
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import validate_fakes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from validate_fakes import examine, mutated, taken_in, valid_set, write_photos

ROOT = Path(__file__).parents[2]
BYTES = 1200  # mutated files; each test here takes a few seconds
SETS = 150
SLOW_BYTES = 60_000

KEYS = (
    *(
        "images",
        "annotations",
        "categories",
        "info",
        "id",
        "image_id",
        "category_id",
        "file_name",
        "width",
        "height",
    ),
    *(
        "segmentation",
        "bbox",
        "area",
        "iscrowd",
        "size",
        "counts",
        "name",
        "tags",
        "instructions",
        "phrase",
        "score",
    ),
    *(
        "pseudo",
        "ignore",
        "source",
        "reason",
        "point_coords",
        "point_labels",
        "segments_info",
        "supercategory",
        "a" * 3000,
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 30),
    st.sampled_from(
        (0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**400)
    ),
    st.floats(-40, 60, width=16),
)
TEXTS = st.one_of(
    st.sampled_from(
        (
            "1.png",
            "2.png",
            "../x",
            "/x",
            "",
            " ",
            "http://x/y",
            "human",
            "teacher",
            "\ud800",
            "a\x1b[0m\u202e",
            "a" * 3000,
        )
    ),
    st.text(max_size=6),
    st.text("0123456789:;<=>?@PQRnopq", max_size=12),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), TEXTS), inner, max_size=8),
    ),
    max_leaves=40,
)
OUTLINES = st.lists(st.lists(st.one_of(st.integers(-10, 45), NUMBERS), max_size=10), max_size=4)
RUNS = st.fixed_dictionaries(
    {
        "size": st.sampled_from(([16, 20], [20, 16], [16], 5)),
        "counts": st.one_of(st.lists(NUMBERS, max_size=6), TEXTS),
    }
)
VALUES = st.one_of(SCALARS, JSON, OUTLINES, RUNS)
ENTRIES = st.one_of(JSON, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=9))


def mostly(*usual: object, rarely: st.SearchStrategy[object] = VALUES) -> st.SearchStrategy[object]:
    """One of the usual values, seldom anything."""
    return st.integers(0, 19).flatmap(lambda n: rarely if n == 19 else st.sampled_from(usual))


def entries(usual: st.SearchStrategy[object], most: int) -> st.SearchStrategy[list[object]]:
    """Entries that are nearly all as they should be."""
    return st.lists(st.integers(0, 19).flatmap(lambda n: ENTRIES if n == 19 else usual), max_size=most)


IMAGES = st.fixed_dictionaries(
    {"id": mostly(0, 1, 2), "file_name": mostly("1.png", "2.png"), "width": mostly(20), "height": mostly(16)},
    optional={
        "tags": mostly([], [3]),
        "instructions": VALUES,
        "pseudo": st.dictionaries(st.sampled_from(KEYS), VALUES),
    },
)
ANNOTATIONS = st.fixed_dictionaries(
    {
        "id": st.integers(0, 99),
        "image_id": mostly(0, 1, 2),
        "category_id": mostly(0, 3),
        "iscrowd": mostly(0, 1),
    },
    optional={
        "segmentation": st.one_of(OUTLINES, RUNS, VALUES),
        "bbox": st.one_of(st.lists(st.floats(-5, 30), min_size=4, max_size=4), VALUES),
        "area": VALUES,
        "point_coords": OUTLINES,
        "point_labels": st.lists(st.integers(0, 1), max_size=3),
        "pseudo": st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
        "score": NUMBERS,
    },
)
CATEGORIES = st.fixed_dictionaries({"id": mostly(0, 3, 4), "name": mostly("cat", "Cat ", "dog")})
DATASETS = st.fixed_dictionaries(
    {
        "images": entries(IMAGES, 4),
        "annotations": entries(ANNOTATIONS, 6),
        "categories": entries(CATEGORIES, 3),
    },
    optional={"info": JSON, "x": JSON, "a" * 3000: st.lists(NUMBERS)},
)

CALM = settings(suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "images")
        yield Path(folder)


def agree(folder: Path, content: object) -> None:
    """What `validate` calls an error is what a run leaves out, and it says 2 where a run stops."""
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    seen = examine(path, folder / "images")
    left_out, stop = taken_in(path, folder / "images")
    assert (seen.code == 2) == bool(left_out or stop), (seen.lines, left_out, stop)
    if not stop:
        # Of a photo that is no use a run does not read the annotations.
        assert set(left_out) <= set(seen.errors)
        assert seen.errors == left_out or any(line.startswith("images[") for line in left_out)


@given(content=DATASETS)
@settings(CALM, max_examples=SETS)
def test_made_up_sets(place: Path, content: object) -> None:
    agree(place, content)


@given(data=st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())))
@settings(CALM, max_examples=SETS)
def test_what_is_no_set(place: Path, data: bytes) -> None:
    (place / "set.json").write_bytes(data)
    assert examine(place / "set.json", None).code == 2


def leaves(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The ways to every value within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from leaves(item, (*path, key))


LEAVES = list(leaves(valid_set()))


@given(changes=st.lists(st.tuples(st.sampled_from(LEAVES), VALUES, st.booleans()), min_size=1, max_size=4))
@settings(CALM, max_examples=2 * SETS)
def test_a_valid_set_with_other_values_in_it(
    place: Path, changes: list[tuple[tuple[object, ...], object, bool]]
) -> None:
    content = copy.deepcopy(valid_set())
    for path, value, drop in changes:
        *way, last = path
        holder: object = content
        try:
            for key in way:
                holder = holder[key]  # type: ignore[index]
            if drop:
                del holder[last]  # type: ignore[attr-defined]
            else:
                holder[last] = value  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    agree(place, content)


def test_mutated_bytes(place: Path) -> None:
    dice = random.Random(0)
    data = json.dumps(valid_set(), ensure_ascii=False).encode()
    codes = set()
    for _ in range(BYTES):
        (place / "set.json").write_bytes(mutated(data, dice))
        codes.add(examine(place / "set.json", place / "images").code)
    assert codes == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_mutated_bytes_in_a_process_of_their_own(seed: int) -> None:
    """A crash of native code ends that process, not this one."""
    done = subprocess.run(
        [sys.executable, validate_fakes.__file__, str(SLOW_BYTES), str(seed)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sys.stdout.write(done.stdout)
