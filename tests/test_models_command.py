"""`pipeline models list|fetch|check`: a server on this machine, the two functions of the hub stubbed, no network."""

import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
import torch
from click.testing import Result
from huggingface_hub.errors import HfHubHTTPError
from official import (
    NARROW_DINO,
    blank_pickle,
    blank_safetensors,
    grounding_dino,
    publish_backbone,
    publish_grounding_dino,
    resnet_50,
    sha256,
)
from open_clip import create_model
from segment_anything import build_sam_vit_b, build_sam_vit_l
from small_models import build_small_sam
from torchvision.models.detection import fcos_resnet50_fpn
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.weights import OPEN_CLIP, WEIGHTS, Download, Fetched, Repository
from students import catalog as students
from teachers import catalog as teachers
from teachers.detectors import DETECTORS
from teachers.identity import OFFICIAL_SHA256
from teachers.tiny import listing, weights

BODY = bytes(range(250)) * 10_000  # 2.5 MB
Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A function that runs `pipeline models` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["models", *map(str, arguments)])


class Handler(BaseHTTPRequestHandler):
    """Serves /sam.pth whole, /broken.pth half, and knows of nothing else."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path not in ("/sam.pth", "/broken.pth"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY if self.path == "/sam.pth" else BODY[: len(BODY) // 2])

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that lets `sam_vit_b` come from a URL, with the digest of BODY."""
    (tmp_path / "body").write_bytes(BODY)
    digest = sha256(tmp_path / "body")

    def put(url: str, digest: str = digest) -> None:
        monkeypatch.setitem(WEIGHTS, "sam_vit_b", replace(WEIGHTS["sam_vit_b"], source=Download(url, digest)))

    return put


def test_list_is_a_table_of_all_there_is(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "sam_vit_b_01ec64.pth").touch()
    for name in ("grounding_dino_tiny", "grounding_dino_base"):
        (tmp_path / "kept" / name).mkdir()
    (tmp_path / "kept" / "grounding_dino_base" / "fetched.json").touch()
    header, *rows = [line.split("  ") for line in cli("list", "--to", "kept").stdout.splitlines()]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [cell.strip() for cell in header if cell.strip()] == [
        "kind",
        "name",
        "MB",
        "state",
        "licence",
        "what",
    ]
    assert all(len(row) == 6 for row in table)
    assert {row[1] for row in table} == {*teachers.ENTRIES, *students.ENTRIES, *WEIGHTS, *DETECTORS}
    states = {row[1]: row[3] for row in table}
    assert (states["sam_vit_b"], states["sam_vit_h"]) == ("fetched", "absent")
    assert (states["grounding_dino_base"], states["grounding_dino_tiny"]) == ("fetched", "unrecorded")
    assert (states["tiny_sam"], states["mask2former"]) == ("embedded", "-")


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded weights that stands for them."""
    folder = shutil.copytree(listing.FOLDER, tmp_path / "embedded")
    monkeypatch.setattr(listing, "FOLDER", folder)
    monkeypatch.setattr(weights.load_weights, "__defaults__", (folder,))
    return folder


def test_the_embedded_ones_are_those_of_the_listing(cli: Cli, embedded: Path) -> None:
    inside = {name for name, entry in WEIGHTS.items() if entry.source is None}
    assert {f"{name}.safetensors" for name in inside} == listing.read_listing().keys()
    (embedded / "tiny_sam.safetensors").write_bytes(bytes(3_140_000))
    (embedded / "tiny_text.safetensors").unlink()
    rows = [line.split() for line in cli("list").stdout.splitlines()]
    told = {row[1]: (row[2], row[3]) for row in rows if row[0] == "weights"}
    assert (told["tiny_sam"], told["tiny_text"]) == (("3.1", "embedded"), ("-", "absent"))


@pytest.mark.parametrize(
    "name", [listing.SAM, listing.TEXT, listing.GROUNDER, listing.STUDENT, listing.DETECTOR]
)
@pytest.mark.parametrize("there", [True, False], ids=["truncated", "absent"])
def test_a_damaged_embedded_file_is_told_for_itself(cli: Cli, embedded: Path, name: str, there: bool) -> None:
    path = embedded / f"{name}.safetensors"
    if there:
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    names = [name for name, entry in WEIGHTS.items() if entry.source is None]
    done = cli("check", *names)
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.exit_code == 2
    assert told.pop(name).startswith(
        f"damaged: {path}: {'sha256 is' if there else 'no such embedded weights'}"
    )
    assert set(told.values()) == {"ok"}
    assert len(told) == len(names) - 1


def test_a_text_tower_is_told_without_the_sam_beside_it(cli: Cli, embedded: Path, tmp_path: Path) -> None:
    (embedded / "tiny_sam.safetensors").unlink()
    with torch.device("meta"):
        clip = create_model("ViT-B-32", pretrained_text=False, device="meta").state_dict()
    blank_safetensors(tmp_path / "weights" / "clip_vit_b_32" / OPEN_CLIP, clip)
    assert cli("check", "clip_vit_b_32").stdout.startswith("clip_vit_b_32  ok: there is no fetched.json")


def test_the_documentation_names_them_all() -> None:
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    for name, entry in WEIGHTS.items():
        assert re.search(
            rf"^\| `{name}` \|.*\| {entry.size(name)} \|.* \| {entry.licence} \|$", text, re.MULTILINE
        )
        assert not isinstance(entry.source, Repository) or f"hub, {entry.source.id} |" in text
    assert all(f"`{name}`" in text for name in (*teachers.ENTRIES, *students.ENTRIES))
    families = {re.sub(r"[nsmlx]$", "", name) if e.extra else name for name, e in DETECTORS.items()}
    assert all(f"`{name}" in text for name in families)


def test_fetch_a_file(cli: Cli, server: str, offer: Callable[[str], None], tmp_path: Path) -> None:
    offer(f"{server}/sam.pth")
    done = cli("fetch", "sam_vit_b")
    assert (done.exit_code, done.stdout) == (0, "weights/sam.pth\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "sam.pth: 2.5 of 2.5 MB"
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["sam.pth"]
    assert (tmp_path / "weights" / "sam.pth").read_bytes() == BODY
    assert cli("fetch", "sam_vit_b").stdout == "weights/sam.pth\n"
    assert Handler.asked == ["/sam.pth"]  # it was there
    (tmp_path / "weights" / "sam.pth").write_bytes(b"damaged")
    refused = cli("fetch", "sam_vit_b")
    assert (refused.exit_code, "weights/sam.pth: expected sha256" in refused.stderr) == (2, True)
    assert (tmp_path / "weights" / "sam.pth").read_bytes() == b"damaged"  # the user's to look at


@pytest.mark.parametrize(
    ("path", "digest", "code", "message"),
    [
        ("/sam.pth", "0" * 64, 2, "/sam.pth: expected sha256 0000"),
        ("/broken.pth", None, 1, "/broken.pth: the connection ended after 1250000 of 2500000 bytes"),
        ("/gone.pth", None, 1, "/gone.pth: cannot be fetched: Not Found"),
    ],
    ids=["wrong digest", "broken connection", "not there"],
)
def test_what_a_server_does_wrong_leaves_nothing(
    cli: Cli,
    server: str,
    offer: Callable[..., None],
    tmp_path: Path,
    path: str,
    digest: str | None,
    code: int,
    message: str,
) -> None:
    offer(server + path, *([digest] if digest else []))
    failed = cli("fetch", "sam_vit_b")
    assert (failed.exit_code, failed.stdout) == (code, ""), failed.stderr
    assert message in failed.stderr
    assert not list((tmp_path / "weights").iterdir())


def test_no_network(cli: Cli, offer: Callable[[str], None], tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    offer(f"http://127.0.0.1:{port}/sam.pth")
    failed = cli("fetch", "sam_vit_b")
    assert failed.exit_code == 1
    assert "cannot be fetched: [Errno 111] Connection refused; without network, copy" in failed.stderr
    assert not list((tmp_path / "weights").iterdir())


def test_a_folder_that_cannot_be_written(
    cli: Cli, server: str, offer: Callable[[str], None], tmp_path: Path
) -> None:
    offer(f"{server}/sam.pth")
    (tmp_path / "weights").write_text("a file")
    failed = cli("fetch", "sam_vit_b")
    assert (failed.exit_code, "FileExistsError" in failed.stderr) == (1, True)


def test_a_full_disk(cli: Cli, server: str, offer: Callable[[str], None], tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the same write fails half-way."""
    offer(f"{server}/sam.pth")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, hard))
    try:
        failed = cli("fetch", "sam_vit_b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.exit_code == 1
    assert "error: OSError: [Errno 27] File too large" in failed.stderr
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sam_vit_x", "nothing of that name, did you mean 'sam_vit_"),
        ("tiny_sam", "embedded in the package, nothing to fetch"),
    ],
)
def test_names_that_cannot_be_fetched(cli: Cli, name: str, message: str) -> None:
    refused = cli("fetch", name)
    assert (refused.exit_code, message in refused.stderr) == (2, True)


class Hub:
    """Stands for huggingface_hub's `HfApi().model_info` and `snapshot_download`: all that is used of it."""

    def __init__(self) -> None:
        self.files = {"model.safetensors": "weights", "config.json": "{}"}
        self.asked: list[tuple[str, str, list[str]]] = []
        self.newest: str | None = "c0ffee"
        self.failure: Exception | None = None

    def model_info(self, repo_id: str) -> object:  # noqa: ARG002
        assert self.newest is not None, "a second fetch must not ask which commit is the newest"
        if self.failure:
            raise self.failure
        return type("Info", (), {"sha": self.newest or None})

    def snapshot_download(
        self, repo_id: str, *, revision: str, local_dir: Path, allow_patterns: list[str]
    ) -> None:
        self.asked.append((repo_id, revision, allow_patterns))
        (local_dir / ".cache").mkdir(exist_ok=True, parents=True)
        (local_dir / ".cache" / "lock").touch()
        for name, content in self.files.items():
            (local_dir / name).write_text(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stub)
    return stub


def test_a_hub_model_is_pinned_by_the_commit_that_was_found(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    assert cli("fetch", "grounding_dino_tiny").stdout == "weights/grounding_dino_tiny\n"
    wanted = ["*.safetensors", "*.json", "*.txt"]
    assert hub.asked == [("IDEA-Research/grounding-dino-tiny", "c0ffee", wanted)]
    record = Fetched.read(tmp_path / "weights" / "grounding_dino_tiny")
    assert record is not None
    assert (record.commit, set(record.files)) == ("c0ffee", set(hub.files))
    hub.newest = None
    assert cli("fetch", "grounding_dino_tiny").exit_code == 0
    assert hub.asked[1] == hub.asked[0]
    hub.files["config.json"] = "other"
    refused = cli("fetch", "grounding_dino_tiny")
    assert refused.exit_code == 2
    assert "weights/grounding_dino_tiny/config.json: expected sha256" in refused.stderr


def test_fetch_tells_the_file_that_a_config_names(cli: Cli, hub: Hub) -> None:
    hub.files = {OPEN_CLIP: "weights"}
    assert cli("fetch", "clip_vit_b_16").stdout == f"weights/clip_vit_b_16/{OPEN_CLIP}\n"
    assert hub.asked[0][2] == [OPEN_CLIP]
    hub.files = {}
    refused = cli("fetch", "clip_vit_b_32")
    assert refused.exit_code == 2
    assert f"expected a file {OPEN_CLIP}, found none" in refused.stderr


def test_a_hub_model_without_a_commit(cli: Cli, hub: Hub) -> None:
    hub.newest = ""
    refused = cli("fetch", "resnet_50")
    assert refused.exit_code == 2
    assert "microsoft/resnet-50: expected the id of its latest commit, found none" in refused.stderr
    assert hub.asked == []


@pytest.mark.parametrize(
    "failure",
    [HfHubHTTPError.__bases__[0]("[Errno -2] Name or service not known"), OSError("offline mode is enabled")],
    ids=["no network", "offline mode"],
)
def test_a_hub_out_of_reach(cli: Cli, hub: Hub, failure: Exception) -> None:
    hub.failure = failure
    failed = cli("fetch", "resnet_50")
    assert failed.exit_code == 1
    assert f"error: hub model microsoft/resnet-50: cannot be fetched: {failure}; " in failed.stderr


def record(folder: Path) -> None:
    """What a fetch would have noted of a folder."""
    files = {path.name: sha256(path) for path in folder.iterdir()}
    (folder / "fetched.json").write_text(Fetched(id="x/y", commit="c0ffee", files=files).model_dump_json())


def test_check_looks_at_the_embedded_ones_and_names_what_is_missing(cli: Cli) -> None:
    done = cli("check")
    assert done.exit_code == 0, done.stdout
    states = dict(line.split() for line in done.stdout.splitlines())
    assert {name for name, state in states.items() if state == "ok"} == {
        name for name, entry in WEIGHTS.items() if entry.source is None
    }
    assert {state for name, state in states.items() if WEIGHTS[name].source} == {"missing"}
    asked = cli("check", "tiny_sam", "sam_vit_h")
    assert (asked.exit_code, asked.stdout) == (2, "tiny_sam   ok\nsam_vit_h  missing\n")
    assert cli("check", "tiny_sma").exit_code == 2


def test_an_embedded_file_that_is_not_the_listed_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = listing.read_listing()
    monkeypatch.setitem(facts["tiny_text.safetensors"], "sha256", "0" * 64)
    monkeypatch.setattr(weights, "read_listing", lambda _: facts)
    done = cli("check", "tiny_text")
    assert done.exit_code == 2
    assert "tiny_text  damaged: " in done.stdout
    assert "weights.json lists 0000" in done.stdout


@pytest.mark.parametrize(
    ("build", "published", "verdict"),
    [
        (build_sam_vit_b, True, "ok"),
        (build_sam_vit_b, False, "damaged: checkpoint weights/sam_vit_b_01ec64.pth: its sha256 is "),
        (build_sam_vit_l, True, "damaged: checkpoint .*: its tensors do not fit SAM vit_b: "),
    ],
    ids=["whole", "other bytes", "of vit_l"],
)
def test_check_a_sam(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], torch.nn.Module],
    published: bool,
    verdict: str,
) -> None:
    with torch.device("meta"):
        path = blank_pickle(tmp_path / "weights" / "sam_vit_b_01ec64.pth", build().state_dict())
    if published:
        monkeypatch.setitem(OFFICIAL_SHA256, "vit_b", sha256(path))
    done = cli("check", "sam_vit_b")
    assert done.exit_code == (0 if verdict == "ok" else 2)
    (line,) = done.stdout.splitlines()
    assert re.match(rf"sam_vit_b  {verdict}", line), line


@pytest.mark.parametrize(
    ("classes", "published", "verdict"),
    [
        (91, True, "ok"),
        (91, False, "damaged: detector_weights weights/fcos_resnet50_.*: its sha256 is "),
        (
            None,
            True,
            "damaged: detector_weights .*: backbone.body.conv1.weight and \\d+ more missing or of another",
        ),
    ],
    ids=["whole", "other bytes", "of another network"],
)
def test_check_an_fcos(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classes: int | None,
    published: bool,
    verdict: str,
) -> None:
    """Its weights are told for themselves: the SAM that a student puts beside it is not looked at."""
    model = build_small_sam() if classes is None else fcos_resnet50_fpn(weights=None, weights_backbone=None)
    path = blank_pickle(tmp_path / "weights" / "fcos_resnet50_fpn_coco-99b0c9b7.pth", model.state_dict())
    if published:
        monkeypatch.setitem(DETECTORS, "fcos_r50", replace(DETECTORS["fcos_r50"], sha256=sha256(path)))
    monkeypatch.setattr("teachers.sam.load.inspect_sam", lambda *_, **__: pytest.fail("SAM was looked at"))
    done = cli("check", "fcos_resnet_50")
    (line,) = done.stdout.splitlines()
    assert re.match(rf"fcos_resnet_50  {verdict}", line), line
    assert done.exit_code == (0 if verdict == "ok" else 2)


def lose(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


DAMAGE = {
    "whole": (lambda _: None, True, "ok"),
    "no record": (lambda _: None, False, "ok: there is no fetched.json, so no digest was compared"),
    "another word": (write("vocab.txt", "x"), True, "damaged: .*vocab.txt: expected sha256 .*, found "),
    "a file less": (
        lose("tokenizer.json"),
        True,
        "damaged: .*tokenizer.json: expected sha256 .*, found nothing",
    ),
    "no tokenizer": (lose("tokenizer.json", "vocab.txt"), False, "damaged: .*its tokenizer has .*"),
    "no record's text": (
        write("fetched.json", "[]"),
        False,
        "damaged: .*fetched.json: not the record of a fetch",
    ),
    "no config": (write("config.json", "{"), False, "damaged: .*not readable as Grounding DINO"),
    "a list as config": (write("config.json", "[]"), False, "damaged: .*not readable as Grounding DINO"),
    "a number as backbone": (
        write("config.json", '{"model_type": "grounding-dino", "backbone_config": 5}'),
        False,
        "damaged: .*not readable as Grounding DINO",
    ),
}


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = grounding_dino("base", **NARROW_DINO)
    return publish_grounding_dino(tmp_path_factory.mktemp("dino"), "base", model)


@pytest.mark.parametrize(("damage", "recorded", "verdict"), DAMAGE.values(), ids=DAMAGE)
def test_check_a_grounding_dino(
    cli: Cli, tmp_path: Path, dino: Path, damage: Callable[[Path], None], recorded: bool, verdict: str
) -> None:
    folder = tmp_path / "weights" / "grounding_dino_tiny"
    shutil.copytree(dino, folder)
    if recorded:
        record(folder)
    damage(folder)
    done = cli("check", "grounding_dino_tiny")
    assert done.exit_code == (0 if verdict.startswith("ok") else 2)
    assert re.match(rf"grounding_dino_tiny  {verdict}", done.stdout), done.stdout


def test_check_a_text_tower_and_a_backbone(cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "weights"
    with torch.device("meta"):
        clip = create_model("ViT-B-32", pretrained_text=False, device="meta").state_dict()
    blank_safetensors(kept / "clip_vit_b_32" / OPEN_CLIP, clip)
    publish_backbone(kept / "resnet_50", resnet_50())
    record(kept / "resnet_50")
    shutil.copytree(kept / "resnet_50", kept / "swin_tiny")
    done = cli("check", "clip_vit_b_32", "resnet_50", "swin_tiny")
    assert done.exit_code == 2
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert said["clip_vit_b_32"].startswith("ok: there is no fetched.json")
    assert said["resnet_50"] == "ok"
    assert "expected a file of the same architecture" in said["swin_tiny"]


def test_a_repository_names_what_is_safe() -> None:
    """Nothing that is fetched from a hub may be a pickle."""
    for entry in WEIGHTS.values():
        if isinstance(entry.source, Repository) and entry.source.file is not None:
            assert entry.source.file.endswith(".safetensors")
