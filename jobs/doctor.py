"""Check what jobs need: Python, packages, Ray, programs, GPUs, memory, disks, stores; say how to mend what is wrong."""

import sys

from audioclf import cli
from audioclf.config import DoctorConfig

if __name__ == "__main__":
    sys.exit(cli.run(DoctorConfig, "doctor", __doc__))
