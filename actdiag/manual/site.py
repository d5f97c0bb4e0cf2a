"""The manual of the numbers of a site."""

from __future__ import annotations

from actdiag.manual.entry import Entry

_UNSEEN = "None where the step had no finite element here (n = 0, or all NaN); NaN and infinities are left out."
_NO_GRADIENT = (
    "None where no gradient came in this step: the backward does not reach the site, or it has no finite element."
)
_NO_EVIDENCE = (
    "None at a site whose units cannot die (it is no activation, or one without a flat part, as LeakyReLU), and "
    "before 16 batches and 300 samples have been watched. NaN is not closed: it makes no unit dead."
)

SITE = (
    Entry(
        names=("n", "samples"),
        of="site",
        formula="counted over all calls and micro-batches of the step, on all ranks",
        values="whole, 0 and more; a sample is an image, a token or a row",
        healthy="there is no range",
        none="Never None; a tensor without elements is not observed at all. n counts NaN and infinities too.",
        source="definition",
    ),
    Entry(
        names=("mean", "std", "rms"),
        of="site",
        formula=(
            "mean = sum a / n; std² = sum (a - mean)² / n; rms² = mean² + std². Around a shift, added up in float64"
        ),
        values="any; std and rms 0 and more. Exact at mean/std = 10,000 and in half precision",
        healthy=(
            "no range for one layer. What tells is the profile: the scale stays within a factor of about 3 over "
            "ten layers"
        ),
        none=_UNSEEN,
        source="Glorot & Bengio 2010; He et al. 2015. Merged as Chan, Golub & LeVeque 1983",
        more=(
            "A ReLU's mean is never 0: 0.40 of the scale of z at the start. What is judged is mean_energy, of "
            "inputs alone."
        ),
        rules=("exploding-activation", "poor-initialization"),
    ),
    Entry(
        names=("low", "high"),
        of="site",
        formula="min a, max a, exact",
        values="any finite",
        healthy="no range; in float16 a high of thousands is close to 65,504, where it ends",
        none=_UNSEEN,
        source="definition",
        rules=("exploding-activation",),
    ),
    Entry(
        names=("zero_fraction",),
        of="site",
        formula="elements that are exactly 0, over n",
        values="[0, 1]",
        healthy="ReLU: 0.12 to 0.57, and one of 0.85 with no unit dead",
        none=_UNSEEN,
        source="Glorot, Bordes & Bengio 2011, on what sparsity is good for",
        more="It is sparsity, not death; what dropout has set to 0 is in it. No rule judges it.",
    ),
    Entry(
        names=("nonfinite",),
        of="site",
        formula="elements that are NaN or infinite, counted",
        values="whole, 0 and more",
        healthy="0",
        none="Never None at a site that ran; it counts what all other numbers leave out.",
        source="definition",
        rules=("non-finite",),
    ),
    Entry(
        names=("mean_energy",),
        of="site",
        formula="sum_i mu_i² / sum_i E[a_i²]: the share of the second moment that is the units' mean",
        values=(
            "[0, 1]: 0 is centered, 1 is constant. Near the mean cosine between two samples, if they are equally long"
        ),
        healthy=(
            "standardized inputs 0; tanh below 0.01; the first ReLU 0.3 (1/pi = 0.32 for Gaussian z), rising to "
            "0.8 over 20 layers with He initialization, falling to 0.16 behind batch norm; sigmoid 0.93 to 1; "
            "images in [0, 1] 0.69"
        ),
        none=_UNSEEN + " None too where everything is 0. Of one sample everything is mean: it is 1.",
        source="the idea: LeCun et al. 1998, Efficient BackProp, 4.3; Ioffe & Szegedy 2015",
        more="Only inputs are judged (limit 0.9): hidden ReLU layers are far from 0 and train well.",
        rules=("off-center", "collapsed-activation"),
    ),
    Entry(
        names=("saturated_fraction", "saturated_low", "saturated_high"),
        of="site",
        formula="elements with |f'(z)| <= 0.0591 max |f'|, over n, and the parts of it at each end: |tanh| >= 0.97",
        values="[0, 1]; the whole is the sum of its ends",
        healthy=(
            "hidden layers: up to 0.25 (tanh) and 0.38 (sigmoid). Gates and outputs saturate as they should, up to 1"
        ),
        none="None where the activation is not bounded, and for an end that it has not (ReLU6 has no lower). "
        + _UNSEEN,
        source="Karpathy, makemore part 3 (the 0.97); Glorot & Bengio 2010; harm from about 0.7 measured",
        more=(
            "Saturated is not vanishing: tanh with large weights saturates while its gradient explodes, and a deep"
            " sigmoid network loses its gradient without saturating."
        ),
        rules=("saturated-activation",),
    ),
    Entry(
        names=("gate_mean",),
        of="site",
        formula="E |f'(z)| / max |f'|: how open an activation is",
        values="[0, 1]",
        healthy="ReLU: the share of positive z, 0.5 at the start; no range",
        none="None where the slope is not known: no activation, or one without facts. " + _UNSEEN,
        source="definition; the factor by which a backward through the layer shrinks: Glorot & Bengio 2010",
    ),
    Entry(
        names=("dead_units", "dead_fraction", "units"),
        of="site",
        formula=(
            "units whose gate |f'(z)| / max |f'| was below 0.01 for every sample of the last window_samples "
            "(2,048), and in at least 16 batches; dead_fraction = dead_units / units"
        ),
        values=(
            "0 to units; the fraction in [0, 1]. With n silent samples a unit fires on fewer than 3/n of them (95 %)"
        ),
        healthy="0 to 0.10 of a layer, up to 0.38 in one of 8 units",
        none=_NO_EVIDENCE,
        source="Lu et al. 2019; the bound is the rule of three; GELU, SiLU and Mish are judged on their tail, from z",
        more="Never from the zeros of one batch: with 20 % truly dead, a batch of one shows 61 % silent.",
        rules=("dead-units",),
    ),
    Entry(
        names=("suspect_units", "half_window_units", "double_window_units"),
        of="site",
        formula="units silent for 300 samples and 16 batches; for half of the window, the dead too; for two windows",
        values="0 to units",
        healthy="a few come and go; healthy layers reached half of their units",
        none=_NO_EVIDENCE,
        source="3/300 = 1 % by the rule of three",
        more="The early part of the evidence: it becomes a death, or passes; some silence passes after a window, too.",
        rules=("dead-units",),
    ),
    Entry(
        names=("flickering_units",),
        of="site",
        formula="units that came back from a silence of 100 samples and 6 batches or more, on less than 1 % of the "
        "samples since it began",
        values="0 to units",
        healthy="0; a few in layers of rare units",
        none=_NO_EVIDENCE,
        source="as many units are still to come back as came back once: Good 1953",
        more="Until they open again sooner, or have been silent for three times as long. Where most units that open at "
        "all flicker, the silence of the others is no proof yet.",
        rules=("dead-units",),
    ),
    Entry(
        names=("seldom_units",),
        of="site",
        formula="units, silent or not, that opened in the last one or two windows, on 0.4 % of a window at most",
        values="0 to units",
        healthy="no range: sparse features open seldom",
        none=_NO_EVIDENCE,
        source="measured: see the limits of the rules",
        more="Such a unit is silent for a whole window now and then, and opens again: in a layer of few units as many "
        "of the dead are not counted at first.",
        rules=("dead-units",),
    ),
    Entry(
        names=("rare_units", "revived_units", "evidence_samples", "first_death_step"),
        of="site",
        formula=(
            "units that open on less than 1 % of samples; that were dead and opened again; the samples the counts "
            "rest on; the step at which the first dead unit fell silent"
        ),
        values="0 to units; evidence_samples up to the window; a step",
        healthy="no range: sparse features and experts are rare, and rare is not dead",
        none=_NO_EVIDENCE
        + (" first_death_step is None as long as no unit has died; evidence_samples is told from the start."),
        source="definition",
        rules=("dead-units",),
    ),
    Entry(
        names=("dying_units", "dying_step", "dying_earliest_step", "dying_latest_step"),
        of="site",
        formula=(
            "a line through each living unit's firing rate, by weighted least squares: units for which it ends "
            "before long; when half of these open on fewer than 3 samples of a window; the same with the line one "
            "standard error steeper, and flatter"
        ),
        values="0 to units; steps",
        healthy="0; one or two in a hundred settle at a low rate at any time",
        none=_NO_EVIDENCE + " The steps are None where no unit is dying.",
        source="measured: units driven down at constant speed are forecast within 6 %",
        rules=("dying-units",),
    ),
    Entry(
        names=("grad_rms", "grad_zero_fraction", "grad_nonfinite"),
        of="site",
        formula=(
            "of the loss gradient g at the site's output, without the loss scale: sqrt(sum g² / n); elements that "
            "are exactly 0, over n; elements that are NaN or infinite"
        ),
        values="0 and more; [0, 1]; whole",
        healthy=(
            "absolute values say nothing (healthy total norms span 9e-9 to 6e4); the profile along the depth does"
        ),
        none=_NO_GRADIENT + " grad_rms is None too where the loss scale is not known.",
        source="Glorot & Bengio 2010; Hochreiter 1991",
        more=(
            "Gradients at weights mislead: with a small initialization their ratio between layers stays near 1 "
            "while the gradient at the activations shrinks by 3e-9, since activations shrink too."
        ),
        rules=("vanishing-gradient", "exploding-gradient", "gradient-underflow", "non-finite"),
    ),
    Entry(
        names=("histogram", "grad_histogram"),
        of="site",
        formula=(
            "counts on signed octaves, [2^k, 2^(k+1)): 31 of each sign below the largest value, smaller ones and 0"
            " in the middle"
        ),
        values="63 counts, and the exponent of the largest",
        healthy="a layer keeps its width; one that fades moves towards the middle",
        none="None where there is no finite element, and with histograms=False.",
        source="definition; of tensors beyond 65,536 elements a sample is counted",
    ),
    Entry(
        names=("unit_states",),
        of="site",
        formula="one letter a unit: a alive, r rare, s suspect, d dead, v revived",
        values="a text as long as there are units",
        healthy="nearly all a",
        none=_NO_EVIDENCE.partition(", and before")[0] + ".",
        source="definition",
        rules=("dead-units",),
    ),
)
