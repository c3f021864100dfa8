"""Measure a checkpoint on the shards of an extraction."""

import sys

from audioclf import cli
from audioclf.config import EvaluateConfig

if __name__ == "__main__":
    sys.exit(cli.run(EvaluateConfig, "evaluate", __doc__))
