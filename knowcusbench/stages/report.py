"""The report stage: all methods of the run directory in one leaderboard."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from knowcusbench.adaptation.storage import load_cost
from knowcusbench.stages.prepare import Run
from knowcusbench.store import read_table
