"""Tag the recordings below a folder or an S3 prefix that are new since the last run."""

import sys

from audioclf import cli
from audioclf.config import TagConfig

if __name__ == "__main__":
    sys.exit(cli.run(TagConfig, "tag", __doc__))
