"""Claims about depth: mean energy layer by layer, normalization, and activations of other shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

from .claims_speed import SIX, race_panel, race_table, word
from .data import parity
from .nets import Net
from .observe import Lab, Recipe, Trained, train, value
from .race import Rules, race
from .results import Panel, Points, Result, Sample, Table, mid, number, ratio, say

DEPTH, WIDTH = 20, 256
SHOWN = (1, 2, 5, 10, 20)
COLUMNS = [f"layer {i}" for i in SHOWN]
Nets = dict[str, Net]
Site = Callable[[Net, int], str]


def deep(phi: str, init: str = "", norm: str = "") -> Net:
    """Twenty hidden layers of 256."""
    return Net(phi, DEPTH, WIDTH, init, norm)


def leaving(net: Net, layer: int) -> str:
    """Where the output of a hidden layer is observed; an identity is no site of its own."""
    return f"linear{layer}" if net.phi == "identity" else f"act{layer}"


def entering(net: Net, layer: int) -> str:
    """Where the input of a nonlinearity is observed."""
    return f"norm{layer}" if net.norm else f"linear{layer}"


def curves(lab: Lab, nets: Nets, stat: str = "mean_energy", site: Site = leaving) -> dict[str, Points]:
    """A statistic of every hidden layer before training."""
    layers = range(1, DEPTH + 1)
    return {name: [(i, lab.start(net, site(net, i), stat)) for i in layers] for name, net in nets.items()}


def shown(lines: dict[str, Points]) -> dict[str, list[Sample]]:
    """The layers of them that a table has room for."""
    return {name: [points[i - 1][1] for i in SHOWN] for name, points in lines.items()}


_CENTERING = """
The share of an output's energy that is its mean is below {tanh} in every tanh layer. In ReLU layers it rises from
{first} to {deep} in twenty layers. The plain mean hides that: from layer 1 to layer 10 it goes from {mean_first} to
{mean_ten} only. While training, the last of eight ReLU layers grows {grown} times. So does tanh's, {tanh_grown}
times, to {tanh_size}, but 1 bounds it; and while it grows, the mean energy of ReLU's last layer falls from
{energy_before} to {energy_after}."""


def centering(lab: Lab) -> Result:
    """Mean energy through twenty layers before training, and the size of outputs while training."""
    nets = {phi: deep(phi) for phi in ("ReLU", "ReLU - 0.4", "tanh", "sigmoid")}
    nets["ReLU, default init"] = deep("ReLU", "default")
    energy, means = curves(lab, nets), shown(curves(lab, {phi: nets[phi] for phi in ("ReLU", "tanh")}, "mean"))
    runs = {phi: growth(lab, phi) for phi in ("ReLU", "tanh")}
    grown = {phi: _grown(several) for phi, several in runs.items()}
    table = shown(energy)
    relu, tanh = table["ReLU"], max(max(sample) for _, sample in energy["tanh"])
    told = {"first": relu[0], "deep": relu[-1], "mean_first": means["ReLU"][0], "mean_ten": means["ReLU"][3]}
    told |= {"grown": grown["ReLU"][2], "tanh_grown": grown["tanh"][2], "tanh_size": grown["tanh"][1]}
    told |= {"energy_before": grown["ReLU"][3], "energy_after": grown["ReLU"][4]}
    columns = ("RMS before", "RMS after", "ratio", "mean energy before", "mean energy after")
    return Result(
        "tanh is centered, ReLU is not; its offset grows with depth, its size with training",
        word(tanh < 0.05, mid(relu[-1]) > 2 * mid(relu[0]), mid(grown["ReLU"][2]) > 1.5),
        say(_CENTERING, tanh=tanh, **told),
        [
            Table("Mean energy of the output before training, 20 layers of 256", COLUMNS, table),
            Table("Mean of the output before training", COLUMNS, means),
            Table(f"The last of 8 layers of 128, {epochs(lab)} epochs of SGD", columns, grown),
        ],
        [
            Panel("Before training", "hidden layer", "mean energy (share)", energy),
            Panel("While training", "step", "RMS of the last hidden layer", {p: _curve(r) for p, r in runs.items()}),
        ],
        {"first": number(mid(relu[0])), "deep": number(mid(relu[-1]))},
    )


def epochs(lab: Lab) -> int:
    """How long the trainings last whose layers are looked at before, during and after."""
    return 30 if lab.full else 8


def growth(lab: Lab, phi: str, decay: float = 0.0) -> list[Trained]:
    """Eight layers of 128, trained; observed before, during and after."""
    key = ("growth", phi, decay)
    if key not in lab.seen:
        net, recipe = Net(phi, 8, 128), Recipe(0.05, epochs(lab), decay, every=40)
        folder = lab.logs / "trained" / f"{net.slug}-decay-{decay:g}"
        lab.seen[key] = [train(net, seed, recipe, folder / f"seed-{seed}") for seed in lab.seeds]
    found: list[Trained] = lab.seen[key]
    return found


def _grown(runs: list[Trained], site: str = "act8") -> list[Sample]:
    """RMS before, after, their ratio; mean energy before, after."""
    before, after = (
        [tuple(value(look[0].sites[site], stat) for look in looks) for stat in ("rms", "mean_energy")]
        for looks in ([run.before for run in runs], [run.after for run in runs])
    )
    return [before[0], after[0], ratio(after[0], before[0]), before[1], after[1]]


def _curve(runs: list[Trained]) -> Points:
    steps = [snapshot.step for snapshot in runs[0].during]
    return [(step, tuple(value(run.during[i].sites["act8"], "rms") for run in runs)) for i, step in enumerate(steps)]


_NORMALIZATION = """
Batch norm does: what enters the nonlinearity has a mean energy below {z} in every layer, and what leaves it goes from
{first} to {last} through twenty layers, where it goes to {plain} without. It centers the input of ReLU and not its
output, whose mean is {mean} in layer 20. Layer norm centers each sample over the units, and no unit over the samples:
mean energy rises with depth all the same, to {layer_z} in front of ReLU and {layer_last} behind it; what it keeps is
the scale. ReLU gets to 25 % error in {normed_steps} steps with batch norm, in {layer_steps} with layer norm, in
{steps} without."""


def normalization(lab: Lab) -> Result:
    """Batch and layer norm in front of ReLU, before training, and what they do to the race."""
    nets = {"ReLU": deep("ReLU")} | {f"{norm} norm, ReLU": deep("ReLU", norm=norm) for norm in ("batch", "layer")}
    lines_in, lines_out = curves(lab, nets, site=entering), curves(lab, nets)
    into, out, means = shown(lines_in), shown(lines_out), shown(curves(lab, nets, "mean"))
    phis = ("ReLU", "tanh", "sigmoid") if lab.full else ("ReLU",)
    arms = {phi: race(lab, Net(phi), SIX) for phi in phis}
    arms |= {f"batch norm, {phi}": race(lab, Net(phi, norm="batch"), SIX) for phi in phis}
    arms["layer norm, ReLU"] = race(lab, Net(norm="layer"), SIX)
    batch, layer = "batch norm, ReLU", "layer norm, ReLU"
    z = max(max(sample) for _, sample in lines_in[batch])
    told = {"first": out[batch][0], "last": out[batch][-1], "plain": out["ReLU"][-1], "mean": means[batch][-1]}
    told |= {"layer_z": into[layer][-1], "layer_last": out[layer][-1]}
    steps = {"steps": arms["ReLU"].steps[0], "normed_steps": arms[batch].steps[0], "layer_steps": arms[layer].steps[0]}
    return Result(
        "Batch norm and layer norm in front of the nonlinearity re-center what ReLU shifts",
        word(z < 0.01 and mid(out[batch][-1]) < 0.35, mid(into[layer][-1]) < 0.1),
        say(_NORMALIZATION, z=z, **told, **steps),
        [
            Table("Mean energy of what enters the nonlinearity", COLUMNS, into),
            Table("Mean energy of what leaves it", COLUMNS, out),
            race_table("Steps to a training error, 6 layers of 64", arms),
        ],
        [
            Panel("Into ReLU", "hidden layer", "mean energy (share)", lines_in),
            Panel("Out of ReLU", "hidden layer", "mean energy (share)", lines_out),
        ],
        {"plain": number(mid(steps["steps"])), "normed": number(mid(steps["normed_steps"]))},
    )


OTHERS = ("ReLU", "identity", "squared ReLU", "GELU", "SiLU")
SCALES = ("mean energy, layer 1", "mean energy, layer 20", "RMS, 20 over 1", "gradient, 1 over 20")

_OTHERS = """
The identity stays centered ({identity} at layer 20), keeps its scale, and trains; but it cannot bend: to tell odd
from even digits with 5 % error it needs {identity_odd}, ReLU {relu_odd}. The square of the positive part bends and
closes as ReLU does, and has no scale that twenty layers keep: the size changes by a factor of {squared} from the
first to the last. Batch norm in front holds the size and not the slope: the gradient grows {normed} times on its way
back, and to 5 % error such a network of six layers needs {squared_steps}. GELU and SiLU bend and have a slope near 1
as well; their mean energy at layer 20 is {gelu} and {silu}, and they get to 5 % in {gelu_steps} and {silu_steps}
(ReLU: {relu_steps})."""


def others(lab: Lab) -> Result:
    """What identity, a squared positive part, GELU and SiLU do in the same pictures."""
    nets = {phi: deep(phi) for phi in OTHERS} | {"squared ReLU, batch norm": deep("squared ReLU", norm="batch")}
    scales = {name: _scales(lab, net) for name, net in nets.items()}
    arms = {phi: race(lab, Net(phi), SIX) for phi in OTHERS}
    arms["squared ReLU, batch norm"] = race(lab, Net("squared ReLU", norm="batch"), SIX)
    rules = Rules(400, (0.05, 0.02))
    odd = {phi: race(lab, Net(phi, 2, outputs=2), rules, parity(), "odd") for phi in OTHERS}
    squared = mid(scales["squared ReLU"][2])
    told = {name: scales[phi][1] for name, phi in (("identity", "identity"), ("gelu", "GELU"), ("silu", "SiLU"))}
    steps = {f"{name}_odd": _steps(odd[phi].steps[0]) for name, phi in (("identity", "identity"), ("relu", "ReLU"))}
    steps |= {f"{phi.lower()}_steps": _steps(arms[phi].steps[1]) for phi in ("ReLU", "GELU", "SiLU")}
    steps["squared_steps"] = _steps(arms["squared ReLU, batch norm"].steps[1])
    size = number(squared, "more than float32 holds")
    sizes, energies = curves(lab, nets, "rms"), curves(lab, {n: nets[n] for n in nets if n != "squared ReLU"})
    return Result(
        "What counts is a bend, and a slope near 1 whatever the size of the input",
        word(math.isinf(mid(odd["identity"].steps[0])), not 0.1 < squared < 10),
        say(_OTHERS, squared=size, normed=scales["squared ReLU, batch norm"][3], **told, **steps),
        [
            Table("Twenty layers of 256 before training", SCALES, scales, never="overflow"),
            race_table("Steps to a training error, 6 layers of 64", arms),
            race_table("Odd or even? 2 layers of 64", odd, ("steps to 5 %", "steps to 2 %")),
        ],
        [
            Panel("Size before training", "hidden layer", "RMS", sizes, log="y", never="larger, or overflow", top=1e3),
            Panel("Centering before training", "hidden layer", "mean energy (share)", energies),
            race_panel("6 layers of 64", {phi: [(phi, arm.steps[1])] for phi, arm in arms.items()}),
        ],
    )


def _steps(sample: Sample) -> str:
    return "more steps than the budget has" if math.isinf(mid(sample)) else f"{number(mid(sample))} steps"


def _scales(lab: Lab, net: Net) -> list[Sample]:
    ends = leaving(net, 1), leaving(net, DEPTH)
    energy, sizes, gradients = (
        [lab.start(net, site, stat) for site in ends] for stat in ("mean_energy", "rms", "grad_rms")
    )
    return [*energy, ratio(sizes[1], sizes[0]), ratio(gradients[0], gradients[1])]
