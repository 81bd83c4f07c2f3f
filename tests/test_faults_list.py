"""The seeded faults can still be planted. Whether they are caught takes minutes: run faults.py."""

import pytest
from faults import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_line_is_there_once(fault):
    assert (ROOT / fault.path).read_text(encoding="utf-8").count(fault.before) == 1
    assert fault.before != fault.after
    assert (ROOT / "tests" / f"{fault.test}.py").is_file()
