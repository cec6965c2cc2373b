"""Exact match forgives case, space and a full stop, nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.exact import exact_match


@pytest.mark.parametrize("prediction", ["Petra", " petra\n", "PETRA.", "petra ."])
def test_right(prediction):
    assert exact_match(prediction, "Petra") == 1.0


@pytest.mark.parametrize("prediction", ["", ".", "Petr", "Petra Petra", "It is Petra", "Pétra"])
def test_wrong(prediction):
    assert exact_match(prediction, "Petra") == 0.0


@given(st.text(), st.text())
def test_symmetric_and_reflexive(a, b):
    assert exact_match(a, a) == 1.0
    assert exact_match(a, b) == exact_match(b, a)
