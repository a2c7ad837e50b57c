-- Policies that were applied, and the runs of them. One that is removed stays, so that what its runs did can be looked up.
CREATE TABLE applied_policies (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    content TEXT NOT NULL,
    template TEXT NOT NULL,
    removed BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (account, id)
);

-- What a run needs the routing to read. Beside the content, so that one statement finds it.
CREATE TABLE policy_credentials (
    account TEXT NOT NULL,
    policy TEXT NOT NULL,
    credential TEXT NOT NULL,
    PRIMARY KEY (account, policy, credential),
    FOREIGN KEY (account, policy) REFERENCES applied_policies (account, id) ON DELETE CASCADE
);

CREATE TABLE runs (
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    policy TEXT NOT NULL,
    digest BYTES NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    ended_by TEXT,
    PRIMARY KEY (account, id),
    FOREIGN KEY (account, policy) REFERENCES applied_policies (account, id) ON DELETE CASCADE
);
CREATE INDEX runs_of_policy ON runs (account, policy, created_at);
CREATE INDEX runs_living ON runs (expires_at) WHERE ended_at IS NULL;

CREATE TABLE run_uses (
    account TEXT NOT NULL,
    run TEXT NOT NULL,
    block TEXT NOT NULL,
    credential TEXT NOT NULL,
    host TEXT NOT NULL,
    method TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (account, run, block, credential, host, method, outcome),
    FOREIGN KEY (account, run) REFERENCES runs (account, id) ON DELETE CASCADE
);
