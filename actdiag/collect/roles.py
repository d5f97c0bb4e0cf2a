"""What a site is for, settled from the order of execution once a step is complete."""

from __future__ import annotations

from collections.abc import Mapping

from actdiag.snapshot import SiteStats, site_of


def settle_roles(sites: Mapping[str, SiteStats]) -> dict[str, SiteStats]:
    """Sites in execution order; an activation after the last layer is an output, not a hidden activation.

    Inputs come first: they are seen with their layer, but exist before it.
    """
    ordered = sorted(sites.items(), key=lambda item: (item[1].role != "input", item[1].order))
    layers = [site.order for _, site in ordered if site.role in ("layer", "normalization")]
    last = max(layers, default=0)
    found = {}
    for index, (name, site) in enumerate(ordered):
        role = "output" if site.role == "activation" and layers and site.order > last else site.role
        same = site.role == role and site.order == index
        found[name] = site if same else site_of({**vars(site), "role": role, "order": index})
    return found
