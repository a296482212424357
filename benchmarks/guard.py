"""Run a command that ends when whoever started it does: ``python -m benchmarks.guard COMMAND...``.

Who starts this as a session of its own and holds a pipe to its standard input need not clean up:
when the pipe closes, be it that the holder was killed, the whole process group is killed. Without
this, a compiler, a test worker or a kernel would go on using the device. A command that ends with
``AGAIN`` is started again.
"""

import os
import signal
import subprocess
import sys
import threading

AGAIN = 75  # exit code: the process had to end, and the same command goes on


def main(command):
    """Run the command and return its exit code, 128 + n after signal n, as shells do."""
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    code = AGAIN
    while code == AGAIN:
        code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    return code if code >= 0 else 128 - code


def _end_with_the_pipe():
    os.read(0, 1)  # nothing is ever written: it returns when the pipe is closed
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
