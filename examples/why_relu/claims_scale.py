"""Claims about scale: initialization, saturation, weight decay."""

from __future__ import annotations

from .claims_depth import epochs, growth
from .claims_speed import word
from .nets import Net
from .observe import Lab, Recipe, train, value
from .results import Panel, Points, Result, Sample, Table, mid, number, ratio, say

STARTS = {
    "ReLU": ("std 0.01", "std 0.1", "std 1", "default", "xavier", "he"),
    "tanh": ("std 0.01", "std 1", "default", "xavier", "gain 1.667"),
    "sigmoid": ("xavier", "gain 4"),
}
DRAWN = ("ReLU, he", "ReLU, default", "ReLU, xavier", "tanh, xavier", "tanh, std 1", "sigmoid, xavier")
PICKED = ("ReLU, std 0.01", *DRAWN)
THROUGH = ("std of outputs, 10 over 1", "output gradient, 1 over 10", "weight gradient norm, 1 over 10")

_SCALE = """
Over ten layers the gradient arrives with {he} of its size under ReLU and He, with {xavier} under tanh and Xavier.
torch's default for Linear is neither: {default}. Looking at the activations alone is not enough: a deep sigmoid keeps
their spread ({sigmoid_out}) while its gradient shrinks to {sigmoid}, and tanh with weights of standard deviation 1
keeps it ({wide_out}) while its gradient grows {wide} times. Nor are weight gradients enough: with weights of 0.01
they look alike in the first and the last layer ({small_weights}), while the gradient of the outputs is gone
({small})."""


def scale(lab: Lab) -> Result:
    """Ten layers of 256 at the start, forward and backward."""
    nets = {f"{phi}, {init}": Net(phi, 10, 256, init) for phi, inits in STARTS.items() for init in inits}
    nets = {name: net for name, net in nets.items() if lab.full or name in PICKED}
    rows = {name: through(lab, net) for name, net in nets.items()}
    he, default, xavier, sigmoid = (rows[n] for n in ("ReLU, he", "ReLU, default", "tanh, xavier", "sigmoid, xavier"))
    wide, small = rows["tanh, std 1"], rows["ReLU, std 0.01"]
    kept = all(0.3 < mid(ratios) < 3 for ratios in (he[0], he[1], xavier[0], xavier[1]))
    told = {"he": he[1], "default": default[1], "sigmoid": sigmoid[1]}
    others = {"xavier": xavier[1], "sigmoid_out": sigmoid[0], "wide_out": wide[0], "wide": wide[1]}
    forward = {name: relative(lab, nets[name], "std", "act1") for name in DRAWN}
    backward = {name: relative(lab, nets[name], "grad_rms", "act10") for name in DRAWN}
    return Result(
        "Xavier and He initialization keep the scale; torch's default for Linear is not He's",
        word(kept, mid(default[1]) < 0.01),
        say(_SCALE, small=small[1], small_weights=small[2], **told, **others),
        [Table("Ten layers of 256 before training", THROUGH, rows)],
        [
            Panel("Forward", "hidden layer", "std over that of layer 1", forward, log="y"),
            Panel("Backward", "hidden layer", "gradient RMS over that of layer 10", backward, log="y"),
        ],
        {name: number(mid(sample)) for name, sample in told.items()},
    )


def through(lab: Lab, net: Net) -> list[Sample]:
    """Std of the last over the first layer; gradient of the first over the last, of outputs and of weights."""
    ends = "act1", f"act{net.depth}"
    deviation, gradient = ([lab.start(net, site, stat) for site in ends] for stat in ("std", "grad_rms"))
    return [ratio(deviation[1], deviation[0]), ratio(*gradient), _weights(lab, net)]


def _weights(lab: Lab, net: Net) -> Sample:
    """Norm of the weight gradient of the first hidden layer over that of the last."""
    first, last = (
        tuple(look.parameters[f"linear{i}.weight"].grad_norm or 0.0 for look in lab.looks(net)) for i in (1, net.depth)
    )
    return ratio(first, last)


def relative(lab: Lab, net: Net, stat: str, to: str) -> Points:
    """A statistic layer by layer, over its value at one layer."""
    base = lab.start(net, to, stat)
    return [(i, ratio(lab.start(net, f"act{i}", stat), base)) for i in range(1, net.depth + 1)]


GAINS = (0.5, 1.0, 1.667, 2.5, 4.0, 6.0, 10.0, 20.0)
EPOCHS = 12

_SATURATION = """
Slopes do close: at gain 20, {large_share:%} of the tanh outputs are saturated, and accuracy is {large_accuracy}. But
the gradient does not vanish there, it explodes, {large} times a layer, because the weights that saturate also
multiply it. It vanishes at gain 0.5 ({small} times a layer), where {small_share:%} is saturated, and in ten sigmoid
layers ({left} of it arrives), where {sigmoid_share:%} is. The best gain of these is {best}, with {best_share:%}
saturated."""


def saturation(lab: Lab) -> Result:
    """tanh with six layers of 128 and larger and larger weights: saturated share, backward factor, what is learned."""
    rows = {gain: _gain(lab, gain) for gain in (GAINS if lab.full else GAINS[::3] + GAINS[-1:])}
    quiet, left = sigmoid = _sigmoid(lab)
    small, large, best = rows[0.5], rows[20.0], max(rows, key=lambda gain: mid(rows[gain][2]))
    told = {"small": small[1], "small_share": small[0], "left": left, "sigmoid_share": quiet}
    told |= {"large": large[1], "large_share": large[0], "large_accuracy": large[2], "best_share": rows[best][0]}
    measured = ("saturated before training", "backward factor per layer", "accuracy after training")
    title = f"tanh, 6 layers of 128, {EPOCHS} epochs at rate 0.05"
    columns: list[dict[str, Points]] = [{"tanh": [(gain, row[i]) for gain, row in rows.items()]} for i in range(3)]
    axis = "gain of the weights"
    return Result(
        "Saturation makes the gradient vanish",
        word(mid(large[2]) < 0.8, mid(large[1]) < 1),
        say(_SATURATION, best=best, **told),
        [
            Table(title, measured, {f"gain {gain:g}": row for gain, row in rows.items()}),
            Table("Ten layers of 256, Xavier", ("saturated", "output gradient, 1 over 10"), {"sigmoid": sigmoid}),
        ],
        [
            Panel("Saturation", axis, "saturated outputs (share)", columns[0], log="x"),
            Panel("Gradient", axis, "backward factor per layer", columns[1], log="xy"),
            Panel("Learning", axis, "training accuracy (share)", columns[2], log="x"),
        ],
        {"explodes": number(mid(large[1]))},
    )


def _sigmoid(lab: Lab) -> list[Sample]:
    """Saturated share of the most saturated of ten sigmoid layers, and how much of the gradient arrives."""
    net = Net("sigmoid", 10, 256, "xavier")
    shares = [lab.start(net, f"act{i}", "saturated_fraction") for i in range(1, 11)]
    return [tuple(map(max, zip(*shares, strict=True))), through(lab, net)[1]]


def _gain(lab: Lab, gain: float) -> list[Sample]:
    net = Net("tanh", 6, 128, f"gain {gain:g}")
    runs = [train(net, s, Recipe(0.05, EPOCHS), lab.logs / "gain" / net.slug / f"seed-{s}") for s in lab.seeds]
    shares, factors = [], []
    for run in runs:
        sites = run.before[0].sites
        shares.append(sum(value(sites[f"act{i}"], "saturated_fraction") for i in range(1, 7)) / 6)
        factors.append((value(sites["act1"], "grad_rms") / value(sites["act6"], "grad_rms")) ** (1 / 5))
    return [tuple(shares), tuple(factors), tuple(run.accuracy for run in runs)]


DECAYS = (0.0, 1e-3, 1e-2)

_DECAY = """
Without it the last of eight ReLU layers grows {none} times while training, with {most} {held} times. Up to {harmless}
that costs no accuracy: the growth is not needed to fit."""


def decay(lab: Lab) -> Result:
    """Weight decay while training: nothing else bounds what ReLU puts out."""
    used = DECAYS[:: 1 if lab.full else 2]
    tried = {"ReLU": used, "tanh": (used[0], used[-1])}
    rows = {(phi, rate): _decayed(lab, phi, rate) for phi, rates in tried.items() for rate in rates}
    factors = [mid(rows["ReLU", rate][2]) for rate in used]
    harmless = [rate for rate in used if mid(rows["ReLU", rate][3]) > 0.99]
    lines: dict[str, Points] = {p: [(f"{r:g}", rows[p, r][2]) for r in rates] for p, rates in tried.items()}
    columns = ("RMS before", "RMS after", "ratio", "accuracy after")
    title = f"The last of 8 layers of 128, {epochs(lab)} epochs of SGD at rate 0.05"
    return Result(
        "Weight decay holds the scale of activations that nothing bounds",
        word(factors == sorted(factors, reverse=True) and factors[-1] < 0.9 * factors[0]),
        say(_DECAY, none=factors[0], most=f"{used[-1]:g}", held=factors[-1], harmless=f"{max(harmless, default=0):g}"),
        [Table(title, columns, {f"{phi}, decay {rate:g}": row for (phi, rate), row in rows.items()})],
        [Panel("Growth of the last hidden layer", "weight decay", "RMS after over before", lines)],
    )


def _decayed(lab: Lab, phi: str, rate: float) -> list[Sample]:
    runs = growth(lab, phi, rate)
    before, after = (
        tuple(value(look[0].sites["act8"], "rms") for look in looks)
        for looks in ([run.before for run in runs], [run.after for run in runs])
    )
    return [before, after, ratio(after, before), tuple(run.accuracy for run in runs)]
