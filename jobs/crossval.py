"""Train and evaluate a network on every fold in turn."""

import sys

from audioclf import cli
from audioclf.config import CrossvalConfig

if __name__ == "__main__":
    sys.exit(cli.run(CrossvalConfig, "crossval", __doc__))
