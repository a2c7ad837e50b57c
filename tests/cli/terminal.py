# Runs a command on a terminal of its own and types what it is told to.
#
#   terminal.py '[["prompt", "answer", secret], ...]' COMMAND ARGUMENT...
#
# Prints what stood on the screen, and ends with the command's exit code. A prompt that never comes ends it with 99.
import json
import os
import pty
import select
import sys
import termios
import time

script, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
screen, read, deadline = b"", 0, time.monotonic() + 60
while True:
    if script and script[0][0].encode() in screen[read:]:
        # A person types a secret when the prompt stands still: then the terminal does not echo any more.
        if not (script[0][2] and termios.tcgetattr(terminal)[3] & termios.ECHO):
            read = len(screen)
            os.write(terminal, script.pop(0)[1].encode() + b"\n")
    ready, _, _ = select.select([terminal], [], [], 0.02)
    if ready:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            piece = b""
        if not piece:
            break
        screen += piece
    if time.monotonic() > deadline:
        os.kill(pid, 9)
        screen += b"\n[the prompt never came]\n"
        break
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(screen)
sys.stdout.flush()
sys.exit(99 if script else os.waitstatus_to_exitcode(status))
