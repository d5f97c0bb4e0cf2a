"""From tensors in hooks to one Snapshot: everything that needs torch and gives no verdict."""
