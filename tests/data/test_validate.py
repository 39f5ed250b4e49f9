"""`pipeline validate`: a row for each thing that can be wrong with a file, its exit code and its line."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from validate_fakes import (
    GOOD,
    HEIGHT,
    SQUARE,
    WIDTH,
    Change,
    Content,
    check,
    everything_is_there,
    image,
    more,
    named,
    taken_in,
    thing,
    valid_set,
    write_photos,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "images")


def put(**sections: object) -> Change:
    return lambda content: content.update(sections)


def rle(counts: object, size: object = (HEIGHT, WIDTH)) -> Content:
    return {"size": size, "counts": counts}


def mask(segmentation: object) -> Change:
    return thing(2, segmentation=segmentation)


DEEP: object = []
for _ in range(90):
    DEEP = [DEEP]

A, C, BOX = "annotations[0] (id 1)", "annotations[2] (id 3)", "annotations[6] (id 7)"
I, NEW = "images[0] (id 1)", "categories[2] (id 10) name:"  # noqa: E741
ERRORS: list[tuple[str, Change, str]] = [
    ("entry", more("annotations", 5), "annotations[9] entry: expected an object, found 5"),
    ("null", more("images", None), "images[3] entry: expected an object, found None"),
    ("image id 0 twice", more("images", {"id": 1, "file_name": "9.png", "width": 5, "height": 5}),
     "images[3] (id 1) id: expected an id of its own, found 1 a second time"),
    ("image id text", image(id="1"), "images[0] id: expected an integer of at least 0, found '1'"),
    ("image id true", image(id=True), "images[0] id: expected an integer of at least 0, found True"),
    ("image id negative", image(id=-1), "images[0] (id -1) id: expected an integer of at least 0, found -1"),
    ("image id huge", image(id=10**30), "images[0] id: expected an integer of at least 0, found a huge integer"),
    ("no file name", image(file_name=None), f"{I} file_name: expected text, found None"),
    ("absolute", image(file_name="/etc/passwd"),
     f"{I} file_name: expected a path inside the image folder, found '/etc/passwd'"),
    ("out by ..", image(file_name="a/../../x.png"),
     f"{I} file_name: expected a path inside the image folder, found 'a/../../x.png'"),
    ("url", image(file_name="https://x.org/1.png"),
     f"{I} file_name: expected a path, as nothing is fetched, found the URL 'https://x.org/1.png'"),
    ("nul", image(file_name="a\0.png"),
     rf"{I} file_name: expected a path inside the image folder, found 'a\x00.png'"),
    ("half a pair", image(file_name="\ud800.png"), rf"{I} file_name: expected text, found '\ud800.png'"),
    ("width text", image(width="20"), f"{I} width: expected an integer from 1 to 65535, found '20'"),
    ("width 0", image(width=0), f"{I} width: expected an integer from 1 to 65535, found 0"),
    ("too long a side", image(width=80_000_000, height=1),
     f"{I} width: expected an integer from 1 to 65535, found 80000000"),
    ("too many pixels", image(width=60_000, height=60_000),
     f"{I} width: expected at most 89478485 pixels, found 60000x60000"),
    ("tags", image(tags=[3, 77]), f"{I} tags: expected ids of categories, found 77"),
    ("instructions", image(instructions=[1]), f"{I} instructions: expected a list of texts, found [1]"),
    ("ignore", image(pseudo={"ignore": [rle("~")]}),
     f"{I} pseudo.ignore[0].counts: expected COCO's compressed text, found characters outside"),
    ("no photo", image(file_name="gone.png"),
     f"{I} file_name: expected a file, found nothing (gone.png)"),
    ("two entries of a file", more("images", {"id": 9, "file_name": "./1.png", "width": WIDTH, "height": HEIGHT}),
     "images[3] (id 9) file_name: expected one entry, found 2: ids 1, 9 (./1.png)"),
    ("photo in no folder", image(file_name="1.png/2.png"),
     f"{I} file_name: expected a file, found nothing: a part of its path is no folder (1.png/2.png)"),
    ("long name", image(file_name="x" * 5000),
     f"{I} file_name: expected a file, found a name too long for the file system ({'x' * 200}...)"),
    ("hostile name", image(file_name="a\x1b[31m\u202e\nerror.png"),
     rf"{I} file_name: expected a file, found nothing (a\x1b[31m\u202e\nerror.png)"),
    ("photo is a folder", image(file_name="."),
     f"{I} file_name: expected a file, found a folder (.)"),
    ("size", image(2, width=19), "images[2] (id 3) width: expected width x height 20x16 as the file has, found 19x16"),
    ("class", more("categories", {"id": "a", "name": "a"}),
     "categories[2] id: expected an integer of at least 0, found 'a'"),
    ("class twice", more("categories", {"id": 3, "name": "a"}),
     "categories[2] (id 3) id: expected an id of its own, found 3 a second time"),
    ("class without a name", more("categories", {"id": 9, "name": " "}),
     "categories[2] (id 9) name: expected text, found ' '"),
    ("annotation id text", thing(id="x"), "annotations[0] id: expected an integer, found 'x'"),
    ("annotation id huge", thing(id=10**4000), "annotations[0] id: expected an integer, found a huge integer"),
    ("annotation id twice", thing(1, id=1),
     "annotations[1] (id 1) id: expected an id of its own, found 1 a second time"),
    ("no image", thing(image_id=9), f"{A} image_id: expected the id of an image, found 9 of no image"),
    ("no class", thing(category_id=4), f"{A} category_id: expected the id of a category, found 4"),
    ("class of another type", thing(category_id=[DEEP]),
     f"{A} category_id: expected an integer, found [[[[[[[...]]]]]]]"),
    ("phrase and class", thing(phrase="x"), f"{A} phrase: expected a phrase or a category_id, found both"),
    ("iscrowd", thing(iscrowd=2), f"{A} iscrowd: expected 0 or 1, found 2"),
    ("segmentation text", mask("x.png"),
     f"{C} segmentation: expected polygons or an RLE with size and counts, found str"),
    ("rle short", mask(rle([100])),
     f"{C} segmentation.counts: expected runs that sum to height*width = 320, found 100"),
    ("rle long", mask(rle([200, 200])),
     f"{C} segmentation.counts: expected runs that sum to height*width = 320, found 400"),
    ("rle negative", mask(rle([330, -10])),
     f"{C} segmentation.counts[0]: expected a run length of 0 to 320, an integer, found 330"),
    ("rle float", mask(rle([320.0])),
     f"{C} segmentation.counts[0]: expected a run length of 0 to 320, an integer, found 320.0"),
    ("rle huge", mask(rle([10**4000])),
     f"{C} segmentation.counts[0]: expected a run length of 0 to 320, an integer, found a huge"),
    ("rle garbage", mask(rle("~~~")),
     f"{C} segmentation.counts: expected COCO's compressed text, found characters outside '0' to 'o'"),
    ("rle cut", mask(rle("P")),
     f"{C} segmentation.counts: expected COCO's compressed text, found an end in the middle"),
    ("rle text short", mask(rle("52203")), f"{C} segmentation.counts: expected runs that sum to"),
    ("rle text negative", mask(rle("O0")), f"{C} segmentation.counts: expected runs from 0 to"),
    ("rle text huge", mask(rle("oooooooo0")),
     f"{C} segmentation.counts: expected COCO's compressed text, found a number of more than 35 bits"),
    ("rle unicode", mask(rle("é")),
     f"{C} segmentation.counts: expected COCO's compressed text of at most 16777216 characters, found"),
    ("rle of all zero", mask(rle([320])),
     f"{C} segmentation: expected a mask with at least one pixel, found an empty one"),
    ("rle size", mask(rle("0", (WIDTH, HEIGHT))),
     f"{C} segmentation.size: expected the image's [16, 20], found [20, 16]"),
    ("rle size huge", mask(rle("0", [10**9, 10**9])), f"{C} segmentation.size: expected the image's"),
    ("odd polygon", mask([[*SQUARE, 3]]),
     f"{C} segmentation[0]: expected an even number of 6 or more coordinates, found 9"),
    ("short polygon", mask([SQUARE, [1, 1, 5, 5]]),
     f"{C} segmentation[1]: expected an even number of 6 or more coordinates, found 4"),
    ("flat polygon", mask(SQUARE), f"{C} segmentation[0]: expected a list of numbers, found int"),
    ("polygon of texts", mask([[*SQUARE[:-1], "8"]]),
     f"{C} segmentation[0]: expected numbers as coordinates, found '8'"),
    ("polygon far away", mask([[*SQUARE[:-1], 1e300]]),
     f"{C} segmentation[0]: expected coordinates within 40 pixels of the origin, found 1e+300"),
    ("polygon with NaN", mask([[*SQUARE[:-1], float("nan")]]),
     f"{C} segmentation[0]: expected coordinates within 40 pixels of the origin, found nan"),
    ("polygon outside", mask([[30, 30, 35, 30, 35, 35]]),
     f"{C} segmentation: expected a mask with at least one pixel, found an empty one"),
    ("polygon of one point", mask([[3, 3] * 3]),
     f"{C} segmentation: expected a mask with at least one pixel, found an empty one"),
    ("nothing", thing(6, bbox=None),
     f"{BOX} segmentation: expected a mask, a bbox or point_coords on the object, found none of them"),
    ("crowd without a mask", thing(4, segmentation=[]),
     "annotations[4] (id 5) segmentation: expected the mask of a crowd region, found []"),
    ("box", thing(6, bbox=[1, 1, 0, 5]),
     f"{BOX} bbox: expected [x, y, width, height] with positive sides, found [1, 1, 0, 5]"),
    ("box outside", thing(6, bbox=[30, 1, 5, 5]),
     f"{BOX} bbox: expected a box that touches the 20x16 image, found [30, 1, 5, 5]"),
    ("point", thing(7, point_coords=[[4, 99], [1, 1]]),
     "annotations[7] (id 8) point_coords[0]: expected [x, y] in the 20x16 image, found [4, 99]"),
    ("point label", thing(7, point_labels=[1]), "annotations[7] (id 8) point_labels: expected 2 labels, found [1]"),
    ("score", thing(pseudo={"source": "teacher"}, score=7),
     f"{A} score: expected a number from 0 to 1, found 7"),
    ("quality", thing(pseudo={"source": "teacher", "quality": 7}),
     f"{A} pseudo.quality: expected a number from 0 to 1, found 7"),
    ("source", thing(pseudo={"source": "x"}),
     f"{A} pseudo.source: expected one of human, teacher, student, found 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_errors_are_what_a_run_leaves_out(tmp_path: Path, photos: Path, change: Change, line: str) -> None:
    content = valid_set()
    change(content)
    seen = check(tmp_path, content, photos)
    assert seen.code == 2
    assert any(error.startswith(line) for error in seen.errors), seen.lines
    left_out, stop = taken_in(tmp_path / "set.json", photos)
    assert (seen.errors, stop) == (left_out, "")


WARNINGS: list[tuple[str, Change, str]] = [
    ("box", thing(bbox=[2, 2, 12, 6]), f"{A} bbox: expected about the mask's [2, 2, 6, 6], found [2, 2, 12, 6]"),
    ("box as corners", thing(2, bbox=[10, 9, 16, 15]),
     f"{C} bbox: expected about the mask's [10, 9, 6, 6], found [10, 9, 16, 15], which fits as [x0, y0, x1, y1]"),
    ("box of another type", thing(bbox="x"), f"{A} bbox: expected [x, y, width, height] beside a mask, found 'x'"),
    ("area", thing(area=90), f"{A} area: expected about the mask's 36, found 90"),
    ("area of another type", thing(area={}), f"{A} area: expected a number beside a mask, found {{}}"),
    ("area huge", thing(area=10**400), f"{A} area: expected a number beside a mask, found a huge integer"),
    ("over the edge", thing(segmentation=[[2, 2, 25, 2, 25, 9, 2, 9]], bbox=None, area=None),
     f"{A} segmentation[0]: expected an outline inside the 20x16 image, found 5 pixels outside, cut of"),
    ("crossing", thing(segmentation=[[2, 2, 8, 8, 8, 2, 2, 8]], area=None),
     f"{A} segmentation[0]: expected an outline that does not cross itself, found a crossing near (5, 5)"),
    ("part without pixels", thing(segmentation=[SQUARE, [12, 3] * 3], bbox=None),
     f"{A} segmentation[1]: expected a part of at least one pixel, found none"),
    ("twice", more("annotations", {"id": 50, "image_id": 1, "category_id": 3, "segmentation": [SQUARE]}),
     "annotations[9] (id 50) segmentation: expected an object of its own, found the class and shape of annotations[0]"),
    ("box twice", more("annotations", {"id": 50, "image_id": 3, "category_id": 3, "bbox": [3, 3, 9, 9]}),
     "annotations[9] (id 50) bbox: expected an object of its own, found the class and shape of annotations[6]"),
    ("id 0", thing(id=0),
     "annotations[0] (id 0) id: expected an id of at least 1, found 0, which pycocotools takes for unmatched"),
    ("crowd polygons", thing(iscrowd=1), f"{A} iscrowd: expected RLE for a crowd region, as in COCO, found polygons"),
    ("tag", thing(4, category_id=5), "annotations[4] (id 5) category_id: expected one of its image's tags, found 5"),
    ("NaN", thing(attributes={"size": float("nan")}),
     f"{A} attributes: expected a finite number, found NaN, for which JSON has no word"),
    ("infinity", image(date=[float("-inf")]),
     f"{I} date: expected a finite number, found -Infinity, for which JSON has no word"),
    ("NaN where nothing reads", put(info={"x": [float("nan")]}),
     "info entry: expected a finite number, found NaN, for which JSON has no word"),
    ("weak box over the edge", thing(6, bbox=[-5, 3, 9, 9]),
     f"{BOX} bbox: expected a box inside the 20x16 image, found [-5, 3, 9, 9], which is cut"),
    ("weak box as shares", thing(6, bbox=[0.1, 0.1, 0.5, 0.5]),
     f"{BOX} bbox: expected a box in pixels, found one of less than a pixel: [0.1, 0.1, 0.5, 0.5]"),
    ("class name twice", named("cat"), f"{NEW} expected a name of its own, found 'cat', that of categories[0]"),
    ("class name in capitals", named(" CAT"),
     f"{NEW} expected a name of its own, found ' CAT', that of categories[0], but for case, spaces or Unicode form"),
    ("class name decomposed", named("chien de berger e\u0301"),
     f"{NEW} expected a name of its own, found 'chien de berger e\u0301', that of categories[1], but for"),
    ("class name with an escape", named("a\x1b[2J"), rf"{NEW} expected a name in visible characters, found 'a\x1b[2J'"),
    ("class name that turns", named("a\u202eb"), rf"{NEW} expected a name in visible characters, found 'a\u202eb'"),
    ("class name of two lines", named("a\nerror x"),
     rf"{NEW} expected a name in visible characters, found 'a\nerror x'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), [row[1:] for row in WARNINGS], ids=[row[0] for row in WARNINGS])
def test_warnings_are_of_what_a_run_takes(tmp_path: Path, photos: Path, change: Change, line: str) -> None:
    content = valid_set()
    change(content)
    seen = check(tmp_path, content, photos)
    assert any(found.startswith(f"warning {line}") for found in seen.lines), seen.lines
    assert seen.code == 1
    assert taken_in(tmp_path / "set.json", photos) == ([], "")


def last_image_id(number: int) -> Change:
    """Another id for the third image, with its three annotations."""

    def change(content: Content) -> None:
        image(2, id=number)(content)
        for index in (6, 7, 8):
            thing(index, image_id=number)(content)

    return change


VALID: list[tuple[str, Change]] = [
    ("every form", everything_is_there),
    ("sections the other way round", lambda content: content.update({k: content.pop(k) for k in [*content][::-1]})),
    ("300 classes", named(*(f"c{n}" for n in range(300)))),
    ("names of all scripts", named("собака", "犬", "كلب", "कुत्ता", "🐕", "<b>", "'; DROP", "a,b", "%s", "{x}")),
    ("image id 0", last_image_id(0)),
    ("largest image id", last_image_id(2**63 - 1)),
    ("negative annotation id", thing(id=-5)),
    ("unknown sections", put(videos=[{"id": 1}], x=None, y=1.5, z="z")),
    ("polygons touch themselves", thing(segmentation=[[2, 2, 8, 2, 8, 8, 2, 8, 2, 2, 8, 2]])),
    ("box of pixels, not of the outline", thing(bbox=[1.2, 1.1, 7.5, 7])),
    ("area of the outline", thing(segmentation=[[2, 2, 8, 8, 2, 8]], area=18.0)),
    ("box of an outline with a thin end",
     thing(segmentation=[[2, 2, 8, 2, 8, 8, 5.05, 8, 5, 15, 5, 8, 2, 8]], bbox=[2, 2, 6, 13])),
    ("area of a crowd region", thing(4, area=90)),
    ("class without annotations", named("unseen")),
]  # fmt: skip


@pytest.mark.parametrize("change", [row[1] for row in VALID], ids=[row[0] for row in VALID])
def test_valid_files_come_out_without_a_word(tmp_path: Path, photos: Path, change: Change) -> None:
    content = valid_set()
    change(content)
    seen = check(tmp_path, content, photos)
    assert (seen.code, len(seen.lines)) == (0, 1), seen.lines
    assert taken_in(tmp_path / "set.json", photos) == ([], "")
    assert re.search(
        r"set.json: 0 errors, 0 warnings in 3 images, 9 annotations, \d+ classes$", seen.lines[0]
    )


FILES: list[tuple[str, bytes, int, str]] = [
    ("utf-8 with BOM", b"\xef\xbb\xbf" + GOOD, 0, ""),
    ("raw utf-8", json.dumps(valid_set(), ensure_ascii=False).encode(), 0, ""),
    ("indented", json.dumps(valid_set(), indent=4).replace("\n", "\r\n").encode(), 0, ""),
    ("key twice", GOOD.replace(b'"id": 1, "category_id"', b'"id": 7, "id": 1, "category_id"', 1), 1,
     "warning annotations[0] (id 1) id: expected each key once, found it twice; the last one counts"),
    ("hostile key twice", GOOD.replace(b'"id": 1, "cat', b'"\\n\\u202e": 7, "\\n\\u202e": 1, "id": 1, "cat', 1), 1,
     r"warning annotations[0] (id 1) '\n\u202e': expected each key once, found it twice; the last one counts"),
    ("long key twice", GOOD.replace(b'"id": 1, "cat', (b'"%s": 7, ' % (b"a" * 3000)) * 2 + b'"id": 1, "cat', 1), 1,
     f"warning annotations[0] (id 1) '{'a' * 27}...{'a' * 28}': expected each key once"),
    ("long section", GOOD.replace(b'{"info"', b'{"%s": NaN, "info"' % (b"a" * 3000), 1), 1,
     f"warning '{'a' * 27}...{'a' * 28}' entry: expected a finite number, found NaN"),
    ("key twice where nothing reads", GOOD.replace(b'"description"', b'"description": 1, "description"'), 1,
     "warning info description: expected each key once, found it twice; the last one counts"),
    ("empty", b"", 2, "expected a COCO dataset (an object), found an empty file"),
    ("blank", b" " * 5_000_000, 2, "found nothing but white space"),
    ("html", b"<html>", 2, "expected a COCO dataset (an object), found an HTML page"),
    ("zip", b"PK\x03\x04\0\0\0", 2, "found a ZIP archive"),
    ("utf-16", json.dumps(valid_set()).encode("utf-16"), 2, "expected UTF-8, found UTF-16; save the file as UTF-8"),
    ("latin-1", json.dumps(valid_set(), ensure_ascii=False).encode("latin-1"), 2, "not valid UTF-8"),
    ("cut", GOOD[:-1], 2, f"line 1, column {len(GOOD)}: expected ',' or '}}' after a section"),
    ("comma", GOOD.replace(b"],", b",],", 1), 2, "line 1, column"),
    ("more after the end", GOOD + b"\n{}", 2, "line 2, column 1: expected the end of the file"),
    ("deep", b'{"images": [' + b"[" * 200 + b"]" * 200 + b"]}", 2, "line 1, column 13: nested too deeply"),
    ("very deep", b'{"images": [\n' + b"[" * 3_000_000, 2, "line 2, column 1: nested too deeply"),
    ("deep where nothing reads", b'{"info": ' + b"[" * 3_000_000, 2, "line 1, column 10: nested too deeply"),
    ("number of 5000 digits", b'{"images": [' + b"9" * 5000 + b"]}", 2,
     "line 1, column 13: an integer of more than 4300 digits"),
    ("images twice", GOOD[:-1] + b', "images": []}', 2, "section 'images' occurs twice"),
    ("images no list", b'{"images": {}}', 2, "line 1, column 12: section 'images' must be a list"),
    ("no images", b'{"annotations": []}', 2, "expected a section 'images' with at least one image, found none"),
    ("images empty", b'{"images": []}', 2, "expected a section 'images' with at least one image, found none"),
    ("results", b'[{"image_id": 1, "category_id": 3, "score": 0.5}]', 2, "found a list of results, which say nothing"),
    ("a list", b"[1, 2]", 2, "expected a COCO dataset (an object), found a list"),
    ("panoptic", b'{"images": [], "annotations": [{"image_id": 1, "segments_info": []}]}', 2,
     "annotations[0]: expected instance annotations, found panoptic ones (segments_info)"),
    ("all images refused", b'{"images": [1]}', 2, "error images: expected at least one usable image, found none"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code", "line"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_files(tmp_path: Path, photos: Path, data: bytes, code: int, line: str) -> None:
    seen = check(tmp_path, data, photos)
    assert seen.code == code, seen.lines
    assert any(line in found for found in seen.lines), seen.lines
    assert bool(taken_in(tmp_path / "set.json", photos)[1]) == (code == 2)


def test_a_file_without_classes_is_told(tmp_path: Path) -> None:
    seen = check(tmp_path, {"images": valid_set()["images"][2:]}, None)  # type: ignore[index]
    assert seen.lines[0] == "warning categories entry: expected at least one class, found none"
    assert seen.lines[1].endswith("in 1 image, 0 annotations, 0 classes; photos were not looked at")


def test_file_names_in_two_unicode_forms_are_told(tmp_path: Path) -> None:
    content = valid_set()
    image(0, file_name="é.png")(content)
    image(2, file_name="e\u0301.png")(content)
    (line, _) = check(tmp_path, content, None).lines
    expected = "expected a file of its own, found 'e\u0301.png', that of images[0], but for Unicode form"
    assert line == f"warning images[2] (id 3) file_name: {expected}"


def link_out(folder: Path) -> None:
    (folder / "2.png").rename(folder.parent / "secret.png")
    (folder / "2.png").symlink_to(folder.parent / "secret.png")


def loop(folder: Path) -> None:
    (folder / "2.png").unlink()
    (folder / "2.png").symlink_to(folder / "2.png")


def fifo(folder: Path) -> None:
    (folder / "2.png").unlink()
    os.mkfifo(folder / "2.png")


def with_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "2.png").write_bytes(data) and None


def pages(folder: Path) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), (n, 0, 0)) for n in range(3)]
    frames[0].save(folder / "2.png", format="TIFF", save_all=True, append_images=frames[1:])


def exif(orientation: int, *, stored: tuple[int, int]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tags = Image.Exif()
        tags[0x0112] = orientation
        Image.new("RGB", stored).save(folder / "2.png", format="JPEG", exif=tags)

    return change


NAME = "images[1] (id 2) file_name:"
PHOTOS: list[tuple[str, Callable[[Path], None], int, str]] = [
    ("link out", link_out, 2, f"error {NAME} expected a file inside"),
    ("loop of links", loop, 2, f"error {NAME} expected a file, found a loop of links (2.png)"),
    ("fifo", fifo, 2, f"error {NAME} expected a file, found a pipe (FIFO) (2.png)"),
    ("empty", with_bytes(b""), 2,
     f"error {NAME} expected JPEG, PNG, WEBP, TIFF or BMP, found an empty file (2.png)"),
    ("html", with_bytes(b"<html>"), 2,
     f"error {NAME} expected JPEG, PNG, WEBP, TIFF or BMP, found an HTML page (2.png)"),
    ("broken", with_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 99), 2, f"error {NAME}"),
    ("pages", pages, 1,
     f"warning {NAME} expected a plain photo, found several frames or pages, of which the first is read"),
    ("stored frame", exif(6, stored=(WIDTH, HEIGHT)), 1,
     "warning images[1] (id 2) width: expected the upright 16x20, found the stored 20x16; annotations are turned with"),
    ("upside down", exif(3, stored=(WIDTH, HEIGHT)), 1,
     f"warning {NAME} expected a plain photo, found an EXIF turn that no size tells"),
    ("upright frame", exif(6, stored=(HEIGHT, WIDTH)), 0, ""),
    ("same photo", lambda folder: (folder / "2.png").write_bytes((folder / "1.png").read_bytes()) and None, 1,
     f"warning {NAME} expected a photo of its own, found the content of images[0]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "line"), [row[1:] for row in PHOTOS], ids=[row[0] for row in PHOTOS]
)
def test_photos(tmp_path: Path, photos: Path, change: Callable[[Path], None], code: int, line: str) -> None:
    change(photos)
    seen = check(tmp_path, GOOD, photos)
    assert seen.code == code, seen.lines
    assert any(found.startswith(line) for found in seen.lines), seen.lines
    assert seen.errors == taken_in(tmp_path / "set.json", photos)[0]
    without = check(tmp_path, GOOD, None)
    assert (without.code, without.lines[-1].endswith("; photos were not looked at")) == (0, True)


def wrong_size(folder: Path) -> None:
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(folder / "1.png")


@pytest.mark.parametrize(
    "change", [lambda folder: (folder / "1.png").unlink(), wrong_size], ids=["gone", "size"]
)
def test_labels_of_a_photo_that_cannot_be_used_are_checked_too(
    tmp_path: Path, photos: Path, change: Callable[[Path], None]
) -> None:
    """The one difference to a run, which does not come to them: all that must be mended is told at once."""
    change(photos)
    content = valid_set()
    thing(segmentation="x")(content)
    seen = check(tmp_path, content, photos)
    left_out, _ = taken_in(tmp_path / "set.json", photos)
    assert len(seen.errors) == 2
    assert [line for line in seen.errors if not line.startswith("annotations[0]")] == left_out


def test_nothing_outside_of_the_folder_is_opened(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or b"")
    content = valid_set()
    for index, name in enumerate(("../secret.png", "/etc/passwd", "ftp://x.org/a.png")):
        image(index, file_name=name)(content)
    link_out(photos)
    content["images"] += [{"id": 9, "file_name": "2.png", "width": WIDTH, "height": HEIGHT}]  # type: ignore[operator]
    assert check(tmp_path, content, photos).code == 2
    assert opened == []
