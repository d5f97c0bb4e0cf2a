"""Where Snapshots and Findings go. Nothing here imports torch; no verdict is given here."""
