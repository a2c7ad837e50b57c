"""GET by requests with requests-ntlm: ntlm_client.py URL USER PASSWORD [--ca F] [--unbound]; prints `{"status", "body"}`."""

import argparse
import json

import requests
from requests_ntlm import HttpNtlmAuth

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("user")
parser.add_argument("password")
parser.add_argument("--ca")
parser.add_argument("--unbound", action="store_true", help="no channel binding")
arguments = parser.parse_args()
session = requests.Session()
session.trust_env = False
session.auth = HttpNtlmAuth(arguments.user, arguments.password, send_cbt=not arguments.unbound)
answer = session.get(arguments.url, verify=arguments.ca or True)
print(json.dumps({"status": answer.status_code, "body": answer.text}))
