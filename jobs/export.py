"""Write the network of a checkpoint as ONNX and TorchScript, for programs that do not have audioclf."""

import sys

from audioclf import cli
from audioclf.config import ExportConfig

if __name__ == "__main__":
    sys.exit(cli.run(ExportConfig, "export", __doc__))
