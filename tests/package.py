"""What pyproject.toml says of the package."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # comes with pytest there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
META: dict[str, Any] = PROJECT["project"]
EXTRAS: dict[str, list[str]] = META["optional-dependencies"]
USERS_EXTRAS = [name for name in EXTRAS if name != "dev"]


def name_of(requirement: str) -> str:
    """`pytorch-lightning` of `pytorch-lightning>=2.4`, in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement)[0]).lower()
