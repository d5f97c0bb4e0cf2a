"""Every threshold once, with its source. "Healthy" is a survey of 33 healthy training runs with two seeds each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the rules. Shares in [0, 1]; spans in recorded snapshots unless they say otherwise."""

    dead_info: float = 0.2
    """Told, not alarmed: healthy layers reached 0.16, on another seed 0.31."""
    dead_warning: float = 0.35
    """Above every healthy layer of 16 units or more."""
    dead_error: float = 0.5
    """Runs whose fault is dead units: 0.58 to 1.00."""
    dead_narrow_units: int = 16
    dead_narrow: float = 0.9
    """A healthy layer of 8 units had 0.38, another (behind a gate) 0.75: narrow layers must be nearly all dead."""
    silent_warning: float = 0.5
    """Silent for 16 batches and 300 samples, not yet for the window: no healthy run reached it."""

    saturated_warning: float = 0.5
    saturated_error: float = 0.7
    """Hidden layers, healthy: up to 0.38 (sigmoid) and 0.25 (tanh); tanh at 0.55 still trained; harm from 0.7."""
    saturated_snapshots: int = 2

    input_mean_energy: float = 0.9
    """Healthy inputs: up to 0.69 (images in [0, 1])."""

    vanishing_warning: float = 1e-3
    vanishing_error: float = 1e-4
    vanishing_snapshots: int = 2
    """Gradient at the early sites over the largest at any site, per sample."""

    exploding_depth: float = 1e3
    """Gradient at the early sites over the last site's: healthy products over depth lie in 1e-3 to 1e3."""
    exploding_jump: float = 100.0
    """Total gradient norm over the median of earlier snapshots; healthy spikes stay below 10."""
    exploding_history: int = 3
