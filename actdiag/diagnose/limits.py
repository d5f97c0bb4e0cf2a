"""Every threshold once, with its source.

"Healthy" is two surveys of healthy training runs that look odd: 33 programs with two seeds, and 47 with four seeds.
"Faulty" is the same for 32 and 39 programs with a known fault. Limits from `unreached_steps` on were set on 33 programs
(17 healthy) with three seeds and on 19 more healthy ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

Share = float
"""A threshold in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the rules. Shares in [0, 1]; spans in recorded snapshots unless they say otherwise."""

    dead_info: Share = 0.2
    """Told, not alarmed: healthy layers of 16 units or more have reached 0.38."""
    dead_warning: Share = 0.45
    """Half way between 0.38 and the 0.58 that runs whose fault is dead units begin at."""
    dead_error: Share = 0.5
    """Runs whose fault is dead units: 0.58 to 1.00."""
    dead_narrow_units: int = 16
    dead_narrow: Share = 0.9
    """Healthy layers of 8 units had 0.38 and, in front of a gate, 0.75: narrow layers must be nearly all dead."""
    dead_few_units: int = 32
    dead_few_spare: int = 2
    """Of so few units as many of the silent may open again as open seldom (on 0.4 % of a window or less), two at most,
    until they have been silent for two windows. Of a faulty layer of 16 units 8 had been silent for the whole window
    when 6 were dead. Replayed on seeds 4 to 21 of the benchmark, no rate from 0.2 to 0.6 % had a premature word."""
    dying_fraction: Share = 0.2
    """Of a layer's units at once; one or two in a hundred of a healthy layer settle at a low rate at any time."""
    half_window_warning: Share = 0.5
    """Silent for half of the window: between what is asked of the whole window and of the least evidence. Here and
    below one unit more is asked for than the share: where evidence is short, a unit that fires rarely looks dead."""
    silent_warning: Share = 0.6
    """Silent for 16 batches and 300 samples, not yet for the window: suspicion needs more units than proof. Healthy
    layers reached 0.50, runs whose fault is dead units 0.65 to 1.00."""
    pinned_share: Share = 0.99
    pinned_mean_energy: Share = 0.8
    """A closed unit of tanh or sigmoid is dead only if it stays at one end. Unsaturated or swinging from end to end
    it has a mean energy near 0 (tanh) or the share of time it is high (sigmoid); constant units have 1."""

    saturated_warning: Share = 0.5
    saturated_error: Share = 0.7
    """Hidden layers, healthy: at the start up to 0.25; by training up to 0.38 (sigmoid) and 0.76 (tanh), never in all
    layers. Initial gains of tanh: 0.55 still trained; harm from 0.7."""
    saturated_snapshots: int = 2
    shut_share: Share = 0.95
    shut_snapshots: int = 6
    """What saturates by training has usually decided: single layers of healthy runs reached 0.76 and stayed, and one
    was at 0.95 or more for 3 snapshots before it opened again. What stays shut for longer is stuck."""

    input_mean_energy: Share = 0.9
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

    unreached_steps: int = 100
    unreached_snapshots: int = 3
    """No gradient for more than 100 steps, in this many snapshots."""
    unreached_error_snapshots: int = 6
    unreached_share: Share = 0.5
    """If the optimizer does not hold more than half of the layers, that was a choice (adapters, a new head)."""

    fp16_smallest: int = -24
    """Exponent of the smallest number of fp16, 2^-24 = 6e-8; everything below 2^-25 becomes 0."""
    underflow_share: Share = 0.2
    underflow_near: float = 100.0
    """Share of the gradient within a factor 4 of the smallest number, and root mean square over it. Underflow: 0.26 to
    1.0, and 1 to 41; healthy pure fp16 training: up to 0.06, and 4e4. What has converged loses only its tail."""
    underflow_octaves: int = 3
    """A single number (1/n of a mean) may lie there by chance, unless no gradient of the model is below it."""
    underflow_lost: Share = 0.99
    underflow_snapshots: int = 2

    stalled_update: float = 3e-6
    """Size of the update over that of all weights. Healthy from 1.3e-4 on, fine-tuning with Adam at 1e-5 from 1.6e-5
    on; a learning rate of 1e-7 (Adam) 2e-7 to 1.3e-6."""
    stalled_steps: int = 100
    stalled_snapshots: int = 4
    stalled_error_snapshots: int = 8
    stalled_known: Share = 0.75
    """So much of the history must tell how large its update was."""
    stalled_rise: float = 3.0
    """The last two snapshots over the first two: a linear warm-up from 0 has 5 after four snapshots, then more."""
    stalled_gradient: float = 1e-3
    """Gradient over weights, the smallest of the run. At a rate of 1e-7 0.06; where the loss has converged before the
    run, up to 4e-4: there, small updates are right."""

    oversized_update: float = 0.1
    oversized_error: float = 0.5
    oversized_snapshots: int = 3
    """Healthy after the first snapshot: up to 0.08, in one snapshot; at the first, up to 0.95 (Adam and small initial
    weights)."""
    oversized_jump: float = 0.2
    oversized_over_usual: float = 10.0
    """Rate spike: 0.25 to 0.73, at least 30 times the usual."""
    grown_weights: float = 10.0
    grown_steps: int = 50
    grown_steps_at_most: int = 500
    grown_rms: float = 10.0
    """Norm of all weights over that of 50 steps or a snapshot before, and size of the hidden activations, which grow as
    much. Healthy: up to 36 (small initial weights, whose activations reach 7) and 5.5 (targets in the thousands);
    runs whose fault is too high a rate 17 to 8e4."""
    grown_error: float = 100.0

    exploding_activation: float = 1e3
    exploding_activation_error: float = 1e5
    """Largest hidden activation (root mean square) over that of the first snapshot, and in absolute size. Healthy: up
    to 290 times (small initial weights), and 94 (targets in the thousands); blown up by updates 1.3e3 to 5e9."""
    exploding_depth: float = 100.0
    exploding_depth_error: float = 1e4
    """The last quarter of the layers over the first, growing all the way, and in absolute size;
    healthy residual streams up to 4."""
    fp16_largest: float = 65504.0
    near_largest: Share = 0.5

    collapsed: float = 1.2e-7
    """1 - mean energy: what depends on the sample, in float32 indistinguishable from 0. A healthy autoencoder was at
    1.5e-6 for 150 steps before it began to learn."""
    collapsed_still: float = 1e-6
    """What has collapsed is collapsed up to here."""
    collapsed_steps: int = 50
    collapsed_samples: int = 32
    collapsed_snapshots: int = 4
    collapsed_error_snapshots: int = 8

    initial_ratio_info: float = 100.0
    """Between the first and the last quarter of the layers at the first step: healthy networks 0.08 to 2."""
    initial_ratio_warning: float = 3000.0
    """A third of the 1e4 by which eight sigmoid layers with Xavier weights fade."""
    initial_saturated_info: Share = 0.3
    """Healthy tanh layers begin with 0.09 at most, unscaled inputs make it 0.88."""
    initial_saturated_warning: Share = 0.6
    initial_gate: Share = 0.01
    """Open by so little at the first step; a healthy network of sparse units begins with 0.05."""
    initial_elements: int = 300

    @property
    def dead_earliest(self) -> float:
        """The least share of silent units with which any warning of a wide layer begins."""
        return min(self.dead_warning, self.half_window_warning, self.silent_warning)

    def dead_spare(self, units: int, seldom: int) -> int:
        """How many of the silent units of a layer may open again, from how many of its units opened seldom: none where
        a single one counts for little."""
        return min(seldom, self.dead_few_spare) if units <= self.dead_few_units else 0

    def dead_verges(self, units: int, seldom: int) -> tuple[float, float, float, float]:
        """Shares of silent units at which a warning of a layer with `units` begins, of which `seldom` opened seldom:
        silent for the least evidence, for half of the window, for all of it, for two of them; infinite where these make
        no difference."""
        spare = self.dead_spare(units, seldom)
        one, some = (count / max(units, 1) for count in (max(1, spare), spare))
        double = self.dead_warning if spare else math.inf
        return self.silent_warning + one, self.half_window_warning + one, self.dead_warning + some, double


SHARES = frozenset(spec.name for spec in fields(Limits) if spec.type == "Share")
