-- Times are milliseconds since 1970, truths are 0 and 1, documents are JSON. TEXT and BYTES become what each database
-- calls text that is ordered by its bytes, and bytes.

-- One row: how often anything changed, which key wraps new data keys, and how far a change of the data keys has come.
CREATE TABLE store (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    revision BIGINT NOT NULL,
    current_key TEXT,
    rekey BIGINT
);
INSERT INTO store (one, revision) VALUES (1, 0);

-- The key-encryption keys that data keys are wrapped with, each with a value that only the right key opens.
CREATE TABLE key_encryption_keys (
    id TEXT PRIMARY KEY,
    probe BYTES NOT NULL
);

CREATE TABLE accounts (
    name TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);

CREATE TABLE data_keys (
    account TEXT NOT NULL,
    generation BIGINT NOT NULL,
    key_encryption_key TEXT NOT NULL,
    wrapped BYTES NOT NULL,
    rekey BIGINT NOT NULL,
    PRIMARY KEY (account, generation)
);

-- The present version of each credential; its content and its secrets lie beside it, with those of earlier versions.
CREATE TABLE credentials (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    removed BIGINT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (account, id)
);
CREATE INDEX credentials_expiring ON credentials (expires_at) WHERE expires_at IS NOT NULL AND removed = 0;

CREATE TABLE credential_versions (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    removed BIGINT NOT NULL,
    content TEXT NOT NULL,
    changed_fields TEXT NOT NULL,
    expires_at BIGINT,
    updated_at BIGINT NOT NULL,
    updated_by TEXT NOT NULL,
    PRIMARY KEY (account, id, version),
    FOREIGN KEY (account, id) REFERENCES credentials (account, id)
);

CREATE TABLE secrets (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    field TEXT NOT NULL,
    generation BIGINT NOT NULL,
    sealed BYTES NOT NULL,
    PRIMARY KEY (account, id, version, field),
    FOREIGN KEY (account, id, version) REFERENCES credential_versions (account, id, version) ON DELETE CASCADE,
    FOREIGN KEY (account, generation) REFERENCES data_keys (account, generation)
);
CREATE INDEX secrets_of_generation ON secrets (account, generation);

CREATE TABLE bindings (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    credential TEXT NOT NULL,
    content TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT NOT NULL,
    PRIMARY KEY (account, id),
    FOREIGN KEY (account, credential) REFERENCES credentials (account, id)
);
CREATE INDEX bindings_of_credential ON bindings (account, credential);

CREATE TABLE callers (
    account TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE caller_proofs (
    account TEXT NOT NULL,
    caller TEXT NOT NULL,
    id TEXT NOT NULL,
    digest BYTES NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (account, caller, id),
    FOREIGN KEY (account, caller) REFERENCES callers (account, name) ON DELETE CASCADE
);

CREATE TABLE management_tokens (
    name TEXT PRIMARY KEY,
    digest BYTES NOT NULL UNIQUE,
    role TEXT NOT NULL,
    account TEXT,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);

CREATE TABLE usage (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    count BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    last_caller TEXT NOT NULL,
    PRIMARY KEY (account, id)
);

CREATE TABLE audit (
    process TEXT NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    action TEXT NOT NULL,
    account TEXT NOT NULL,
    subject TEXT,
    actor TEXT,
    outcome TEXT NOT NULL,
    facts TEXT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (process, number)
);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_of_account ON audit (account, at);
CREATE INDEX audit_of_subject ON audit (subject, at);
CREATE INDEX audit_of_actor ON audit (actor, at);

-- Refresh tokens that the provider replaces at every use. Whoever holds the lease writes; the fence counts the holders.
CREATE TABLE journals (
    name TEXT PRIMARY KEY,
    fence BIGINT NOT NULL,
    holder TEXT,
    lease_until BIGINT NOT NULL,
    sealed BYTES
);
