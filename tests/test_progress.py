"""What the plain display says of a job: how far, how fast, how long still."""

import pytest

from pipeline import progress
from pipeline.progress import PlainDisplay


@pytest.fixture
def told(monkeypatch, capsys):
    """A function that shows (seconds, done, total, note) one after the other; the lines."""

    def show(*reports):
        now = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        display = PlainDisplay()
        display.begin("fit", units=1, reused=1, images=0)
        for now[0], done, total, note in reports:
            display.job(done, total, note)
        return capsys.readouterr().err.splitlines()

    return show


def test_a_job_tells_rate_and_time_left(told):
    assert told((10.0, 0, 100, "loss 2"), (20.0, 20, 100, "loss 1")) == [
        "fit: 0/100 loss 2",
        "fit: 20/100 loss 1, 2.0/s, 40 s left",
    ]


def test_what_an_earlier_run_did_is_no_pace(told):
    assert told((10.0, 50, 100, ""), (20.0, 60, 100, "")) == ["fit: 50/100", "fit: 60/100, 1.0/s, 40 s left"]


def test_another_part_of_the_job_has_a_pace_of_its_own(told):
    lines = told((10.0, 0, 10, "a"), (20.0, 10, 10, "a"), (30.0, 0, 90, "b"), (40.0, 45, 90, "b"))
    assert lines[-1] == "fit: 45/90 b, 4.5/s, 10 s left"


def test_without_a_total_there_is_no_time_left(told):
    assert told((10.0, 0, 0, "photos"), (20.0, 30, 0, "images")) == ["fit: photos", "fit: 30 images, 3.0/s"]
