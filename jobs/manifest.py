"""Make a manifest: a Parquet table with one row for each clip below a folder or an S3 prefix."""

import sys

from audioclf import cli
from audioclf.config import ManifestConfig

if __name__ == "__main__":
    sys.exit(cli.run(ManifestConfig, "manifest", __doc__))
