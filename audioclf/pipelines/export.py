"""A checkpoint → ONNX and TorchScript. Without Ray: it is the work of one process."""

import logging

from audioclf import checkpoint, export, storage
from audioclf.config import ExportConfig
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")


def run(config: ExportConfig) -> str:
    """Write the network, and make sure that it gives what the checkpoint gives."""
    storage.reach(config.output)
    loaded = checkpoint.load_for(config.checkpoint)
    frames = export.frames_of(loaded, config.frames)
    directory = RunDirectory(config.output)
    formats = " and ".join(config.formats)
    binding = {"weights": loaded.weights_digest(), "formats": list(config.formats), "frames": frames}
    if config.dry_run:
        directory.require("export", binding)
        log.info("export: would write %s (%s) as %s into %s", config.checkpoint, loaded.name, formats, directory)
        return "ok"
    directory.bind("export", binding, {})
    files = export.export(loaded, config.formats, frames)
    for name, content in files.items():
        storage.write_bytes(directory.at(name), content)
        log.info("  %-18s %.2f MB", name, len(content) / 1e6)
    directory.finish({"job": "export", "status": "ok", "bytes": {name: len(data) for name, data in files.items()}})
    log.info("wrote %s as %s into %s; its logits are the checkpoint's", loaded.name, formats, directory)
    return "ok"
