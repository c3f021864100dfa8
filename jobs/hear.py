"""Write a segment of an extraction, or an augmented copy of one, as a WAV file to listen to."""

import sys

from audioclf import cli
from audioclf.config import HearConfig

if __name__ == "__main__":
    sys.exit(cli.run(HearConfig, "hear", __doc__))
