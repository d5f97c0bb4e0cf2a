"""From Snapshots to Findings: pure functions of plain numbers. Nothing here imports torch."""
