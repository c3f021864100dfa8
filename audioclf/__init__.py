"""Classify large collections of sound on Ray: WAV files → log-mel shards → trained networks → tags."""
