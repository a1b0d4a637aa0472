"""`streamseg`, and `python -m streamseg`."""

import signal


def main() -> None:
    """Ctrl-C ends it without a traceback also while it loads, and as each command says from then on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from streamseg.cli.main import app

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app(prog_name="streamseg")


if __name__ == "__main__":
    main()
