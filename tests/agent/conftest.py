# SPDX-License-Identifier: Apache-2.0
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake import World  # noqa: E402


@pytest.fixture
def world():
    w = World()
    try:
        yield w
    finally:
        w.close()
