"""What the plain display says of a job: how far, how fast, how long still; results line by line."""

import pytest

from pipeline import progress
from pipeline.options import say
from pipeline.progress import Lines, PlainDisplay


@pytest.fixture
def told(monkeypatch, capsys):
    """A function that shows (seconds, done, total, note) one after the other; the lines."""

    def show(*reports):
        now = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        display = PlainDisplay()
        display.begin("fit", units=1, reused=1, images=0)
        for now[0], done, total, note in reports:
            display.job("fit", done, total, note)
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


@pytest.mark.parametrize("terminal", [True, False])
def test_the_state_of_the_work_gives_way_to_a_line(monkeypatch, capsys, terminal):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
    lines = Lines()
    for now[0], text in ((101.0, "reading, 1%"), (101.1, "reading, 2%"), (102.0, "reading, 3%")):
        lines.state(text)
    lines.line("a\nb\x1b[31m")
    lines.trouble("why\n")
    shown = "\rreading, 1%\x1b[K\rreading, 3%\x1b[K\r\x1b[K" if terminal else ""
    assert capsys.readouterr() == ("a\\nb\\x1b[31m\n", shown + "why\n")


def test_what_is_said_leaves_the_terminal_alone(capsys):
    say("error: one\nerror: \x1b[2J\u202e")
    assert capsys.readouterr().err == "error: one\nerror: \\x1b[2J\\u202e\n"
