# SPDX-License-Identifier: Apache-2.0
"""mete-manager dies of SIGKILL at each of its crash points, and is started again (4.16, S.7).

The points are made of the states of orders and drains in api/manager.json: when one is decided, recorded and done, and when an
answer is heard in it. Whoever asked asks again with the same id, as a client that heard nothing does. Then it has ended as it would
have without the death, once; no VM was asked to move twice, and nothing is left at the host. METE_POINTS=all walks all of them, else
it is a sample, whose seed is printed.
"""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from deaths import chosen, die_at, needs_points  # noqa: E402


@needs_points
@pytest.mark.parametrize("point", chosen(), ids="-".join)
def test_a_death(point):
    die_at(point)
