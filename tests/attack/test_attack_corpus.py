"""Every case of the corpus, on every back end that this machine offers to the user who runs the tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from attack_backends import BACKENDS, Backend
from attack_case import Case
from attack_corpus import BY_NAME, CASES, PROMISED

from stages.execute.sandbox.interface import Sandbox

pytestmark = pytest.mark.sandbox


def runs() -> Iterator[object]:
    """A test for each case and back end; one that is skipped for a back end that is not available."""
    for backend in BACKENDS:
        if why := backend.unavailable():
            yield pytest.param(
                backend, CASES[0], id=backend.name, marks=pytest.mark.skip(reason=f"{backend.name}: {why}")
            )
            continue
        for case in CASES:
            refusal = backend.not_promised(case)
            marks = [pytest.mark.skip(reason=f"{backend.name} does not promise it: {refusal}")] if refusal else []
            yield pytest.param(backend, case, id=f"{backend.name}-{case.name}", marks=marks)


@cache
def opened(name: str) -> Sandbox:
    return next(backend for backend in BACKENDS if backend.name == name).open()


@pytest.mark.parametrize(("backend", "case"), [*runs()])
def test_a_program_gets_what_it_may_have_and_no_more(backend: Backend, case: Case) -> None:
    assert not backend.broken(case, opened(backend.name))


def test_the_corpus_has_every_promised_case_once() -> None:
    assert len(set(PROMISED)) == 67
    assert set(PROMISED) <= set(BY_NAME)
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: str(backend.name))
def test_a_back_end_differs_only_in_cases_that_exist_and_says_why(backend: Backend) -> None:
    assert set(backend.differences) <= set(BY_NAME)
    assert all(difference.reason for difference in backend.differences.values())
