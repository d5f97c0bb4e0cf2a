"""`python -m actdiag` is the `actdiag` command."""

from actdiag.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
