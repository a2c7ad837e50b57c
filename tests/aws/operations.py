"""What the client programs of this folder share: running operations and printing one JSON line for each."""

import json
import os
import re
import sys

from botocore.exceptions import ClientError

# Codes by which servers refuse the keys, the signature or the session; HEAD has no body, so only a status.
REFUSALS = {
    "403",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "NotSignedUp",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class Refused(Exception):
    """An answer that a client without codes of its own (requests, the command line) read as a refusal."""

    def __init__(self, code, status=None):
        super().__init__(code)
        self.code = code
        self.status = status


class Operations:
    """Runs operations, prints `{"operation", "ok", "code", "status", ...}`, remembers what went against the plan."""

    def __init__(self, expect_refused=False, skip=None):
        self.expect_refused = expect_refused
        self.skip = skip or {}
        self.wrong = []

    def run(self, operation, call):
        """`call` may return a dictionary of facts for the line; it raises when the operation failed."""
        if operation in self.skip:
            print(json.dumps({"operation": operation, "skipped": self.skip[operation]}), flush=True)
            return None
        line = {"operation": operation, "ok": True, "code": None, "status": None}
        facts = None
        try:
            facts = call()
            if facts:
                line.update(facts)
        except ClientError as error:
            details = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            # moto answers a JSON client's wrong signature in XML, which botocore hands on as the message.
            code = re.search("<Code>(.*?)</Code>", details.get("Message") or "")
            code = code[1] if code else details.get("Code")
            line.update(ok=False, code=code, status=status, detail=details.get("Message"))
        except Refused as error:
            line.update(ok=False, code=error.code, status=error.status)
        except Exception as error:
            line.update(ok=False, code=type(error).__name__, detail=str(error)[:500])
        good = not line["ok"] and line["code"] in REFUSALS if self.expect_refused else line["ok"]
        if not good:
            self.wrong.append(operation)
        print(json.dumps(line), flush=True)
        return facts

    def end(self):
        """Exits with 1 when an operation failed, or with `expect_refused` when one was not refused for its keys."""
        if self.wrong:
            print(f"against the plan: {', '.join(self.wrong)}", file=sys.stderr)
        # Not sys.exit: boto3's pools may hold connections, and there is nothing left to clean up.
        sys.stdout.flush()
        os._exit(1 if self.wrong else 0)
