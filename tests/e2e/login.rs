//! Logins of services' own and Apptio's, against a stub that verifies (`tests/login/stub.py`), accepted and refused.
