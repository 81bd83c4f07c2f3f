"""The figures of tests/fixtures/golden.json: losses within 1e-5, ids and counts exactly."""

import json

import golden
import pytest

WANTED = json.loads(golden.FIXTURE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WANTED)
def test_figures_are_what_they_were(name):
    function, *arguments = golden.FIGURES[name]
    # A round trip through JSON: tuples become lists, and numpy's numbers would be refused.
    assert json.loads(json.dumps(function(*arguments))) == close_to(WANTED[name])


def close_to(value):
    """A value in which every float may differ by a relative 1e-5."""
    if isinstance(value, dict):
        return {key: close_to(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [close_to(entry) for entry in value]
    return pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value
