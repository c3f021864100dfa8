"""Train a network on the shards of an extraction."""

import sys

from audioclf import cli
from audioclf.config import TrainConfig

if __name__ == "__main__":
    sys.exit(cli.run(TrainConfig, "train", __doc__))
