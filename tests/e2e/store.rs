//! The encrypted store: one suite for SQLite and PostgreSQL, and what each of them does when it is killed, full or gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use countersign::base::{AuditEvent, Deps, Secret};
use countersign::store::{
    Actor, AuditQuery, AuditRow, BindingRecord, CallerProofRecord, CredentialRecord, HeldKey, KeyEncryption, Keys,
    ManagementToken, NewCredential, Place, Role, Store, StoreError, UsageRecord,
};
use serde_json::json;

use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::{DEADLINE, provider};

const CANARY: &str = "canary-7f3a91";

fn anna() -> Actor {
    Actor { name: "token:anna".into() }
}

fn new(name: &str, secret: &str) -> NewCredential {
    NewCredential {
        name: name.into(),
        description: Some("for tests".into()),
        scheme: "api_key".into(),
        hosts: vec!["api.test".into()],
        tags: BTreeMap::from([("provider".into(), "test".into())]),
        enabled: true,
        settings: json!({ "key": { "sealed": "key" }, "field": "X-Key" }),
        extra: json!({ "tower": { "category": "cloud" } }),
        expires_at: None,
        secrets: BTreeMap::from([("key".into(), Secret::new(secret))]),
        changed_fields: Vec::new(),
    }
}

fn held(byte: u8) -> Arc<dyn KeyEncryption> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    Arc::new(HeldKey::new(&Secret::new(text)).unwrap())
}

/// Where a test's store is, and how to ask its database past the store.
struct Server {
    folder: tempfile::TempDir,
    postgres: Option<(Postgres, String)>,
}

impl Server {
    fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), postgres: None }
    }

    fn postgres(test: &str) -> Option<Self> {
        provider();
        let postgres = Postgres::start(test)?;
        Some(Self { folder: tempfile::tempdir().unwrap(), postgres: Some((postgres, "countersign".into())) })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("countersign.db")
    }

    fn place(&self) -> Place {
        let (url, password) = match &self.postgres {
            None => (format!("sqlite:{}", self.file().display()), None),
            Some((postgres, _)) => (postgres.url(), Some(Secret::new(PASSWORD))),
        };
        Place { url, password, poll: Duration::from_millis(50) }
    }

    fn key_file(&self) -> Keys {
        Keys::File(self.folder.path().join("store.key"))
    }

    async fn open(&self) -> Store {
        self.open_with(self.key_file()).await.unwrap()
    }

    async fn open_with(&self, keys: Keys) -> Result<Store, StoreError> {
        Store::open(&self.place(), keys, &Deps::system()).await.map(|(store, _)| store)
    }

    /// What an attacker with the database's password could do.
    async fn tamper(&self, sql: &'static str) -> u64 {
        match &self.postgres {
            None => {
                use sqlx::{ConnectOptions, Connection};
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.file()).foreign_keys(false);
                let mut connection = options.connect().await.unwrap();
                let done = sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected();
                connection.close().await.unwrap();
                done
            }
            Some((postgres, database)) => {
                let sql = format!(
                    "SET session_replication_role = replica; WITH done AS ({sql} RETURNING 1) SELECT count(*) FROM done"
                );
                postgres.query(database, &sql).trim().parse().unwrap()
            }
        }
    }
}

/// Every test of the suite, for one database.
async fn suite(server: &Server) {
    versions(server).await;
    names(server).await;
    routing(server).await;
    pages(server).await;
    records(server).await;
    journals(server).await;
    tampering(server).await;
    watching(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_sqlite() {
    suite(&Server::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_postgresql() {
    let Some(server) = Server::postgres("the suite passes on PostgreSQL") else { return };
    suite(&server).await;
}

fn key_of(secrets: &BTreeMap<String, Secret>) -> &str {
    secrets["key"].expose_str().unwrap()
}

async fn versions(server: &Server) {
    let store = server.open().await;
    let before = SystemTime::now() - Duration::from_secs(1);
    assert!(store.accounts().await.unwrap().is_empty());
    assert_eq!(store.account_revision("v").await.unwrap(), 0);
    let first = store.create_credential("v", "a", new("First", "one"), &anna()).await.unwrap();
    assert_eq!((first.version, first.removed, first.updated.by.clone()), (1, false, anna()));
    assert!(first.created.at >= before && first.created == first.updated);
    assert_eq!(first.settings, json!({ "key": { "sealed": "key" }, "field": "X-Key" }));
    assert_eq!(store.credential("v", "a").await.unwrap().unwrap(), first);
    assert_eq!(key_of(&store.secrets(&first).await.unwrap()), "one");
    let revision = store.account_revision("v").await.unwrap();

    let again = store.create_credential("v", "a", new("First", "one"), &anna()).await;
    assert_eq!(again, Err(StoreError::Exists("credential a in account v".into())));
    let mut second = new("Second", "two");
    second.changed_fields = vec!["name".into(), "key".into()];
    let other = Actor { name: "oidc:bert@example.com".into() };
    let second = store.update_credential("v", "a", 1, second, &other).await.unwrap();
    assert_eq!((second.version, second.created.by.clone(), second.updated.by.clone()), (2, anna(), other));
    assert_eq!(second.changed_fields, ["name", "key"]);
    assert!(store.account_revision("v").await.unwrap() > revision);
    let late = store.update_credential("v", "a", 1, new("Third", "three"), &anna()).await;
    assert_eq!(late, Err(StoreError::Changed("credential a in account v".into())));
    let unknown = store.update_credential("v", "b", 1, new("Third", "three"), &anna()).await;
    assert_eq!(unknown, Err(StoreError::Unknown("credential b in account v".into())));
    assert_eq!(store.credential("w", "a").await.unwrap(), None);

    // Every version keeps its secrets.
    assert_eq!(key_of(&store.secrets(&first).await.unwrap()), "one");
    let restored = store.restore_credential("v", "a", None, &anna()).await.unwrap();
    assert_eq!((restored.version, restored.name.as_str()), (3, "First"));
    assert_eq!(restored.changed_fields, ["key", "name"]);
    assert_eq!(key_of(&store.secrets(&restored).await.unwrap()), "one");

    // A tombstone: gone for everybody, restored with what it had.
    store.remove_credential("v", "a", &anna()).await.unwrap();
    assert_eq!(store.credential("v", "a").await.unwrap(), None);
    assert!(store.remove_credential("v", "a", &anna()).await.is_err());
    assert!(store.update_credential("v", "a", 4, new("x", "y"), &anna()).await.is_err());
    let all = store.credential_versions("v", "a").await.unwrap();
    let seen: Vec<(i64, bool)> = all.iter().map(|record| (record.version, record.removed)).collect();
    assert_eq!(seen, [(4, true), (3, false), (2, false), (1, false)]);
    assert!(store.secrets(&all[0]).await.unwrap().is_empty());
    assert!(store.restore_credential("v", "a", Some(4), &anna()).await.is_err());
    assert!(store.restore_credential("v", "a", Some(9), &anna()).await.is_err());
    let second = store.restore_credential("v", "a", Some(2), &anna()).await.unwrap();
    assert_eq!((second.version, second.name.as_str()), (5, "Second"));
    assert_eq!(key_of(&store.secrets(&second).await.unwrap()), "two");
    store.remove_credential("v", "a", &anna()).await.unwrap();
    let reborn = store.create_credential("v", "a", new("Reborn", "new"), &anna()).await.unwrap();
    assert_eq!(reborn.version, 7);
    assert_eq!(key_of(&store.secrets(&reborn).await.unwrap()), "new");

    // Another process sees what this one wrote.
    let other = server.open().await;
    assert_eq!(other.credential("v", "a").await.unwrap().unwrap(), reborn);
    assert_eq!(key_of(&other.secrets(&reborn).await.unwrap()), "new");
    assert_eq!(other.accounts().await.unwrap()[0].0, "v");
}

async fn names(server: &Server) {
    let store = server.open().await;
    for id in ["", "a\nb", "a\0b", &"x".repeat(257)] {
        assert!(matches!(store.create_credential("n", id, new("x", "y"), &anna()).await, Err(StoreError::Invalid(_))));
        assert!(matches!(store.create_credential(id, "n", new("x", "y"), &anna()).await, Err(StoreError::Invalid(_))));
    }
    assert!(matches!(store.credential("n", "a\0b").await, Err(StoreError::Invalid(_))));
    let mut odd = new("\0'; DROP TABLE credentials; -- \u{1f511}", "\0\u{1}");
    odd.settings = json!({ "number": 12345678901234567890u64, "text": "\0" });
    let record = store.create_credential("n", "Größe ' \" % _ \\", odd.clone(), &anna()).await.unwrap();
    assert_eq!((&record.name, &record.settings), (&odd.name, &odd.settings));
    assert_eq!(key_of(&store.secrets(&record).await.unwrap()), "\0\u{1}");
    // A thousand who want the same id: one gets it.
    let by = anna();
    let attempts = (0..20).map(|_| store.create_credential("n", "same", new("x", "y"), &by)).collect::<Vec<_>>();
    let outcomes = futures_util::future::join_all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let updates = (0..20).map(|_| store.update_credential("n", "same", 1, new("x", "y"), &by)).collect::<Vec<_>>();
    let outcomes = futures_util::future::join_all(updates).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
}

fn binding(account: &str, id: &str, credential: &str) -> BindingRecord {
    BindingRecord {
        account: account.into(),
        id: id.into(),
        credential: credential.into(),
        callers: vec!["runner".into()],
        hosts: vec!["api.test".into()],
        methods: vec!["GET".into()],
        paths: vec!["/v1".into()],
        services: vec![],
        regions: vec![],
        actions: vec![],
        allow_cleartext: true,
        allow_addresses: vec!["127.0.0.0/8".into()],
        only_named: false,
    }
}

async fn routing(server: &Server) {
    let store = server.open().await;
    store.create_credential("r", "bound", new("x", "y"), &anna()).await.unwrap();
    store.create_credential("r", "idle", new("x", "y"), &anna()).await.unwrap();
    store.create_credential("s", "bound", new("x", "y"), &anna()).await.unwrap();
    let missing = store.put_binding(binding("r", "1", "missing"), &anna()).await;
    assert_eq!(missing, Err(StoreError::Unknown("credential missing in account r".into())));
    store.put_binding(binding("r", "1", "bound"), &anna()).await.unwrap();
    let mut changed = binding("r", "1", "bound");
    changed.methods.clear();
    store.put_binding(changed.clone(), &anna()).await.unwrap();
    let proof = |id: &str| CallerProofRecord {
        id: id.into(),
        digest: [id.len() as u8; 32],
        created: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)),
    };
    store.add_caller_proof("r", "runner", proof("one"), &anna()).await.unwrap();
    store.add_caller_proof("r", "runner", proof("three"), &anna()).await.unwrap();
    assert!(matches!(store.add_caller_proof("r", "runner", proof("one"), &anna()).await, Err(StoreError::Exists(_))));
    let routing = store.routing().await.unwrap();
    assert_eq!(routing.bindings, [changed.clone()]);
    let named: Vec<(&str, &str)> =
        routing.credentials.iter().map(|record| (record.account.as_str(), record.id.as_str())).collect();
    assert_eq!(named, [("r", "bound")]);
    assert_eq!(routing.callers.len(), 1);
    assert_eq!(routing.callers[0].proofs, [proof("one"), proof("three")]);
    assert_eq!(store.callers("r").await.unwrap(), routing.callers);
    assert!(store.callers("s").await.unwrap().is_empty());
    assert_eq!(routing.revision, *store.revisions().borrow());

    // A removed credential is no part of it; its binding stays and refuses.
    store.remove_credential("r", "bound", &anna()).await.unwrap();
    let after = store.routing().await.unwrap();
    assert!(after.credentials.is_empty() && after.revision > routing.revision);
    assert_eq!(after.bindings, [changed]);
    let used = store.remove_caller("r", "runner", None, &anna()).await;
    assert_eq!(used, Err(StoreError::InUse { what: "caller runner in account r".into(), by: "1".into() }));
    store.remove_caller("r", "runner", Some("one"), &anna()).await.unwrap();
    assert!(matches!(store.remove_caller("r", "runner", Some("one"), &anna()).await, Err(StoreError::Unknown(_))));
    store.remove_binding("r", "1", &anna()).await.unwrap();
    assert!(matches!(store.remove_binding("r", "1", &anna()).await, Err(StoreError::Unknown(_))));
    store.remove_caller("r", "runner", None, &anna()).await.unwrap();
    assert!(store.routing().await.unwrap().callers.is_empty());
}

async fn pages(server: &Server) {
    let store = server.open().await;
    for id in ["b", "B", "a", "ä", "a-1", "a_1"] {
        store.create_credential("p", id, new("x", "y"), &anna()).await.unwrap();
    }
    store.remove_credential("p", "b", &anna()).await.unwrap();
    let ids = |records: Vec<CredentialRecord>| records.into_iter().map(|record| record.id).collect::<Vec<_>>();
    // By their bytes, in both databases.
    assert_eq!(ids(store.credentials("p", None, 100, true).await.unwrap()), ["B", "a", "a-1", "a_1", "b", "ä"]);
    assert_eq!(ids(store.credentials("p", None, 2, false).await.unwrap()), ["B", "a"]);
    assert_eq!(ids(store.credentials("p", Some("a"), 2, false).await.unwrap()), ["a-1", "a_1"]);
    assert_eq!(ids(store.credentials("p", Some("a_1"), 2, false).await.unwrap()), ["ä"]);
    assert!(store.credentials("q", None, 2, false).await.unwrap().is_empty());
}

async fn records(server: &Server) {
    let store = server.open().await;
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    // Uses add up; the last one stays the last.
    let used = |count, seconds, caller: &str| UsageRecord { count, last_used: at(seconds), last_caller: caller.into() };
    let mine = |usage| vec![("u".to_owned(), "a".to_owned(), usage)];
    assert_eq!(store.usage("u", "a").await.unwrap(), None);
    store.add_usage(&mine(used(2, 200, "b"))).await.unwrap();
    store.add_usage(&mine(used(3, 100, "a"))).await.unwrap();
    assert_eq!(store.usage("u", "a").await.unwrap(), Some(used(5, 200, "b")));

    // What ends.
    let mut ending = new("x", "y");
    ending.expires_at = Some(at(5000));
    store.create_credential("u", "late", ending.clone(), &anna()).await.unwrap();
    ending.expires_at = Some(at(4000));
    store.create_credential("u", "soon", ending, &anna()).await.unwrap();
    let ids: Vec<String> = store.expiring(at(9000)).await.unwrap().into_iter().map(|record| record.id).collect();
    assert_eq!(ids, ["soon", "late"]);
    store.remove_credential("u", "soon", &anna()).await.unwrap();
    assert!(store.expiring(at(4500)).await.unwrap().is_empty());

    // Management tokens.
    let token = ManagementToken {
        name: "ci".into(),
        digest: [9; 32],
        role: Role::Manager,
        account: Some("u".into()),
        expires_at: Some(at(10)),
    };
    store.add_management_token(token.clone(), &anna()).await.unwrap();
    assert!(matches!(store.add_management_token(token.clone(), &anna()).await, Err(StoreError::Exists(_))));
    assert_eq!(store.management_token(&[9; 32]).await.unwrap(), Some(token.clone()));
    assert_eq!(store.management_token(&[8; 32]).await.unwrap(), None);
    assert_eq!(store.management_tokens().await.unwrap(), [token]);
    store.remove_management_token("ci", &anna()).await.unwrap();
    assert!(matches!(store.remove_management_token("ci", &anna()).await, Err(StoreError::Unknown(_))));

    // The audit record.
    let row = |number: i64, action: &'static str, account: &str| AuditRow {
        process: "p1".into(),
        number,
        at: at(1000 + number as u64),
        event: AuditEvent::new(action, account, "ok").of("a").by("token:anna").fact("fields", "name, key"),
        line: format!("{{\"number\":{number}}}"),
    };
    let rows = [row(1, "credential.create", "u"), row(2, "use.denied", "u"), row(3, "credential.update", "w")];
    store.add_audit_rows(&rows[..2]).await.unwrap();
    store.add_audit_rows(&rows).await.unwrap();
    let search = |query: AuditQuery| {
        let store = store.clone();
        async move {
            let rows = store.audit_rows(&query).await.unwrap();
            rows.into_iter().map(|row| row.number).collect::<Vec<_>>()
        }
    };
    let all = AuditQuery { limit: 10, ..AuditQuery::default() };
    assert_eq!(store.audit_rows(&all).await.unwrap(), [rows[2].clone(), rows[1].clone(), rows[0].clone()]);
    assert_eq!(search(AuditQuery { action: Some("credential.".into()), ..all.clone() }).await, [3, 1]);
    assert_eq!(search(AuditQuery { action: Some("credential%".into()), ..all.clone() }).await, [0; 0]);
    assert_eq!(search(AuditQuery { account: Some("u".into()), limit: 1, ..all.clone() }).await, [2]);
    assert_eq!(search(AuditQuery { since: Some(at(1002)), until: Some(at(1003)), ..all.clone() }).await, [2]);
    let by = AuditQuery { actor: Some("token:anna".into()), subject: Some("a".into()), ..all };
    assert_eq!(search(by).await, [3, 2, 1]);
    assert_eq!(store.audit_lines("p1", 1, 10).await.unwrap().len(), 2);
}

async fn journals(server: &Server) {
    let (one, other) = (server.open().await, server.open().await);
    let long = Duration::from_secs(60);
    let (fence, nothing) = one.journal_lock("j", "one", long).await.unwrap().unwrap();
    assert_eq!(nothing, None);
    assert_eq!(other.journal_lock("j", "other", long).await.unwrap(), None);
    let sealed = one.seal("a", b"j", &Secret::new(CANARY)).await.unwrap();
    assert!(matches!(one.journal_write("j", fence, b"bare").await, Err(StoreError::Invalid(_))));
    one.journal_write("j", fence, &sealed).await.unwrap();
    one.journal_release("j", fence).await.unwrap();
    assert!(matches!(one.journal_write("j", fence, &sealed).await, Err(StoreError::Changed(_))));
    let (next, found) = other.journal_lock("j", "other", Duration::from_millis(1)).await.unwrap().unwrap();
    assert!(next > fence);
    assert_eq!(other.open_sealed("a", b"j", &found.unwrap()).await.unwrap().expose(), CANARY.as_bytes());
    // Its lease ended; somebody else has it, and the one before writes nothing any more.
    let taken = within(async || one.journal_lock("j", "one", long).await.unwrap()).await;
    assert!(matches!(other.journal_write("j", next, &sealed).await, Err(StoreError::Changed(_))));
    assert!(matches!(other.journal_release("j", next).await, Err(StoreError::Changed(_))));
    one.journal_release("j", taken.0).await.unwrap();

    // What is sealed opens for its account and place only.
    assert!(matches!(one.open_sealed("b", b"j", &sealed).await, Err(StoreError::Sealed(_))));
    assert!(matches!(one.open_sealed("a", b"k", &sealed).await, Err(StoreError::Sealed(_))));
    assert!(matches!(one.open_sealed("a", b"j", &sealed[..20]).await, Err(StoreError::Sealed(_))));
    let mut moved = one.seal("b", b"j", &Secret::new("x")).await.unwrap();
    moved[10] = b'a';
    assert!(matches!(one.open_sealed("a", b"j", &moved).await, Err(StoreError::Sealed(_))));
}

/// Tries until there is something.
async fn within<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(std::time::Instant::now() < until, "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn tampering(server: &Server) {
    let store = server.open().await;
    let mut two = new("x", "one");
    two.secrets.insert("other".into(), Secret::new("two"));
    let record = store.create_credential("t", "a", two.clone(), &anna()).await.unwrap();
    let next = store.update_credential("t", "a", 1, two.clone(), &anna()).await.unwrap();
    let other = store.create_credential("t", "b", two.clone(), &anna()).await.unwrap();
    let elsewhere = store.create_credential("t2", "a", two, &anna()).await.unwrap();
    let refused = async |record: &CredentialRecord| {
        // As a process that never saw it.
        let error = server.open().await.secrets(record).await.unwrap_err();
        assert!(matches!(&error, StoreError::Sealed(why) if why.contains("moved")), "{error}");
    };
    // Each moves a sealed secret from its field, version, id or account to where another one was.
    let moves = [
        (
            "UPDATE secrets SET sealed = (SELECT s.sealed FROM secrets s WHERE s.account = 't' AND s.id = 'a' AND s.version = 1 \
             AND s.field = 'other') WHERE account = 't' AND id = 'a' AND version = 1 AND field = 'key'",
            &record,
        ),
        (
            "UPDATE secrets SET sealed = (SELECT s.sealed FROM secrets s WHERE s.account = 't' AND s.id = 'a' AND s.version = 1 \
             AND s.field = 'other') WHERE account = 't' AND id = 'a' AND version = 2 AND field = 'other'",
            &next,
        ),
        (
            "UPDATE secrets SET sealed = (SELECT s.sealed FROM secrets s WHERE s.account = 't' AND s.id = 'a' AND s.version = 1 \
             AND s.field = 'other') WHERE account = 't' AND id = 'b' AND version = 1 AND field = 'other'",
            &other,
        ),
        (
            "UPDATE secrets SET sealed = (SELECT s.sealed FROM secrets s WHERE s.account = 't' AND s.id = 'a' AND s.version = 1 \
             AND s.field = 'other') WHERE account = 't2' AND id = 'a' AND version = 1 AND field = 'other'",
            &elsewhere,
        ),
    ];
    for (sql, victim) in moves {
        assert_eq!(store.secrets(victim).await.unwrap().len(), 2, "{sql}");
        assert_eq!(server.tamper(sql).await, 1, "{sql}");
        refused(victim).await;
    }
    // A data key of another account opens nothing either.
    let sql =
        "UPDATE data_keys SET wrapped = (SELECT d.wrapped FROM data_keys d WHERE d.account = 't') WHERE account = 't2'";
    assert_eq!(server.tamper(sql).await, 1);
    let error = server.open().await.secrets(&elsewhere).await.unwrap_err();
    assert!(matches!(error, StoreError::Sealed(_)), "{error}");
}

async fn watching(server: &Server) {
    let (one, other) = (server.open().await, server.open().await);
    let mut told = other.revisions();
    let began = std::time::Instant::now();
    let record = one.create_credential("watch", "a", new("x", "y"), &anna()).await.unwrap();
    let revision = *one.revisions().borrow();
    tokio::time::timeout(DEADLINE, told.wait_for(|seen| *seen >= revision)).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(other.credential("watch", "a").await.unwrap(), Some(record));
    assert_eq!(other.reach().failing, None);
    other.close().await;
    assert!(matches!(other.credential("watch", "a").await, Err(StoreError::Unavailable(_))));
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
