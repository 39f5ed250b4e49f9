"""COCO files by URL, copied to this machine: they are read again and again, and from many places."""

from pathlib import Path
from urllib.parse import quote

from pipeline.data.errors import BadInput
from pipeline.data.paths import Place
from pipeline.data.urls import UrlPath, file_system, in_words
from pipeline.engine import files

FILES, VERSION = "files", ".version"


def fetched(place: Place) -> Path:
    """A path as it is; of a URL the path of a copy, which is made anew if the file there has changed."""
    if isinstance(place, Path):
        return place
    fs, remote = file_system(place)
    try:
        with in_words(place.url):
            version = str(fs.ukey(remote))
            copy = _copy_of(place)
            note = copy.with_name(copy.name + VERSION)
            if not (copy.is_file() and note.is_file() and note.read_text() == version):
                note.unlink(missing_ok=True)
                files.commit_file(copy, lambda temp: fs.get_file(remote, str(temp)))
                files.commit_text(note, version)
    except FileNotFoundError:
        raise BadInput(f"{place}: expected a file, found nothing") from None
    return copy


def _copy_of(place: UrlPath) -> Path:
    """Where the copy lies: named as the URL is, so that messages tell which file they are about."""
    parts = [quote(part, safe=" ") for part in place.parts]
    return files.cache_folder().joinpath(FILES, place.protocol, *parts)
