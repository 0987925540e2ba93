"""The command `minidl`: train, predict, bench and info (extra `cli`)."""

import sys


def main() -> None:
    """Run the command line; exit code 0, or 2 on an error, or 130 when interrupted."""
    try:
        from minidl.cli.app import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("typer", "rich"):
            raise
        print(f"error: {package} is missing: pip install 'minidl[cli]'", file=sys.stderr)
        sys.exit(2)
    app()
