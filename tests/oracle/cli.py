"""Oracle's command line as a user has it.

    cli.py OCI [--expect-refused]

Prints one JSON line for each command, `{"operation", "ok", "code"}`, and exits 1 when one went against the plan.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

oci = sys.argv[1]
expect_refused = "--expect-refused" in sys.argv
TENANCY = "ocid1.tenancy.oc1..aaaaaaaacountersign"
wrong = []


def run(operation, *arguments, check=lambda text: True):
    done = subprocess.run([oci, "--no-retry", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    code = "NotAuthenticated" if "NotAuthenticated" in done.stderr else None
    ok = done.returncode == 0 and check(done.stdout)
    line = {"operation": operation, "ok": ok, "code": code}
    if not ok:
        line["detail"] = (done.stderr + done.stdout)[-600:]
    print(json.dumps(line), flush=True)
    if not (code if expect_refused else ok):
        wrong.append(operation)


with tempfile.TemporaryDirectory() as folder:
    big = pathlib.Path(folder) / "big"
    big.write_bytes(bytes(range(256)) * 40960)
    run("list regions", "iam", "region", "list", check=lambda text: "us-phoenix-1" in text)
    run("create user", "iam", "user", "create", "--name", "cli", "--description", "d", "--compartment-id", TENANCY)
    put = ["os", "object", "put", "--namespace", "space", "--bucket-name", "bucket", "--force", "--file", str(big)]
    run("put object of 10 MB", *put, "--name", "whole", "--no-multipart")
    if not expect_refused:
        run("put it in parts", *put, "--name", "parts", "--part-size", "4", "--parallel-upload-count", "2")
        back = pathlib.Path(folder) / "back"
        where = ["--namespace", "space", "--bucket-name", "bucket"]
        run("get it", "os", "object", "get", *where, "--name", "parts", "--file", str(back))
        if back.read_bytes() != big.read_bytes():
            wrong.append("what came back differs")
        run("list objects", "os", "object", "list", *where, check=lambda text: '"whole"' in text and '"parts"' in text)
        run("delete object", "os", "object", "delete", *where, "--name", "whole", "--force")
        run("stop instance", "compute", "instance", "action", "--instance-id", "ocid1.instance.oc1.iad.a", "--action", "STOP")
sys.exit(1 if wrong else 0)
