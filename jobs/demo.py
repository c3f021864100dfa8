"""From clips to tags and reports: the jobs in turn, on a small corpus made on the spot or your own class folders."""

import sys

from audioclf import cli
from audioclf.config import DemoConfig

if __name__ == "__main__":
    sys.exit(cli.run(DemoConfig, "demo", __doc__))
