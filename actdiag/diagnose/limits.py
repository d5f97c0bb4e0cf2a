"""Every threshold once, with its source.

"Healthy" is two surveys of healthy training runs that look odd: 33 programs with two seeds, and 47 with four seeds.
"Faulty" is the same for 32 and 39 programs with a known fault.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the rules. Shares in [0, 1]; spans in recorded snapshots unless they say otherwise."""

    dead_info: float = 0.2
    """Told, not alarmed: healthy layers of 16 units or more have reached 0.38."""
    dead_warning: float = 0.45
    """Half way between 0.38 and the 0.58 that runs whose fault is dead units begin at."""
    dead_error: float = 0.5
    """Runs whose fault is dead units: 0.58 to 1.00."""
    dead_narrow_units: int = 16
    dead_narrow: float = 0.9
    """Healthy layers of 8 units had 0.38 and, in front of a gate, 0.75: narrow layers must be nearly all dead."""
    silent_warning: float = 0.6
    """Silent for 16 batches and 300 samples, not yet for the window: suspicion needs more units than proof. Healthy
    layers reached 0.50, runs whose fault is dead units 0.65 to 1.00."""
    pinned_share: float = 0.99
    pinned_mean_energy: float = 0.8
    """A closed unit of tanh or sigmoid is dead only if it stays at one end. Unsaturated or swinging from end to end
    it has a mean energy near 0 (tanh) or the share of time it is high (sigmoid); constant units have 1."""

    saturated_warning: float = 0.5
    saturated_error: float = 0.7
    """Hidden layers, healthy: at the start up to 0.25; by training up to 0.38 (sigmoid) and 0.76 (tanh), never in all
    layers. Initial gains of tanh: 0.55 still trained; harm from 0.7."""
    saturated_snapshots: int = 2
    shut_share: float = 0.95
    shut_snapshots: int = 6
    """What saturates by training has usually decided: single layers of healthy runs reached 0.76 and stayed, and one
    was at 0.95 or more for 3 snapshots before it opened again. What stays shut for longer is stuck."""

    input_mean_energy: float = 0.9
    """Healthy inputs: up to 0.72 (images in [0, 1]), 0.89 with the background at 1; faults 0.96 and 0.99."""
    input_samples: int = 32
    """Samples behind the estimate: of one sample everything is mean."""
    input_rms: float = 5.0
    """Inputs beyond it are called unscaled, as a likely cause. Standardized inputs have 1."""

    vanishing_warning: float = 1e-3
    vanishing_error: float = 1e-4
    """Gradient at the early sites over the largest at any site, per sample; healthy 2e-3 and more after the first
    snapshot, 0 in the first one of zero-initialized residual branches."""
    vanishing_snapshots: int = 2
    vanishing_weak_snapshots: int = 3
    """Between the two limits the sign is weaker, and must last longer."""
    underflow_rms: float = 6.1e-5
    """Smallest normal number of fp16: below it a gradient loses bits, below 6e-8 it is 0."""

    exploding_warning: float = 1e2
    exploding_error: float = 1e3
    """Gradient at the early sites over that at the late ones; faults 110 to 6e5, healthy up to 10 in a chain. Late
    sites that do not follow each other (experts with a few easy samples) may be fainter: hence a second limit,"""
    exploding_last: float = 10.0
    """over the gradient at the last site; healthy up to 10 as well."""
    exploding_jump: float = 100.0
    exploding_record: float = 10.0
    """Total gradient norm over the median, and over the largest, of the snapshots before. Healthy up to 7 and 2.2:
    after convergence the norm swings, but stays below where it began."""
    exploding_history: int = 3

    overflowing_snapshots: int = 3
    """A loss scaler that finds no finite scale in so many snapshots will not find one."""
