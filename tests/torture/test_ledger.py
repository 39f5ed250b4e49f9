"""The ledger goes on where it was cut off; a series is the same for the same arguments."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.torture import __main__ as command
from benchmarks.torture import kinds, ledger
from benchmarks.torture.ledger import Row

ROW = Row("c0de", "driver", "local", 0, 0, kills=3, redone=2, seconds=9.5, how="", failures=())
BAD = replace(ROW, number=1, kills=1, redone=0, failures=("stray worker",))


def test_a_line_that_was_cut_off_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    assert ledger.read(path) == []
    ledger.add(path, ROW)
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert ledger.read(path) == [ROW]
    ledger.add(path, BAD)
    assert ledger.read(path) == [ROW, BAD]


def test_the_line_at_the_end_and_the_table() -> None:
    assert ledger.summary([ROW, BAD]) == "2 trials, 1 failures, 4 faults, 0.50 units redone per kill"
    uncounted = replace(ROW, kind="poison", redone=None)
    assert ledger.summary([ROW, uncounted]) == "2 trials, 0 failures, 6 faults, 0.67 units redone per kill"
    missed = replace(ROW, kills=0, redone=0)
    assert ledger.summary([ROW, missed]) == (
        "1 trials, 0 failures, 3 faults, 0.67 units redone per kill; 1 more met no fault"
    )
    assert ledger.summary([]) == "0 trials, 0 failures, 0 faults, - units redone per kill"
    older = replace(ROW, code="01d", kind="worker")
    assert ledger.table([older, ROW, BAD, missed]).splitlines()[0].startswith("Of the code `c0de`")
    assert ledger.table([older, ROW, BAD, missed]).splitlines()[4:] == [
        "| driver | local | 2 | 1 | 4 | 1 | 0.50 | 10 |"
    ]


def test_the_digest_of_the_code(tmp_path: Path) -> None:
    before = ledger.code_digest(command.ROOT)
    assert before == ledger.code_digest(command.ROOT)
    for path in ("teachers/fake.py", "pipeline/engine/crew.py", "benchmarks/torture/kills.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        found = ledger.code_digest(tmp_path)
        (tmp_path / path).write_text("")
        assert ledger.code_digest(tmp_path) != found
    (tmp_path / "teachers" / "other.py").write_text("")
    found = ledger.code_digest(tmp_path)
    (tmp_path / "teachers" / "fake.py").write_text("changed")
    assert ledger.code_digest(tmp_path) != found


def test_the_documentation_has_the_ledgers_table() -> None:
    page = (command.ROOT / "docs" / "reliability.md").read_text()
    assert ledger.table(ledger.read(command.LEDGER)) in page


@pytest.mark.parametrize("kind", ["mix", "all", "worker", "raylets"])
def test_a_series_is_the_same_again(kind: str) -> None:
    engines = ("local", "ray")
    found = list(kinds.plan(kind, engines, 7, 60))
    assert found == list(kinds.plan(kind, engines, 7, 60))
    assert found[:20] == list(kinds.plan(kind, engines, 7, 20))
    assert len(set(found)) == 60
    assert all(engine in kinds.KINDS[name].engines for name, engine, *_ in found)
    assert {name for name, *_ in found} == (set(kinds.KINDS) if kind == "all" else {n for n, *_ in found})


def test_a_kind_that_an_engine_has_not() -> None:
    with pytest.raises(SystemExit, match="raylets"):
        list(kinds.plan("raylets", ("local",), 0, 1))


def test_what_the_ledger_holds_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it failed, or was another code's."""
    path = tmp_path / "ledger.jsonl"
    ledger.add(path, replace(ROW, number=1, code="01d"))
    ledger.add(path, ROW)
    monkeypatch.setattr(command.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setattr(kinds, "remove", lambda _: None)
    monkeypatch.setattr(command, "make_oracle", lambda *_: None)
    monkeypatch.setattr(command, "make_data", lambda *_: None)
    monkeypatch.setattr(ledger, "code_digest", lambda _: "c0de")
    outcomes = [BAD, replace(ROW, number=1)]
    monkeypatch.setattr(command, "one", lambda *_: outcomes.pop(0))
    asked = ["--kind=driver", "--engine=local", f"--ledger={path}"]
    assert command.main([*asked, "--n=1"]) == 0
    assert command.main([*asked, "--n=2"]) == 1
    assert command.main([*asked, "--n=2"]) == 0
    assert command.main([*asked, "--n=2"]) == 0
    assert outcomes == []
    assert capsys.readouterr().out.splitlines() == [
        "1 trials, 0 failures, 3 faults, 0.67 units redone per kill",
        "2 trials, 1 failures, 4 faults, 0.50 units redone per kill",
        *2 * ["2 trials, 0 failures, 6 faults, 0.67 units redone per kill"],
    ]
    assert [(row.code, row.number) for row in ledger.read(path)] == [
        ("01d", 1),
        *[("c0de", number) for number in (0, 1, 1)],
    ]
    assert command.main([f"--ledger={path}", "--table"]) == 0
    assert "| driver | local | 3 | 0 | 7 | 1 |" in capsys.readouterr().out
    assert command.main(["--code"]) == 0
