"""The mutation check can only break lines that are there."""

import pytest

from tests.faults.safety_lines import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_line_to_be_broken_stands_in_its_file_once(mutation: Mutation) -> None:
    assert (ROOT / mutation.path).read_text().count(mutation.line) == 1
    for tests in mutation.tests.split():
        assert (ROOT / tests).is_file()
