"""The claims in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

from .claims_depth import centering, normalization, others
from .claims_scale import decay, saturation, scale
from .claims_speed import center_alone, speed
from .claims_units import inputs, sparsity
from .observe import Lab
from .results import Result

CLAIMS: dict[str, Callable[[Lab], Result]] = {
    "speed": speed,
    "centering": centering,
    "normalization": normalization,
    "scale": scale,
    "sparsity": sparsity,
    "saturation": saturation,
    "center-alone": center_alone,
    "inputs": inputs,
    "others": others,
    "decay": decay,
}
