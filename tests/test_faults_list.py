"""The seeded faults of faults.py can still be planted. (Whether they are caught takes minutes: run that file.)"""

import pytest
from faults import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_line_is_there_once(fault):
    assert (ROOT / fault.path).read_text(encoding="utf-8").count(fault.before) == 1
    assert fault.before != fault.after
    assert all((ROOT / "tests" / f"{name}.py").is_file() for name in fault.tests.split())
