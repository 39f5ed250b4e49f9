"""Stores that cannot be used are refused by name, before any work; so is a server that is gone."""

import os
import re
import subprocess
import sys
import uuid

import pytest
import requests
from engine_fakes import make_record
from store_fakes import KEY, OTHER

from pipeline.data.arrow import to_table
from pipeline.data.urls import Unreachable, UrlPath, file_system
from pipeline.engine.faults import BadPlan
from pipeline.engine.files import CACHE
from pipeline.engine.objects import Objects
from pipeline.engine.remote_store import open_store
from pipeline.engine.units import Timing


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("gs://bucket/x", "expected a store on s3://, s3a://, memory:// or in a folder, found gs://"),
        ("nonsense://bucket/x", "found nonsense://"),
        ("s3://key:secret@bucket/x", "without a name or password"),
        ("s3://key:sec/ret@bucket/x", "without a name or password"),
        ("s3://no-such-bucket-here/x", "nothing can be kept here: .*bucket does not exist"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_a_store_that_cannot_be_is_refused(url, problem):
    with pytest.raises(BadPlan, match=problem):
        open_store(url)


@pytest.mark.parametrize(("ignored", "header"), [("mode", "If-None-Match"), ("IfMatch", "If-Match")])
def test_a_store_without_conditional_put_is_refused(bucket, monkeypatch, ignored, header):
    fs, _ = file_system(UrlPath(bucket))
    put = fs.pipe_file

    def ignore(path, data, **condition):
        put(path, data, **{name: value for name, value in condition.items() if name != ignored})

    monkeypatch.setattr(fs, "pipe_file", ignore)
    with pytest.raises(BadPlan, match=rf"refuses to put an object twice \({header}"):
        open_store(bucket)


@pytest.mark.parametrize(
    "act",
    [
        lambda there, _: there.read("a"),
        lambda there, _: there.version("a"),
        lambda there, _: there.create("a", b"1"),
        lambda there, _: there.write("a", b"1"),
        lambda there, _: there.replace("a", b"1", b"2"),
        lambda there, _: there.names("a"),
        lambda there, _: there.remove("a"),
        lambda there, folder: there.write_file("a", folder / "file"),
        lambda there, folder: there.read_file("a", folder / "copy"),
    ],
)
def test_a_bucket_that_has_gone_is_not_taken_for_a_missing_object(bucket, tmp_path, act):
    (tmp_path / "file").touch()
    with pytest.raises(
        Unreachable, match=re.escape(f"{bucket}-gone/x/a: The specified bucket does not exist")
    ):
        act(Objects(f"{bucket}-gone/x"), tmp_path)


@pytest.mark.parametrize("base", ["memory://some", "s3"])
def test_who_only_looks_makes_no_folder(base, request, tmp_path, monkeypatch):
    where = f"{request.getfixturevalue('bucket') if base == 's3' else base}/{uuid.uuid4().hex}"
    monkeypatch.setenv(CACHE, str(tmp_path / "one"))
    open_store(where).commit_unit(KEY, to_table([make_record(1)]), Timing(1.0, 1))
    monkeypatch.setenv(CACHE, str(tmp_path / "other"))
    store = open_store(where, look_only=True)
    assert not store.has_unit(OTHER)
    assert store.find_artifact(KEY) is None
    assert not (tmp_path / "other").exists()
    assert store.has_unit(KEY)


def test_missing_rights_are_named(bucket, s3_endpoint):
    requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        with pytest.raises(BadPlan, match="no rights to do this, or none were given"):
            open_store(bucket)
    finally:
        requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_a_missing_package_is_named():
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from pipeline.engine.remote_store import open_store\n"
        "open_store('s3://bucket/x')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "s3:// needs a package that is not installed: pip install 'omnimask[s3]'" in done.stderr


@pytest.mark.parametrize(
    ("store", "port", "code", "problem"),
    [
        ("s3://no-such-bucket-here/x", None, 2, "bucket does not exist"),
        (
            "s3://bucket/x",
            1,
            1,
            's3://bucket/x/tmp/.*Could not connect to the endpoint URL: "http://127.0.0.1:1/',
        ),
        ("gs://bucket/x", None, 2, "found gs://"),
        ("memory://x", None, 2, "lives in one process"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_the_command_ends_with_a_message(tmp_path, store, port, code, problem):
    more = {"AWS_MAX_ATTEMPTS": "1"} | ({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"} if port else {})
    config = tmp_path / "run.yaml"
    config.write_text(
        "{name: x, data: {source: toyworld, train: 2, val: 1}, weak: none, masks: 50%, stages: [{export: {}}]}"
    )
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config), "--out", "run", "--store", store]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | more, check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert re.search(problem, done.stderr)
    assert not (tmp_path / "run").exists()
