"""Shared by all tests: the repository on the import path, and third-party data where present."""

import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def tokenizer():
    from gptft.data.tokenizer import Tokenizer

    return Tokenizer()


@pytest.fixture
def shared():
    """The folder with the real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not in the repository")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def signals_are_not_ignored():
    """Restore the signals that a background job or nohup ignores; training respects both."""
    for name, action in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), action)
