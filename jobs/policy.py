"""Learn which augmentation helps which class, for one test fold, from the other folds."""

import sys

from audioclf import cli
from audioclf.config import PolicyConfig

if __name__ == "__main__":
    sys.exit(cli.run(PolicyConfig, "policy", __doc__))
