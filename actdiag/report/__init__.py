"""From event files, or the snapshots of a running Monitor, to something to read. Nothing here imports torch."""
