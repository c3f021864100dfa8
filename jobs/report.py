"""Turn a run directory into one HTML file to look at."""

import sys

from audioclf import cli
from audioclf.config import ReportConfig

if __name__ == "__main__":
    sys.exit(cli.run(ReportConfig, "report", __doc__))
