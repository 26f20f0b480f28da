"""Where `fwl` begins when it is one file: .ci/build_binary.py freezes this.

`one_file.sh` starts it, and says in FWL_ONE_FILE where the file is.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from typing import NoReturn

#: Where systems keep the certificates that they trust. This OpenSSL would look where its builder kept them.
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    os.path.join(sys.prefix, "share", "certs.pem"),
)


def main() -> NoReturn:
    """Run, and end as Python would but for what it does last.

    Were it to take itself apart, threads that still run would be ended by pthread_exit; and that needs libgcc_s, which
    is not on every machine and cannot be brought, because it belongs to the C library's version.
    """
    code = 0
    try:
        _run()
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 130 if isinstance(sys.exception(), KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _exit_code(error: SystemExit) -> int:
    if isinstance(error.code, int):
        return error.code & 0xFF
    if error.code is not None:
        print(error.code, file=sys.stderr)
    return int(error.code is not None)


def _run() -> None:
    _be_as_python_is()
    words = sys.argv[1:]
    if words[:1] == ["--multiprocessing-fork"]:  # a worker, or another process that multiprocessing starts
        from multiprocessing.spawn import freeze_support

        freeze_support()  # does not return
    from fastworker_lite.cli import as_python

    is_named = words[:1] == ["_python"]
    if is_named or as_python.read(words).kind in ("c", "m"):  # what programs give to sys.executable
        os.environ.update(_trust())
        as_python.run(words[1:] if is_named else words)
        return
    for name, value in _trust().items():
        os.putenv(name, value)  # seen by our OpenSSL and our workers, but not by what hands os.environ on to jobs
    from fastworker_lite.cli.main import main as run

    run()


def _be_as_python_is() -> None:
    """See to what an embedded Python leaves undone: its signals, and its name."""
    sys.argv[0] = os.environ.pop("FWL_ONE_FILE", sys.argv[0])
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _trust() -> dict[str, str]:
    """The variables by which OpenSSL finds certificates, and by which another Python is rid of them: see interpreters.py."""
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return {}
    return {"SSL_CERT_FILE": next(filter(os.path.exists, _CERTIFICATES)), "SSL_CERT_FILE_ORIG": ""}


if __name__ == "__main__":
    main()
