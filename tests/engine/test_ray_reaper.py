"""What clears up after a Ray: it ends what belongs to that Ray, and nobody else."""

import subprocess
import sys

from pipeline.engine.ray_reaper import MARK, start_reaper

OPEN = "import sys, time; file = open(sys.argv[1], sys.argv[2]); print('open', flush=True); time.sleep(600)"


def test_who_reads_a_log_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(MARK, "another")
    folder = tmp_path / "ray"
    folder.mkdir()
    (folder / "log").touch()

    def holding(mode, mark="another"):
        command = [sys.executable, "-c", OPEN, str(folder / "log"), mode]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={MARK: mark})
        assert process.stdout.readline() == b"open\n"
        return process

    reader, writer, marked = holding("r"), holding("a"), holding("r", str(folder))
    try:
        start_reaper(folder).communicate(timeout=60)
        assert [process.wait(10) for process in (writer, marked)] == [-9, -9]
        assert reader.poll() is None
        assert not folder.exists()
    finally:
        for process in (reader, writer, marked):
            process.kill()
            process.communicate()
