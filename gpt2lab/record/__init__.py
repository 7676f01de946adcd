"""What a run leaves on disk, and nothing else: its directory, metrics, provenance, checkpoints, and the W&B mirror."""
