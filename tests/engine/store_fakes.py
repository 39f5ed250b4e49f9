"""A store as seen from several machines, and what one may do to it behind its back."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.data.urls import UrlPath, file_system
from pipeline.engine import files, lease
from pipeline.engine.artifact import Artifact
from pipeline.engine.remote_store import open_store
from pipeline.engine.store import Store

KEY, OTHER = "ab" * 32, "cd" * 32


def commit_artifact(store: Store, text: str = "weights", *, truth: str = "", redo: bool = False) -> Artifact:
    with store.scratch_folder() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights.bin").write_text(text)
        (folder / "other.txt").write_text("other")
        if truth:
            (folder / "truth").mkdir()
            (folder / "truth" / "file").write_text(truth)
        facts = {"stage": "fit", "metrics": {"loss": 0.5}, "seconds": 1.5}
        return store.commit_artifact(KEY, folder, **facts, about={}, redo=redo)


@dataclass
class Side:
    """One machine's view of the store at `where`; `patch` gives every other its own cache."""

    where: str
    store: Store
    folder: Path
    patch: pytest.MonkeyPatch | None

    @property
    def is_folder(self) -> bool:
        return self.patch is None

    def elsewhere(self) -> Store:
        """The store as a machine sees it that has never seen it before."""
        if self.patch is not None:
            self.patch.setenv(files.CACHE, str(self.folder / uuid.uuid4().hex))
        return open_store(self.where, known=True)

    def files(self) -> list[str]:
        """All that lies there, by its name."""
        if self.is_folder:
            root = Path(self.where)
            return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        fs, root = file_system(UrlPath(self.where))
        return sorted(path.removeprefix(root).strip("/") for path in fs.find(root))

    def leftovers(self) -> list[str]:
        """What lies under tmp, and files of more than one attempt."""
        names = self.files()
        left = [name for name in names if name.startswith("tmp/")]
        if self.is_folder:
            return left
        attempts = {name.split("/")[2] for name in names if name.startswith(("artifacts/", "truth/"))}
        return left + sorted(attempts - {"artifact.json"})[1:]

    def change(self, name: str, content: bytes | None) -> None:
        """Write a file of the store anew, or remove it."""
        if self.is_folder:
            path = Path(self.where) / name
            path.unlink() if content is None else path.write_bytes(content)
            return
        fs, root = file_system(UrlPath(self.where))
        fs.rm_file(f"{root}/{name}") if content is None else fs.pipe_file(f"{root}/{name}", content)

    def read(self, name: str) -> bytes:
        if self.is_folder:
            return (Path(self.where) / name).read_bytes()
        fs, root = file_system(UrlPath(self.where))
        return bytes(fs.cat_file(f"{root}/{name}"))

    def flip(self, name: str) -> None:
        """Turn one bit in the middle of a file."""
        content = bytearray(self.read(name))
        content[len(content) // 2] ^= 0x40
        self.change(name, bytes(content))

    def damage_unit(self) -> None:
        self.flip(next(n for n in self.files() if n.startswith("units/") and not n.endswith(".json")))

    def damage_artifact(self) -> None:
        self.flip(next(name for name in self.files() if name.endswith("weights.bin")))


def open_side(where: str, folder: Path, patch: pytest.MonkeyPatch | None = None) -> Side:
    if patch is not None:
        patch.setenv(files.CACHE, str(folder / "first"))
    return Side(where, open_store(where), folder, patch)


@contextmanager
def written_by(monkeypatch: pytest.MonkeyPatch, host: str) -> Iterator[None]:
    """What is written in the block is another machine's or, without a `host`, a process's of this one that is gone."""
    with monkeypatch.context() as patch:
        for module in (files, lease):
            if host:
                patch.setattr(module, "machine", lambda: host)
            else:  # its id was given anew
                patch.setattr(module, "process_start", lambda _: 7)
        yield
