"""What is remembered of gateways from one flow run, which is a process, to the next."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocols.ipfs.standing import Standings

A, B, C = "https://a.example", "https://b.example", "https://c.example"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateways.json"


def test_who_was_never_asked_comes_first_and_equals_stay_as_listed() -> None:
    standings = Standings()
    standings.note(A, success=True)
    assert standings.ranked([A, B, C]) == [B, C, A]


def test_the_score_is_successes_over_attempts_and_thrice_the_errors() -> None:
    standings = Standings()
    for _ in range(3):
        standings.note(A, success=True)
    standings.note(A, error=True)
    assert standings.of(A).score == 3 / (4 + 3 * 1)
    standings.note(B)
    assert standings.of(B).score == 0.0
    assert standings.ranked([B, A]) == [A, B]


def test_what_was_long_ago_counts_less_and_less() -> None:
    standings = Standings()
    for _ in range(200):
        standings.note(A, error=True)
    for _ in range(200):
        standings.note(A, success=True)
    assert standings.of(A).attempts <= 100
    assert standings.of(A).score > 0.6


def test_the_next_process_knows(path: Path) -> None:
    Standings(path, clock=lambda: 5.0).ban(A, "it lied")
    Standings(path, clock=lambda: 5.0).note(B, error=True, rest_seconds=60.0)
    later = Standings(path)
    assert (later.of(A).banned, later.of(A).banned_at) == ("it lied", 5.0)
    assert later.of(B).resting_until == 65.0


def test_a_gateway_rests_as_long_as_it_asked_and_not_until_a_clock_that_was_set_back_comes_there(path: Path) -> None:
    """A minute's rest was an hour's once the clock had been an hour ahead: the only gateway was asked by nobody."""
    Standings(path, clock=lambda: 4_000.0).note(A, error=True, rest_seconds=60.0)
    standing = Standings(path).of(A)
    assert [standing.rest_seconds(now) for now in (4_000.0, 4_059.0, 4_061.0)] == [60.0, 1.0, 0.0]
    assert standing.rest_seconds(400.0) == 0.0


def test_a_gateway_is_forgiven_by_name(path: Path) -> None:
    Standings(path).ban(A, "it lied")
    assert Standings(path).forgive(A)
    assert not Standings(path).forgive(A)
    assert Standings(path).of(A).banned == ""


def test_a_file_that_cannot_be_read_begins_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("{")
    assert Standings(path).all() == {}
    assert str(path) in caplog.text
    Standings(path).note(A, success=True)
    assert Standings(path).of(A).successes == 1


def test_a_field_of_another_version_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It made everything unknown, and the next note wrote over every ban."""
    path.write_text(json.dumps({A: {"banned": "it lied", "mood": "bad"}, B: {"successes": 3}}))
    Standings(path).note(B, success=True)
    assert (Standings(path).of(A).banned, Standings(path).of(B).successes) == ("it lied", 4)
    assert caplog.text == ""


@pytest.mark.parametrize("broken", [7, None, [], {"attempts": "many"}, {"banned": 7}])
def test_one_broken_entry_costs_no_other_its_standing(
    path: Path, caplog: pytest.LogCaptureFixture, broken: object
) -> None:
    written = json.dumps({A: {"banned": "it lied"}, B: broken})
    path.write_text(written)
    assert Standings(path).of(B).score == math.inf
    assert B in caplog.text
    Standings(path, clock=lambda: 5.0).note(C, success=True)
    assert Standings(path).of(A).banned == "it lied"
    assert path.with_suffix(".damaged-5").read_text() == written


def test_a_ban_outlives_a_broken_field_beside_it(path: Path) -> None:
    path.write_text(json.dumps({A: {"banned": "it lied", "banned_at": "yesterday", "attempts": []}}))
    Standings(path).note(B)
    assert Standings(path).of(A).banned == "it lied"


@pytest.mark.parametrize("written", ["{", "[]", "7", "[" * 100_000, "\udcff"])
def test_a_file_that_cannot_be_read_is_set_aside_before_it_is_written_over(
    path: Path, caplog: pytest.LogCaptureFixture, written: str
) -> None:
    path.write_text(written, errors="surrogateescape")
    Standings(path, clock=lambda: 5.0).note(A)
    aside = path.with_suffix(".damaged-5")
    assert aside.read_text(errors="surrogateescape") == written
    assert str(aside) in caplog.text
    assert list(Standings(path).all()) == [A]


def test_nothing_is_lost_between_many_writers(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Standings(path).note(A, success=True), range(40)))
    assert Standings(path).of(A).successes == 40
