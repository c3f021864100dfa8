"""Extract log-mel features of a manifest's clips, augmented copies included, into Parquet shards."""

import sys

from audioclf import cli
from audioclf.config import ExtractConfig

if __name__ == "__main__":
    sys.exit(cli.run(ExtractConfig, "extract", __doc__))
