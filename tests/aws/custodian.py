"""Runs Cloud Custodian on the policies in policies/, as a user would; it knows nothing of a proxy.

    custodian.py CUSTODIAN [--expect-refused] [POLICY...]

CUSTODIAN is the program `custodian` of the test kit; POLICY the name of a file in policies/ without `.yml` (all). Keys,
region, HTTPS_PROXY and AWS_CA_BUNDLE come from the environment. Expects the resources of moto_server.py, as they are
when it starts. One JSON line for each policy: {"operation", "ok", "code", "resources"}, where `resources` is how many
matched. Exits 1 when one did not run through, or with --expect-refused when one was not refused for its keys.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

from operations import REFUSALS, Operations, Refused

arguments = argparse.ArgumentParser()
arguments.add_argument("program", metavar="CUSTODIAN")
arguments.add_argument("--expect-refused", action="store_true")
arguments.add_argument("policies", nargs="*", metavar="POLICY")
arguments = arguments.parse_args()

folder = pathlib.Path(__file__).parent / "policies"
operations = Operations(arguments.expect_refused)


def custodian(path):
    with tempfile.TemporaryDirectory() as output:
        command = [arguments.program, "run", "--output-dir", output, "--cache-period", "0", "--metrics", "", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        if done.returncode:
            codes = re.findall("<Code>(.*?)</Code>|error occurred \\(([^)]+)\\)", done.stderr)
            code = next((code for pair in codes for code in pair if code in REFUSALS), None)
            if code:
                raise Refused(code)
            raise RuntimeError(done.stderr[-500:])
        resources = json.loads((pathlib.Path(output) / path.stem / "resources.json").read_text())
        return {"resources": len(resources)}


for path in sorted(folder.glob("*.yml")):
    if not arguments.policies or path.stem in arguments.policies:
        operations.run(path.stem, lambda: custodian(path))
operations.end()
