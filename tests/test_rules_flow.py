"""The rules about wiring, updates, scale, collapse and underflow: each fires, stays silent, survives anything, ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Finding, Monitor
from actdiag.diagnose.finding import Severity, Verdict, at_least
from actdiag.diagnose.judge import RULES, Ledger
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.updates import relative_update
from actdiag.snapshot import Histogram, ParameterStats, SiteStats, Snapshot
from tests.nets import digits
from tests.test_rules import IMPERATIVES

SLUGS = (
    "exploding-activation", "collapsed-activation", "no-gradient", "stalled-update", "oversized-update",
    "gradient-underflow",
)  # fmt: skip


def site(kind: str = "Linear", role: Any = "layer", **values: Any) -> SiteStats:
    return SiteStats(kind=kind, role=role, order=0, **{"n": 6400, "samples": 100, "nonfinite": 0, **values})


def snapshot(sites: dict[str, SiteStats], parameters: dict[str, ParameterStats], step: int, **values: Any) -> Snapshot:
    ordered = {name: replace(s, order=i) for i, (name, s) in enumerate(sites.items())}
    return Snapshot(step=step, sites=ordered, parameters=parameters, sites_selected=len(sites), **values)


def weight(update: float | None = 1e-3, norm: float | None = 4.0, state: Any = "trained", **values: Any) -> Any:
    gradient = {"grad_norm": 0.1 if state == "trained" else None, "grad_zero_fraction": None}
    return ParameterStats(state=state, weight_norm=norm, update_ratio=update, **{**gradient, **values})


def untrained(state: str = "no_grad", norm: float = 4.5, **values: Any) -> ParameterStats:
    return weight(None, norm, state, **values)


def course(n: int, at: Callable[[int], Snapshot], every: int = 50) -> list[Snapshot]:
    return [replace(at(i), step=i * every) for i in range(n)]


def judge(slug: str, history: Sequence[Snapshot]) -> list[Verdict]:
    return list(RULES[slug](list(history), Limits()))


def one(slug: str, history: Sequence[Snapshot]) -> Verdict:
    (verdict,) = judge(slug, history)
    assert verdict.rule == slug and verdict.source and verdict.cause and verdict.advice
    assert verdict.layer in verdict.message and "\n" not in verdict.message and "healthy" in verdict.evidence
    assert not verdict.message.endswith(".") and not verdict.cause.endswith(".")
    for advice in verdict.advice:
        assert advice.split()[0] in IMPERATIVES | {"raise", "set"}, advice
    return verdict


LAYERS = ("enc.0", "enc.2", "body", "head")


def net(states: Sequence[Any] = ("trained",) * 4, norms: Sequence[float] = (1.0, 2.0, 3.0, 4.0), **values: Any) -> Any:
    """Four layers that execute in order; a state each. Weights that train have another norm at each step."""

    def at(i: int) -> Snapshot:
        moved = [norm + 0.01 * i * (state == "trained") for norm, state in zip(norms, states, strict=True)]
        parameters = {
            f"{name}.weight": weight(norm=norm) if state == "trained" else untrained(state, norm)
            for name, state, norm in zip(LAYERS, states, moved, strict=True)
        }
        return snapshot({name: site(rms=1.0) for name in LAYERS}, parameters, i, grad_norm_total=0.5, **values)

    return at


# What each rule fires on ------------------------------------------------------------------------------------


def detached(i: int) -> Snapshot:
    return net(("no_grad", "no_grad", "trained", "trained"))(i)


def stalled(i: int) -> Snapshot:
    return snapshot({"a": site()}, {"a.weight": weight(1e-7), "b.weight": weight(2e-7)}, i, grad_norm_total=0.5)


def oversized(i: int) -> Snapshot:
    return snapshot({"a": site()}, {"a.weight": weight(0.2, 10.0), "b.bias": weight(9.0, 0.01)}, i, grad_norm_total=0.5)


def exploded(i: int) -> Snapshot:
    grown = {"a": site(rms=0.5), "b": site(rms=2e3 if i else 0.7), "head": site(rms=1.0)}
    return snapshot(grown, {}, i)


def collapsed(i: int) -> Snapshot:
    energies = {"a": 0.3, "b": 1.0, "c": 1.0, "head": 1.0}
    return snapshot({name: site(rms=1.0, mean_energy=e) for name, e in energies.items()}, {}, i)


def octaves(counts: dict[int, int], zeros: int = 0) -> Histogram:
    """A histogram with these numbers of positive values in [2^exponent, 2^(exponent + 1))."""
    top = max(counts) + 1
    return Histogram(top, (*[0] * 31, zeros, *(counts.get(top - 31 + i, 0) for i in range(31))))


HALF = octaves({-24: 300, -23: 500, -22: 400, -21: 100}, zeros=200)


def underflowing(i: int, histogram: Histogram = HALF, rms: float = 2e-7, **values: Any) -> Snapshot:
    sites = {
        "a": site(grad_rms=0.0, grad_zero_fraction=1.0),
        "b": site(grad_rms=rms, grad_zero_fraction=0.1, grad_histogram=histogram),
    }
    return snapshot(sites, {}, i, **values)


ILL: dict[str, Callable[[int], Snapshot]] = {
    "exploding-activation": exploded,
    "collapsed-activation": collapsed,
    "no-gradient": detached,
    "stalled-update": stalled,
    "oversized-update": oversized,
    "gradient-underflow": underflowing,
}
FIRST_TOLD = {
    "exploding-activation": 2, "collapsed-activation": 4, "no-gradient": 3, "stalled-update": 4, "oversized-update": 4,
    "gradient-underflow": 2,
}  # fmt: skip
HEALTHY = net()


@pytest.mark.parametrize("slug", SLUGS)
def test_a_rule_fires_once_its_evidence_lasts_and_on_nothing_healthy(slug: str) -> None:
    told = [bool(judge(slug, course(n, ILL[slug]))) for n in range(1, 20)]
    assert told == [n >= FIRST_TOLD[slug] for n in range(1, 20)]
    one(slug, course(8, ILL[slug]))
    assert all(judge(slug, course(n, HEALTHY)) == [] for n in range(1, 20))


@pytest.mark.parametrize("slug", SLUGS)
def test_an_episode_is_told_once_and_resolved_when_over(slug: str) -> None:
    ledger = Ledger()
    for ill in course(12, ILL[slug]):
        ledger.judge(ill)
    assert [f.rule for f in ledger.findings if f.rule == slug] == [slug]
    for i in range(4):
        ledger.judge(replace(well_again(ILL[slug](1)), step=600 + 50 * i))
    (finding,) = [f for f in ledger.findings if f.rule == slug]
    assert finding.resolved_step is not None and finding.resolved_step > finding.step


def well_again(ill: Snapshot) -> Snapshot:
    """The same layers, all in order."""
    gradient = octaves({-12: 50, -11: 100, -10: 50})
    well = {"rms": 1.0, "mean_energy": 0.3, "grad_rms": 1e-3, "grad_histogram": gradient, "grad_zero_fraction": 0.0}
    return replace(
        ill,
        sites={name: replace(s, **well) for name, s in ill.sites.items()},
        parameters={name: weight(1e-3, 5.0) for name in ill.parameters},
    )


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 0, -1, 1e30, 1e-40])
def test_no_value_makes_a_rule_raise(slug: str, value: Any) -> None:
    fields = ("rms", "mean_energy", "grad_rms", "grad_zero_fraction", "low", "high", "dead_fraction")
    for base in (*ILL.values(), HEALTHY):

        def odd(i: int, base: Callable[[int], Snapshot] = base) -> Snapshot:
            ill = base(i)
            sites = {name: replace(s, **dict.fromkeys(fields, value)) for name, s in ill.sites.items()}
            stats = {"weight_norm": value, "update_ratio": value, "grad_norm": value}
            parameters = {name: replace(p, **stats) for name, p in ill.parameters.items()}
            return replace(ill, sites=sites, parameters=parameters, grad_norm_total=value, loss_scale=value)

        judge(slug, course(9, odd))
        judge(slug, [*course(8, base), replace(odd(8), step=400)])
        judge(slug, [odd(0), *(replace(base(i), step=50 * i) for i in range(1, 9))])


@pytest.mark.parametrize("slug", SLUGS)
def test_nothing_is_said_without_data(slug: str) -> None:
    empty = Snapshot(step=0)
    blank = snapshot({"a": site(n=0, samples=0, units=0)}, {"a.weight": weight(None, None)}, 0)
    for base in (empty, blank):
        assert judge(slug, course(10, lambda i, base=base: base)) == []  # type: ignore[misc]


# no-gradient


def test_no_gradient_names_a_detached_encoder_as_one_and_gets_worse() -> None:
    early = one("no-gradient", course(3, detached))
    assert (early.severity, early.layer) == ("warning", "enc.0")
    assert "2 layers (enc.0, enc.2)" in early.message and "detach" in early.cause
    assert one("no-gradient", course(6, detached)).severity == "error"


def test_no_gradient_waits_for_a_hundred_steps_and_for_weights_that_stand_still() -> None:
    assert judge("no-gradient", course(20, detached, every=5)) == []
    assert judge("no-gradient", course(22, detached, every=5))

    def moved_by_others(i: int) -> Snapshot:
        states = ("no_grad", "no_grad", "trained", "trained")
        return net(states, norms=(1.0 + 0.001 * i, 2.0 + 0.001 * i, 3.0, 4.0))(i)

    assert judge("no-gradient", course(9, moved_by_others)) == [], "an averaged teacher, the other half of a GAN"


@pytest.mark.parametrize(
    "states,told",
    [
        (("frozen", "frozen", "trained", "trained"), []),
        (("trained", "trained", "no_grad", "trained"), ["info"]),  # a side branch, such as a pooler
        (("not_in_optimizer", "not_in_optimizer", "not_in_optimizer", "trained"), ["info"]),  # a new head
        (("zero_grad", "trained", "trained", "trained"), []),  # told as vanishing-gradient, if at all
        (("no_grad", "trained", "trained", "trained"), ["error"]),
        (("not_in_optimizer", "no_grad", "trained", "trained"), ["error", "info"]),
    ],
)
def test_no_gradient_by_what_is_reached(states: Sequence[str], told: list[Severity]) -> None:
    assert [v.severity for v in judge("no-gradient", course(8, net(states)))] == told


def test_no_gradient_tells_a_part_that_the_optimizer_was_not_given() -> None:
    def at(i: int, norm: float = 4.0) -> Snapshot:
        now = net(("trained", "trained", "trained", "not_in_optimizer"))(i)
        head = untrained("not_in_optimizer", norm, grad_norm=0.3)
        return replace(now, parameters={**now.parameters, "head.weight": head})

    verdict = one("no-gradient", course(8, at))
    assert (verdict.severity, verdict.layer) == ("warning", "head") and "model is complete" in verdict.advice[0]
    assert judge("no-gradient", course(8, lambda i: at(i, 4.0 + i))) == [], "another optimizer trains it"

    def adapters(i: int) -> Snapshot:
        now = at(i)
        rest = {
            f"{name}.weight": untrained("not_in_optimizer", 7.0 + k, grad_norm=0.3) for k, name in enumerate(LAYERS)
        }
        return replace(now, parameters={**now.parameters, **rest, "enc.0.weight": weight(norm=1.0 + i)})

    assert [v.severity for v in judge("no-gradient", course(8, adapters))] == ["info"]


def test_no_gradient_leaves_copies_and_what_did_not_run_alone() -> None:
    states = ("no_grad", "no_grad", "trained", "trained")
    assert judge("no-gradient", course(8, net(states, norms=(3.0, 4.0, 3.0, 4.0)))) == [], "target networks"

    def idle(i: int) -> Snapshot:
        now = detached(i)
        return replace(now, sites={name: s for name, s in now.sites.items() if not name.startswith("enc")})

    (verdict,) = judge("no-gradient", course(8, idle))
    assert (verdict.severity, verdict.layer) == ("info", "")


@pytest.mark.parametrize(
    "state,grad_rms,cause",
    [
        ("not_in_optimizer", 0.1, "made for other parameters"),
        ("no_grad", 0.1, "erased before the step"),
        ("no_grad", None, "no backward"),
        ("zero_grad", 0.1, "lets no gradient through"),
        ("zero_grad", 0.0, "the loss itself"),
    ],
)
def test_no_gradient_where_nothing_trains_at_all(state: str, grad_rms: float | None, cause: str) -> None:
    def at(i: int) -> Snapshot:
        now = net((state,) * 4)(i)
        return replace(now, sites={name: replace(s, grad_rms=grad_rms) for name, s in now.sites.items()})

    verdict = one("no-gradient", course(3, at))
    assert cause in verdict.cause and verdict.severity == ("warning" if grad_rms == 0 else "error")
    assert judge("no-gradient", [replace(HEALTHY(0), step=0), *course(9, at)[1:]]) == [], "it has trained once"


# stalled-update and oversized-update


def moving(*sizes: float | None, norm: float = 4.0, gradient: float | None = 0.5) -> list[Snapshot]:
    return course(len(sizes), lambda i: snapshot({}, {"a.weight": weight(sizes[i], norm)}, i, grad_norm_total=gradient))


def test_the_update_is_taken_over_all_weights() -> None:
    parameters = {"a.weight": weight(0.01, 10.0), "a.bias": weight(5.0, 0.02), "zero": weight(None, 0.0)}
    size = relative_update(snapshot({}, parameters, 0))
    assert size is not None and size == pytest.approx(math.hypot(0.1, 0.1) / 10, rel=1e-3)
    assert relative_update(snapshot({}, {"a.weight": weight(math.inf)}, 0)) is None


def test_stalled_update_compares_with_the_whole_run() -> None:
    assert one("stalled-update", moving(*[1e-6] * 4)).severity == "warning"
    assert one("stalled-update", moving(*[1e-6] * 8)).severity == "error"
    assert judge("stalled-update", moving(*[1e-6] * 3)) == []
    assert judge("stalled-update", moving(*[1.6e-5] * 9)) == [], "fine-tuning"
    assert judge("stalled-update", moving(1e-3, *[1e-7] * 15)) == [], "decay to 0"
    assert judge("stalled-update", moving(*(1e-8 * (i + 1) for i in range(9)))) == [], "warm-up"
    assert judge("stalled-update", moving(0.0, *(1e-8 * (i + 1) for i in range(9)))) == [], "warm-up from 0"


def test_stalled_update_tells_a_rate_of_zero_from_gradients_that_are_tiny() -> None:
    assert "rate is 0" in one("stalled-update", moving(*[0.0] * 5)).cause
    assert judge("stalled-update", moving(*[1e-7] * 9, gradient=1e-3)) == [], "the loss has converged"
    assert judge("stalled-update", moving(*[0.0] * 9, gradient=0.0)) == [], "without a gradient: no-gradient"
    noisy = [1e-7, 3e-7, 1e-7, 1e-7, 4e-7, 1e-7, 1e-7, 5e-7]
    assert [len(judge("stalled-update", moving(*noisy[:n]))) for n in range(4, 9)] == [1] * 5
    assert judge("stalled-update", moving(*[None] * 9)) == []


@pytest.mark.parametrize(
    "sizes,told",
    [
        ((0.9, 0.01, 0.01, 0.01), []),  # the first step of Adam
        ((0.9, 0.2, 0.2), []),
        ((0.9, 0.2, 0.2, 0.2), ["warning"]),
        ((0.9, 0.6, 0.6, 0.6), ["error"]),
        ((0.9, 0.2, 0.2, 0.06), []),
        ((0.0, 0.01, 0.01, 0.01, 0.3), ["warning"]),  # a spike
        ((0.0, 0.05, 0.05, 0.05, 0.3), []),  # not ten times the usual
        ((0.0, 0.01, 0.01, 0.01, 0.15), []),
        ((0.0, 0.0, 0.0, 0.0, 0.3), ["warning"]),
        ((0.0, 0.01, 0.01, 0.01, None), []),
    ],
)
def test_oversized_update_by_size_and_history(sizes: Sequence[float | None], told: list[str]) -> None:
    assert [v.severity for v in judge("oversized-update", moving(*sizes))] == told


@pytest.mark.parametrize(
    "norms,rms,step,told",
    [
        ((4.0, 50.0), (1.0, 30.0), 50, "warning"),
        ((4.0, 500.0), (1.0, 300.0), 50, "error"),
        ((4.0, 50.0), (0.05, 7.0), 50, None),  # small initial weights grow to their size
        ((4.0, 22.0), (0.5, 94.0), 50, None),  # targets in the thousands
        ((4.0, 50.0), (20.0, 30.0), 50, None),  # the activations were large already
        ((4.0, 50.0), (1.0, 30.0), 600, None),  # time enough
        ((4.0, 50.0), (1.0, None), 50, None),
        ((4.0, 50.0), (1.0, math.inf), 50, None),
        ((None, 50.0), (1.0, 30.0), 50, None),
    ],
)
def test_oversized_update_is_seen_in_what_it_has_done(norms: Any, rms: Any, step: int, told: str | None) -> None:
    def at(i: int) -> Snapshot:
        return snapshot({"a": site(rms=rms[i]), "head": site(rms=1.0)}, {"a.weight": weight(1e-3, norms[i])}, i)

    assert [v.severity for v in judge("oversized-update", course(2, at, every=step))] == ([told] if told else [])


def test_weights_that_grow_over_several_snapshots_have_grown_as_well() -> None:
    def at(i: int) -> Snapshot:
        return snapshot({"a": site(rms=2.0**i), "head": site(rms=1.0)}, {"a.weight": weight(1e-3, 2.0**i)}, i)

    assert one("oversized-update", course(6, at, every=10)).severity == "warning"
    assert judge("oversized-update", course(6, at, every=50)) == []


# exploding-activation


@pytest.mark.parametrize(
    "first,last,told",
    [(0.5, 94.0, None), (0.5, 900.0, None), (0.5, 1.1e3, "warning"), (5.0, 1e3, None), (5.0, 6e5, "error"),
     (0.0, 2e3, None), (None, 2e3, None), (0.5, math.inf, None)],
)  # fmt: skip
def test_exploding_activation_over_time(first: Any, last: float, told: str | None) -> None:
    history = course(3, lambda i: snapshot({"a": site(rms=last if i else first), "head": site(rms=1e6)}, {}, i))
    assert [v.severity for v in judge("exploding-activation", history)] == ([told] if told else [])


def depth(*sizes: float, kind: str = "Linear", **values: Any) -> Callable[[int], Snapshot]:
    sites = {f"fc{k}": site(kind, rms=size, **values) for k, size in enumerate(sizes)}
    return lambda i: snapshot({**sites, "head": site(rms=1.0)}, {}, i)


def test_exploding_activation_over_depth() -> None:
    steep = depth(*(3.0**k for k in range(10)))
    verdict = one("exploding-activation", course(2, steep))
    assert verdict.severity == "warning" and "initial weights" in verdict.cause
    assert judge("exploding-activation", course(1, steep)) == []
    assert one("exploding-activation", course(2, depth(*(30.0**k for k in range(8))))).severity == "error"
    assert judge("exploding-activation", course(2, depth(*(1.05**k for k in range(24))))) == [], "a residual stream"
    assert judge("exploding-activation", course(2, depth(0.01, 0.1, 1.0, 10.0, 50.0))) == [], "from small to ordinary"
    assert judge("exploding-activation", course(2, depth(1.0, 500.0, 1.0, 500.0, 1.0, 500.0))) == [], "not all the way"
    assert judge("exploding-activation", course(2, depth(500.0, 600.0, 700.0, 800.0, 900.0))) == [], "large inputs"


def test_exploding_activation_near_the_end_of_fp16() -> None:
    large = course(1, lambda i: replace(depth(1.0, 2.0, high=4e4)(i), loss_scale=1024.0))
    verdict = one("exploding-activation", large)
    assert (verdict.severity, verdict.layer) == ("warning", "fc0") and "bf16" in verdict.advice[0]
    assert judge("exploding-activation", [replace(large[0], loss_scale=None)]) == []


# collapsed-activation


def energies(*values: float | None, role: str = "layer", **more: Any) -> Callable[[int], Snapshot]:
    sites = {f"fc{k}": site("Linear", role, rms=1.0, mean_energy=e, **more) for k, e in enumerate(values)}
    return lambda i: snapshot(sites, {}, i)


def test_collapsed_activation_names_where_it_begins_and_gets_worse() -> None:
    verdict = one("collapsed-activation", course(4, collapsed))
    assert (verdict.severity, verdict.layer) == ("warning", "b") and "all 100 samples" in verdict.message
    assert one("collapsed-activation", course(8, collapsed)).severity == "error"
    assert judge("collapsed-activation", course(9, collapsed, every=5)) == [], "not for 50 steps yet"
    almost = [*course(5, collapsed), replace(energies_of_plateau(5), step=250)]
    assert one("collapsed-activation", almost).layer == "b", "rounding does not end it"
    assert "first layer" in one("collapsed-activation", course(4, energies(1.0, 1.0, 1.0))).cause
    gentle = course(4, lambda i: replace_kind(collapsed(i), "a", "Sigmoid"))
    assert "sigmoid" in one("collapsed-activation", gentle).cause


def energies_of_plateau(i: int) -> Snapshot:
    return snapshot(
        {name: replace(s, mean_energy=min(s.mean_energy or 0.0, 1 - 6e-7)) for name, s in collapsed(i).sites.items()},
        {},
        i,
    )


def replace_kind(now: Snapshot, name: str, kind: str) -> Snapshot:
    return replace(now, sites={**now.sites, name: replace(now.sites[name], kind=kind, role="activation")})


@pytest.mark.parametrize(
    "at",
    [
        energies(0.3, 0.5, 0.6, 1.0),  # only the output: a target with an offset
        energies(1.0, 1.0, 1.0, 0.4),  # a learned query, a position
        energies(0.3, 1 - 1.5e-6, 1 - 1.5e-6, 1 - 1.2e-6),  # a plateau
        energies(0.3, 1.0, 1.0, 1.0, samples=1),  # one sample is all mean
        energies(0.3, 1.0, None, 1.0),  # all units are dead: no energy at all
        energies(0.3, 1.0, 1.0, 1.0, units=8, dead_units=8, dead_fraction=1.0),
        energies(0.3, 1.0, 1.0, 1.0, role="gate"),
    ],
)
def test_collapsed_activation_leaves_constants_of_other_kinds_alone(at: Callable[[int], Snapshot]) -> None:
    assert judge("collapsed-activation", course(10, at)) == []


# gradient-underflow


def test_gradient_underflow_is_an_error_where_nothing_is_left() -> None:
    verdict = one("gradient-underflow", course(2, underflowing))
    assert (verdict.severity, verdict.layer) == ("error", "a") and "GradScaler" in verdict.advice[0]
    partly = course(2, lambda i: replace_site(underflowing(i), "a", grad_zero_fraction=0.6))
    verdict = one("gradient-underflow", partly)
    assert (verdict.severity, verdict.layer) == ("warning", "b") and "62%" in verdict.message
    now_and_then = [partly[0], replace(underflowing(1), step=50)]
    assert one("gradient-underflow", now_and_then).severity == "warning", "nothing is left in one snapshot only"


def replace_site(now: Snapshot, name: str, **values: Any) -> Snapshot:
    return replace(now, sites={**now.sites, name: replace(now.sites[name], **values)})


@pytest.mark.parametrize(
    "histogram,rms",
    [
        (octaves({-27: 5, -26: 50, -25: 200, -24: 300, -23: 500, -22: 400}), 2e-7),  # float32 or bf16 go on
        (octaves({-24: 20, -23: 30, -22: 100, -21: 500}), 2e-7),  # only a tail
        (HALF, 7e-6),  # most of the gradient is far above
        (octaves({-14: 300, -13: 500, -12: 400}), 2e-7),
        (octaves({16: 30, 17: 40, 18: 50}), 2e-7),
    ],
)
def test_gradient_underflow_stays_silent(histogram: Histogram, rms: float) -> None:
    assert judge("gradient-underflow", course(4, lambda i: underflowing(i, histogram, rms))) == []


def test_gradient_underflow_does_not_take_one_number_for_the_end() -> None:
    alone = course(2, lambda i: underflowing(i, octaves({-24: 900}, zeros=50), 6e-8))
    assert one("gradient-underflow", alone).severity == "error"
    fine = octaves({-26: 50, -25: 100, -24: 50})
    other = [replace_site(now, "a", grad_rms=3e-8, grad_zero_fraction=0.0, grad_histogram=fine) for now in alone]
    assert judge("gradient-underflow", other) == [], "a mean over 2^24 elements"


def test_gradient_underflow_knows_the_loss_scale() -> None:
    lower = octaves({-34: 300, -33: 500, -32: 400, -31: 100})
    verdict = one("gradient-underflow", course(2, lambda i: underflowing(i, lower, 2e-10, loss_scale=1024.0)))
    assert "loss scale of 1024 is too small" in verdict.cause
    assert judge("gradient-underflow", course(2, lambda i: underflowing(i, lower, 2e-10))) == []
    assert judge("gradient-underflow", course(2, lambda i: underflowing(i, loss_scale=1024.0))) == []


# Where exactly -----------------------------------------------------------------------------------------------


def steady(size: float, gradient: float = 0.5, n: int = 4, every: int = 50) -> list[Snapshot]:
    return [replace(s, step=every * i) for i, s in enumerate(moving(*[size] * n, gradient=4.0 * gradient))]


def growing(weights: float, activations: float, *, was: float = 2.0, every: int = 50) -> list[Snapshot]:
    def at(i: int) -> Snapshot:
        sites = {"a": site(rms=was * activations**i), "head": site(rms=1.0)}
        return snapshot(sites, {"a.weight": weight(1e-3, 4.0 * weights**i)}, i)

    return course(2, at, every=every)


def larger(rms: float, first: float = 1.0) -> list[Snapshot]:
    return course(2, lambda i: snapshot({"a": site(rms=rms if i else first), "head": site(rms=1.0)}, {}, i))


def deeper(by: float) -> list[Snapshot]:
    return course(2, depth(*(2.0 * by ** (k / 7) for k in range(8))))


def left(*shares: float) -> list[Snapshot]:
    return course(len(shares), lambda i: snapshot({k: site(rms=1.0, mean_energy=1 - shares[i]) for k in "abcd"}, {}, i))


def partly(share: float, rms: float = 2e-7) -> list[Snapshot]:
    n = round(1000 * share)
    histogram = octaves({-24: n // 2, -23: n - n // 2, -22: 900 - n, -21: 100})
    return course(2, lambda i: underflowing(i, histogram, rms))


def late_spike(usual: float) -> list[Snapshot]:
    return moving(0.5, usual, usual, usual, 0.24)


def near_fp16(high: float) -> list[Snapshot]:
    return course(1, lambda i: replace(depth(1.0, 2.0, high=high)(i), loss_scale=1024.0))


def mixed(octaves_seen: int) -> list[Snapshot]:
    near = octaves({-24 + k: 100 for k in range(octaves_seen)})
    below = octaves({-26: 50, -25: 100})
    gradient = {"grad_rms": 3e-8, "grad_zero_fraction": 0.0, "grad_histogram": below}
    return [replace_site(now, "a", **gradient) for now in course(2, lambda i: underflowing(i, near, 1e-7))]


@pytest.mark.parametrize(
    "slug,history,told",
    [
        ("no-gradient", course(2, detached, every=100), None),
        ("stalled-update", steady(2e-6), "warning"),
        ("stalled-update", steady(5e-6), None),
        ("stalled-update", steady(1e-6, 2e-3), "warning"),
        ("stalled-update", steady(1e-6, 6e-4), None),
        ("stalled-update", steady(1e-6, n=8, every=10), None),
        ("oversized-update", late_spike(0.02), "warning"),
        ("oversized-update", growing(20, 20, every=40), "warning"),
        ("oversized-update", growing(20, 20, every=400), "warning"),
        ("oversized-update", growing(50, 50), "warning"),
        ("oversized-update", growing(200, 200), "error"),
        ("oversized-update", growing(20, 20, was=0.7), "warning"),
        ("oversized-update", growing(20, 20, was=0.4), None),
        ("exploding-activation", larger(6e4), "warning"),
        ("exploding-activation", larger(2e5), "error"),
        ("exploding-activation", deeper(600.0), "warning"),
        ("exploding-activation", deeper(100.0), None),
        ("exploding-activation", deeper(1.4e4), "warning"),
        ("exploding-activation", deeper(5e4), "error"),
        ("exploding-activation", near_fp16(3.5e4), "warning"),
        ("exploding-activation", near_fp16(2e4), None),
        ("collapsed-activation", left(*[6e-8] * 4), "warning"),
        ("collapsed-activation", left(*[2.4e-7] * 4), None),
        ("collapsed-activation", left(0, 0, 0, 0, 6e-7), "warning"),
        ("collapsed-activation", left(0, 0, 0, 0, 2e-6), None),
        ("gradient-underflow", partly(0.3), "error"),
        ("gradient-underflow", partly(0.1), None),
        ("gradient-underflow", partly(0.5, 4e-6), "error"),
        ("gradient-underflow", partly(0.5, 9e-6), None),
        ("gradient-underflow", mixed(2), None),
        ("gradient-underflow", mixed(4), "warning"),
    ],
)
def test_each_side_of_a_limit(slug: str, history: Sequence[Snapshot], told: str | None) -> None:
    assert [v.severity for v in judge(slug, history)] == ([told] if told else [])


def test_growth_is_counted_over_fifty_steps_and_not_over_more() -> None:
    def at(i: int) -> Snapshot:
        return snapshot({"a": site(rms=3.0**i), "head": site(rms=1.0)}, {"a.weight": weight(1e-3, 3.0**i)}, i)

    assert one("oversized-update", course(4, at, every=15)).severity == "warning"
    assert judge("oversized-update", course(4, at, every=40)) == []


# Real trainings ---------------------------------------------------------------------------------------------


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = digits()
    for i in range(steps):
        rows = slice(i * 32 % 1760, i * 32 % 1760 + 32)
        yield x[rows], y[rows]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[..., Tensor] = nn.functional.cross_entropy,
    *, steps: int = 200, every: int = 20,
) -> list[Finding]:  # fmt: skip
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=every) as monitor:
        for x, y in batches(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return monitor.findings


def of(slug: str, findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.rule == slug and at_least(f.severity, "warning")]


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(64, 32, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.encoder(x)).detach())


def test_a_detached_encoder_is_told_as_one() -> None:
    model = Detached()
    (finding,) = of("no-gradient", train(model, torch.optim.Adam(model.parameters(), 1e-3)))
    assert (finding.layer, finding.step) == ("encoder.0", 100) and "2 layers" in finding.message


def test_a_layer_outside_the_optimizer_is_told() -> None:
    model = mlp(64, 32, 32, 10)
    (finding,) = of("no-gradient", train(model, torch.optim.Adam([*model[:4].parameters()], 1e-3)))
    assert finding.layer == "4" and "does not hold" in finding.message


def test_an_optimizer_of_another_model_is_told() -> None:
    (finding,) = of("no-gradient", train(mlp(64, 32, 10), torch.optim.Adam(mlp(64, 32, 10).parameters(), 1e-3)))
    assert finding.severity == "error" and "made for other parameters" in finding.cause


def test_gradients_that_are_erased_before_the_step_are_told() -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=20) as monitor:
        for x, y in batches(150):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.zero_grad()
            optimizer.step()
    (finding,) = of("no-gradient", monitor.findings)
    assert "erased" in finding.cause


@pytest.mark.parametrize("rate,told", [(1e-7, True), (1e-5, False), (1e-3, False)])
def test_a_learning_rate_that_teaches_nothing_is_told(rate: float, told: bool) -> None:
    model = mlp(64, 64, 10)
    assert bool(of("stalled-update", train(model, torch.optim.Adam(model.parameters(), rate)))) == told


def test_a_warm_up_and_a_decay_to_zero_are_left_alone() -> None:
    model = mlp(64, 64, 10)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(i / 150, max(0.0, (300 - i) / 150)))
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=10) as monitor:
        for x, y in batches(340):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    assert monitor.findings == []


def test_a_learning_rate_that_replaces_the_weights_is_told() -> None:
    model = mlp(64, 64, 64, 10)
    (finding, *_) = of("oversized-update", train(model, torch.optim.SGD(model.parameters(), 3.0), every=10))
    assert finding.step <= 20 and "learning rate" in finding.cause


def test_a_gradient_that_is_followed_upwards_makes_activations_explode() -> None:
    model = mlp(64, 64, 64, 10)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    told = of("exploding-activation", train(model, optimizer, lambda o, y: -nn.functional.cross_entropy(o, y)))
    assert told and "sign of the loss" in told[0].advice[2]


def test_residual_branches_that_multiply_explode_through_the_depth() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(64, 64)
            nn.init.normal_(self.f.weight, std=0.3)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu(self.f(x))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), *(Block() for _ in range(12)), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 1e-12)
    assert of("exploding-activation", train(model, optimizer, steps=30, every=10))


def test_a_deep_sigmoid_collapses() -> None:
    model = mlp(64, *[64] * 10, 10, act=nn.Sigmoid)
    (finding,) = of("collapsed-activation", train(model, torch.optim.SGD(model.parameters(), 0.1), steps=150))
    assert "sigmoid" in finding.cause


def half(scale: float) -> list[Finding]:
    model = mlp(64, 64, 64, 10, act=nn.Tanh).half()
    optimizer = torch.optim.SGD(model.parameters(), 0.01 / scale)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=10) as monitor:
        for x, y in batches(60):
            optimizer.zero_grad()
            (scale * nn.functional.cross_entropy(model(x.half()).float(), y)).backward()
            optimizer.step()
    return of("gradient-underflow", monitor.findings)


def test_half_precision_without_a_loss_scale_underflows() -> None:
    assert half(1e-5)
    assert half(1.0) == []


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


class Sometimes(nn.Module):
    """Zero-initialized residual branches that run every other time, and an expert that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.never = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(32, 32)
        self.branches = nn.ModuleList(mlp(32, 32, 32) for _ in range(3))
        for branch in self.branches:
            nn.init.zeros_(branch[2].weight)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, branch in enumerate(self.branches):
            self.calls += 1
            if (self.calls + i) % 2:
                x = x + branch(x)
        return self.head(x)


class Target(nn.Module):
    """An online network, and a copy of it that runs first and is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.online = mlp(64, 32, 10)
        self.target = copy.deepcopy(self.online)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.target(x)
        return self.online(x) + 0 * target


def adapted() -> nn.Module:
    model = mlp(64, 32, 10)
    return nn.Sequential(LoRA(model[0]), model[1], LoRA(model[2]))  # type: ignore[arg-type]


def normalized() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def bag() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Words(), nn.EmbeddingBag(5000, 16), nn.ReLU(), nn.Linear(16, 10))


class Words(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.long().abs() % 7 + 7 * torch.arange(64)


@pytest.mark.parametrize("build", [adapted, Sometimes, Target, normalized, bag])
def test_what_looks_unwired_but_is_meant_is_left_alone(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    findings = train(model, torch.optim.Adam(model.parameters(), 3e-3))
    assert [f for f in findings if at_least(f.severity, "warning")] == []


def test_a_gan_that_alternates_is_left_alone() -> None:
    model = nn.ModuleDict({"g": mlp(8, 32, 64), "d": mlp(64, 32, 1, act=nn.LeakyReLU)})
    ours, theirs = (torch.optim.Adam(model[key].parameters(), 1e-3) for key in ("g", "d"))
    loss = nn.functional.binary_cross_entropy_with_logits
    with Monitor(model, [ours, theirs], max_overhead=None, log_every_n_steps=20) as monitor:
        for x, _ in batches(200):
            fake, ones = model["g"](torch.randn(len(x), 8)), torch.ones(len(x), 1)
            theirs.zero_grad()
            (loss(model["d"](x), ones) + loss(model["d"](fake.detach()), 0 * ones)).backward()
            theirs.step()
            ours.zero_grad()
            loss(model["d"](fake), ones).backward()
            ours.step()
    assert [f for f in monitor.findings if at_least(f.severity, "warning")] == []
