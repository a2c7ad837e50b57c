//! Changes: each is one transaction, and every process is told of it, at once by PostgreSQL, by looking otherwise.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

use super::database::{CHANNEL, Database, Transaction, values};
use super::{Actor, Inner, Result, Store, StoreError, lock, millis, open};

/// Between attempts to hear of changes again.
const PAUSE: Duration = Duration::from_secs(1);

/// When the store was reached last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The last time that it answered.
    pub last: Instant,
    /// Why it has not answered since.
    pub failing: Option<StoreError>,
}

/// A change under way: whole or not at all. Of all changes in all processes one is under way at a time, so that what it
/// reads stays as it is until it ends.
pub(super) struct Writing {
    pub(super) transaction: Transaction,
    /// The revision that it will be.
    pub(super) revision: i64,
    /// When it is, in milliseconds.
    pub(super) now: i64,
}

impl Store {
    /// Begins a change.
    pub(super) async fn write(&self) -> Result<Writing> {
        self.write_by(1).await
    }

    /// Begins what nobody's routing depends on, alone all the same; it ends with the transaction's own `commit`.
    pub(super) async fn write_untold(&self) -> Result<Writing> {
        self.write_by(0).await
    }

    async fn write_by(&self, step: i64) -> Result<Writing> {
        let mut transaction = self.inner.database.begin().await?;
        let sql = "UPDATE store SET revision = revision + $1 WHERE one = 1 RETURNING revision";
        let row = transaction.first(sql, values![step]).await?;
        let revision = row.ok_or_else(|| StoreError::Invalid("the table `store` is empty".into()))?.get(0)?;
        Ok(Writing { transaction, revision, now: millis(self.inner.deps.clock.now()) })
    }

    /// Makes it happen, and tells everybody.
    pub(super) async fn finish(&self, mut writing: Writing) -> Result<()> {
        if writing.transaction.is_postgres() {
            let sql = "SELECT 1 FROM (SELECT pg_notify($1, $2)) AS told";
            writing.transaction.first(sql, values![CHANNEL, writing.revision.to_string()]).await?;
        }
        writing.transaction.commit().await?;
        self.inner.told(writing.revision);
        Ok(())
    }

    /// Told of every change, of this process and of others: the revision that there is at least.
    pub fn revisions(&self) -> watch::Receiver<i64> {
        self.inner.revision.subscribe()
    }

    /// When the store was reached last, and why it is not now. Looked at as often as for changes.
    pub fn reach(&self) -> Reach {
        lock(&self.inner.reach).clone()
    }

    /// Looks for changes of others at once.
    pub fn look(&self) {
        self.inner.look.notify_one();
    }

    pub(super) fn begin_watching(&self, poll: Duration) {
        let mut tasks = vec![tokio::spawn(keep_looking(Arc::downgrade(&self.inner), poll)).abort_handle()];
        if let Database::Postgres { pool, .. } = &self.inner.database {
            tasks.push(tokio::spawn(keep_listening(Arc::downgrade(&self.inner), pool.clone())).abort_handle());
        }
        lock(&self.inner.watch).extend(tasks);
    }
}

impl Writing {
    /// An account exists from its first change on.
    pub(super) async fn touch_account(&mut self, account: &str, by: &Actor) -> Result<()> {
        super::named("an account's name", account)?;
        let sql = "INSERT INTO accounts (name, revision, created_at, created_by) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (name) DO NOTHING";
        let values = values![account, self.revision, self.now, by.name.as_str()];
        self.transaction.run(sql, values).await.map(drop)
    }

    /// The account's credentials are not what they were.
    pub(super) async fn stamp_account(&mut self, account: &str) -> Result<()> {
        let sql = "UPDATE accounts SET revision = $2 WHERE name = $1";
        self.transaction.run(sql, values![account, self.revision]).await.map(drop)
    }
}

impl Inner {
    /// There is this revision at least.
    pub(super) fn told(&self, revision: i64) {
        *lock(&self.reach) = Reach { last: self.deps.clock.instant(), failing: None };
        self.revision.send_if_modified(|known| {
            let newer = revision > *known;
            *known = revision.max(*known);
            newer
        });
    }

    async fn look_now(&self) {
        match open::revision(&self.database).await {
            Ok(revision) => {
                let since = lock(&self.reach).failing.is_some();
                self.told(revision);
                if since {
                    tracing::info!(target: "countersign::store", store = %self.address, "the store is reached again");
                }
            }
            Err(error) => {
                let mut reach = lock(&self.reach);
                if reach.failing.is_none() {
                    tracing::warn!(target: "countersign::store", store = %self.address, %error, "the store is not reached");
                }
                reach.failing = Some(error);
            }
        }
    }
}

async fn keep_looking(inner: Weak<Inner>, poll: Duration) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let clock = &inner.deps.clock;
        let next = clock.sleep_until(clock.instant() + poll);
        tokio::select! {
            () = next => {}
            () = inner.look.notified() => {}
        }
        inner.look_now().await;
    }
}

/// Hears of changes. What is missed while there is no connection is found by looking.
async fn keep_listening(inner: Weak<Inner>, pool: PgPool) {
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            // An error and a lost connection alike: look, and listen again.
            while listener.try_recv().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                // What was told is not taken at its word: anybody in the database can tell.
                inner.look.notify_one();
            }
        }
        let Some(again) = inner.upgrade().map(|inner| {
            let clock = &inner.deps.clock;
            clock.sleep_until(clock.instant() + PAUSE)
        }) else {
            return;
        };
        again.await;
    }
}
