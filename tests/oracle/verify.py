"""The independent verifier: reads signed requests, one JSON line each, and lets `httpsig` judge them.

    verify.py < LINES

A line is `{"public", "method", "target", "headers"}`, `public` in PEM. Prints `{"verified", "failed"}`; exits 1 when one
failed or none was there.
"""

import json
import sys

from httpsig.verify import HeaderVerifier

verified, failed = 0, []
for line in sys.stdin:
    row = json.loads(line)
    headers = row["headers"]
    needed = ["date", "(request-target)", "host"]
    if "x-content-sha256" in headers:
        needed += ["content-length", "content-type", "x-content-sha256"]
    verifier = HeaderVerifier(
        headers, row["public"], required_headers=needed, method=row["method"], path=row["target"], host=headers["host"]
    )
    if verifier.verify():
        verified += 1
    else:
        failed.append(row["target"])
print(json.dumps({"verified": verified, "failed": failed[:3]}))
sys.exit(1 if failed or not verified else 0)
