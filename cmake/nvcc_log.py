"""Runs nvcc, writes ptxas's report of registers and spills to <object>.log, and prints the rest of its output."""

import re
import subprocess
import sys

REPORT = re.compile(r"ptxas info|^\s+\d+ bytes stack frame|^\s*Function properties for|Compile time = ")

command = sys.argv[1:]
result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if "-o" in command:
    with open(command[command.index("-o") + 1] + ".log", "w") as log:
        log.write(result.stdout)
sys.stdout.writelines(line for line in result.stdout.splitlines(keepends=True) if not REPORT.search(line))
sys.exit(result.returncode)
