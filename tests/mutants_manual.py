"""Wrong edits of the manual of numbers and of what an import loads; see mutants.py."""

from __future__ import annotations

MANUAL = {
    ("manual/__init__.py", "test_manual"): [
        (
            "only the first of numbers explained together is found",
            "if name in entry.names)",
            "if name == entry.names[0])",
        ),
        ("the manual leaves None out", '("None and NaN", entry.none), ', ""),
        ("a text is explained that there is not", '"unit_states": "what', '"units_states": "what'),
    ],
    ("cli.py", "test_manual"): [
        ("no number is explained", "if (number := manual_of(arguments.slug)) is not None:", "if (number := None):"),
        ("a number is not thought of", "numbers(), n=1", "(), n=1"),
    ],
    ("collect/finish.py", "test_manual"): [
        ("a bounded activation has both ends", 'low if "l" in ends else None', "low"),
    ],
    ("__init__.py", "test_imports"): [
        (
            "the package loads numpy",
            "from importlib import import_module",
            "from importlib import import_module\nimport numpy",
        ),
        ("the package loads a name before it is asked", "__version__ =", "import actdiag.snapshot\n__version__ ="),
    ],
}
