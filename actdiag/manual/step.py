"""The manual of the numbers of a parameter, and of a step."""

from __future__ import annotations

from actdiag.manual.entry import Entry

PARAMETER = (
    Entry(
        names=("state",),
        of="parameter",
        formula=(
            "trained; frozen: no gradient is wanted; no_grad: none came; zero_grad: it is exactly 0; not_in_optimizer"
        ),
        values="one of these five words",
        healthy="trained, or frozen where you mean it",
        none="Never None.",
        source="definition",
        rules=("no-gradient",),
    ),
    Entry(
        names=("weight_norm", "grad_norm", "grad_zero_fraction"),
        of="parameter",
        formula=(
            "sqrt(sum w²) before the update; sqrt(sum g²) before clipping and without the loss scale; gradient "
            "elements that are exactly 0, over all. Under sharding of the whole parameter"
        ),
        values="0 and more; [0, 1]",
        healthy="no range: healthy total norms span 9e-9 to 6e4",
        none=(
            "None where it is another rank's to tell; the gradient's too where none came. A norm of NaN or "
            "infinities is infinite."
        ),
        source="definition",
        rules=("no-gradient", "exploding-gradient"),
    ),
    Entry(
        names=("update_ratio",),
        of="parameter",
        formula=(
            "||w_after - w_before|| / ||w_before||: what was really applied, with momentum, Adam and weight decay in it"
        ),
        values="0 and more",
        healthy=(
            "around 1e-3, which is a usual size and no limit: 90 % lie between 2e-3 and 4e-2 at the start, 1e-5 "
            "and 7e-3 at the end"
        ),
        none="None where the weights are all 0, and where the step was skipped or did not reach the parameter.",
        source="Karpathy, makemore part 3 (about 1e-3); ranges measured",
        rules=("stalled-update", "oversized-update"),
    ),
)

STEP = (
    Entry(
        names=("grad_norm_total", "clip_coefficient"),
        of="step",
        formula=(
            "2-norm over all parameters before clipping, without the loss scale; the norm after clipping over that"
            " before"
        ),
        values="0 and more; (0, 1], 1 is not clipped",
        healthy="no range; a clip_coefficient that is small all the time means that the limit is the learning rate",
        none=(
            "None where no gradient came, or one of them cannot be told. Infinite where one is not finite; then no"
            " coefficient."
        ),
        source="Pascanu, Mikolov & Bengio 2013",
        rules=("exploding-gradient",),
    ),
    Entry(
        names=("loss_scale", "skipped_steps"),
        of="step",
        formula=(
            "of mixed precision in float16: the factor of the loss, and how many updates the scaler has skipped so far"
        ),
        values="above 0; whole",
        healthy="a few skipped at the start, then a scale that stays or grows",
        none="None without a loss scaler.",
        source="Micikevicius et al. 2018",
        rules=("gradient-underflow", "non-finite"),
    ),
    Entry(
        names=("epoch", "ranks", "world_size"),
        of="step",
        formula="the trainer's epoch, from 0; of how many processes the numbers are, and how many train",
        values="whole",
        healthy="ranks equal to world_size: nobody went missing",
        none="epoch: None where nobody says it; the others: None in a single process.",
        source="definition",
    ),
    Entry(
        names=("overhead_ms", "overhead_percent"),
        of="step",
        formula=(
            "what the recorded step before this one took beyond a usual one; the share of all time that observing "
            "has taken"
        ),
        values="ms; %",
        healthy="a percent below 2 in the long run, or what max_overhead says; the first second is forgiven",
        none="None until 8 unrecorded steps have been timed.",
        source="measured by the monitor itself",
    ),
)
