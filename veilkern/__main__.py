"""`veilkern` and `python -m veilkern`."""

import importlib.util
import sys


def main() -> None:
    """Run the command line; say what to install when its extra is missing."""
    missing = [
        name for name in ("typer", "rich", "png", "jinja2", "matplotlib") if importlib.util.find_spec(name) is None
    ]
    if missing:
        sys.exit(f"veilkern: the command line needs {', '.join(missing)}: pip install 'veilkern[cli]'")
    from veilkern.threads import wait_asleep

    wait_asleep()
    from veilkern.cli import main as run

    run()


if __name__ == "__main__":
    main()
