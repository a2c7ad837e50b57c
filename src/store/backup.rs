//! Backup and restore: one format for both databases, JSON lines. Secrets are in it as they rest, encrypted; the
//! key-encryption key is not, and without it nobody reads them.
//!
//! The first line says what follows, each row is an array below the line that names its table and columns, and the last line
//! has the number of rows and a digest, so that half a backup is not taken for a whole one.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::database::{Row, Transaction, Value, values};
use super::open::prove;
use super::rekey::{Progress, Watcher};
use super::{Result, Store, StoreError, migrate, millis};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
    Bytes,
}
use Kind::{Bytes, Number, Text};

/// A table, in an order in which it can be filled.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
}

/// Every table but the ones with a single row, which the first line stands for.
pub(super) const TABLES: &[Table] = &[
    Table { name: "key_encryption_keys", columns: &[("id", Text), ("probe", Bytes)] },
    Table {
        name: "accounts",
        columns: &[("name", Text), ("revision", Number), ("created_at", Number), ("created_by", Text)],
    },
    Table {
        name: "data_keys",
        columns: &[
            ("account", Text),
            ("generation", Number),
            ("key_encryption_key", Text),
            ("wrapped", Bytes),
            ("rekey", Number),
        ],
    },
    Table {
        name: "credentials",
        columns: &[
            ("account", Text),
            ("id", Text),
            ("version", Number),
            ("removed", Number),
            ("expires_at", Number),
            ("created_at", Number),
            ("created_by", Text),
        ],
    },
    Table {
        name: "credential_versions",
        columns: &[
            ("account", Text),
            ("id", Text),
            ("version", Number),
            ("removed", Number),
            ("content", Text),
            ("changed_fields", Text),
            ("expires_at", Number),
            ("updated_at", Number),
            ("updated_by", Text),
        ],
    },
    Table {
        name: "secrets",
        columns: &[
            ("account", Text),
            ("id", Text),
            ("version", Number),
            ("field", Text),
            ("generation", Number),
            ("sealed", Bytes),
        ],
    },
    Table {
        name: "bindings",
        columns: &[
            ("account", Text),
            ("id", Text),
            ("credential", Text),
            ("content", Text),
            ("updated_at", Number),
            ("updated_by", Text),
        ],
    },
    Table {
        name: "callers",
        columns: &[("account", Text), ("name", Text), ("created_at", Number), ("created_by", Text)],
    },
    Table {
        name: "caller_proofs",
        columns: &[
            ("account", Text),
            ("caller", Text),
            ("id", Text),
            ("digest", Bytes),
            ("created_at", Number),
            ("expires_at", Number),
        ],
    },
    Table {
        name: "applied_policies",
        columns: &[
            ("account", Text),
            ("id", Text),
            ("content", Text),
            ("template", Text),
            ("removed", Number),
            ("created_at", Number),
            ("created_by", Text),
        ],
    },
    Table { name: "policy_credentials", columns: &[("account", Text), ("policy", Text), ("credential", Text)] },
    Table {
        name: "runs",
        columns: &[
            ("account", Text),
            ("id", Text),
            ("policy", Text),
            ("digest", Bytes),
            ("created_at", Number),
            ("created_by", Text),
            ("expires_at", Number),
            ("ended_at", Number),
            ("ended_by", Text),
        ],
    },
    Table {
        name: "run_uses",
        columns: &[
            ("account", Text),
            ("run", Text),
            ("block", Text),
            ("credential", Text),
            ("host", Text),
            ("method", Text),
            ("outcome", Text),
            ("count", Number),
            ("last_used", Number),
        ],
    },
    Table {
        name: "management_tokens",
        columns: &[
            ("name", Text),
            ("digest", Bytes),
            ("role", Text),
            ("account", Text),
            ("expires_at", Number),
            ("created_at", Number),
            ("created_by", Text),
        ],
    },
    Table {
        name: "usage",
        columns: &[("account", Text), ("id", Text), ("count", Number), ("last_used", Number), ("last_caller", Text)],
    },
    Table {
        name: "audit",
        columns: &[
            ("process", Text),
            ("number", Number),
            ("at", Number),
            ("action", Text),
            ("account", Text),
            ("subject", Text),
            ("actor", Text),
            ("outcome", Text),
            ("facts", Text),
            ("line", Text),
        ],
    },
    Table {
        name: "journals",
        columns: &[("name", Text), ("fence", Number), ("holder", Text), ("lease_until", Number), ("sealed", Bytes)],
    },
];

#[derive(Serialize, Deserialize)]
struct Head {
    /// The format.
    countersign_backup: i64,
    /// The tables are at this step.
    schema: i64,
    revision: i64,
    /// The key-encryption key that new data keys are wrapped with.
    current_key: Option<String>,
    rekey: Option<i64>,
    /// Milliseconds since 1970.
    made_at: i64,
    rows: u64,
}

#[derive(Serialize, Deserialize)]
struct Section {
    table: String,
    columns: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct End {
    end: u64,
    sha256: String,
}

fn io(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}

fn damaged(path: &Path, line: u64) -> StoreError {
    StoreError::Invalid(format!("{} is no whole backup: line {line} is not what belongs there", path.display()))
}

/// Writes lines and keeps their digest.
struct Writer<W: Write> {
    file: W,
    digest: Context,
}

impl<W: Write> Writer<W> {
    fn line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.digest.update(&text);
        self.file.write_all(&text)
    }
}

fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cells(row: &Row, columns: &[(&str, Kind)]) -> Result<Vec<Json>> {
    let cell = |(place, (_, kind)): (usize, &(&str, Kind))| {
        Ok(match kind {
            Number => row.get::<Option<i64>>(place)?.into(),
            Text => row.get::<Option<String>>(place)?.into(),
            Bytes => row.get::<Option<Vec<u8>>>(place)?.map(|bytes| STANDARD.encode(bytes)).into(),
        })
    };
    columns.iter().enumerate().map(cell).collect()
}

fn value(cell: &Json, kind: Kind) -> Option<Value> {
    Some(match kind {
        Number if cell.is_null() => Value::Number(None),
        Text if cell.is_null() => Value::Text(None),
        Bytes if cell.is_null() => Value::Bytes(None),
        Number => cell.as_i64()?.into(),
        Text => cell.as_str()?.into(),
        Bytes => STANDARD.decode(cell.as_str()?).ok()?.into(),
    })
}

impl Store {
    /// Writes everything, as it is at one moment, into a new file that only we may read. Others go on writing.
    ///
    /// # Errors
    /// `Exists` when there is such a file, `Unavailable` when it cannot be written or the database not be read.
    pub async fn backup(&self, path: &Path, progress: Watcher<'_>) -> Result<u64> {
        if path.exists() {
            return Err(StoreError::Exists(path.display().to_string()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder).map_err(|error| io(path, &error))?;
        let mut snapshot = self.inner.database.snapshot().await?;
        snapshot.patiently().await?;
        let mut of = 0;
        for table in TABLES {
            let sql = format!("SELECT COUNT(*) FROM {}", table.name);
            let row = snapshot.first(sqlx::AssertSqlSafe(sql), values![]).await?;
            of += row.map_or(Ok(0), |row| row.get::<i64>(0))?.unsigned_abs();
        }
        let row = snapshot.first("SELECT revision, current_key, rekey FROM store", values![]).await?;
        let row = row.ok_or_else(|| StoreError::Invalid("the table `store` is empty".into()))?;
        let head = Head {
            countersign_backup: 1,
            schema: migrate::newest(),
            revision: row.get(0)?,
            current_key: row.get(1)?,
            rekey: row.get(2)?,
            made_at: millis(self.inner.deps.clock.now()),
            rows: of,
        };
        let mut writer = Writer { file: BufWriter::new(file.as_file()), digest: Context::new(&SHA256) };
        writer.line(&head).map_err(|error| io(path, &error))?;
        let mut done = 0;
        for table in TABLES {
            let names: Vec<String> = table.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
            let sql = format!("SELECT {} FROM {}", names.join(", "), table.name);
            writer.line(&Section { table: table.name.to_owned(), columns: names }).map_err(|error| io(path, &error))?;
            let each = |row: Row| {
                writer.line(&cells(&row, table.columns)?).map_err(|error| io(path, &error))?;
                done += 1;
                if done % 1000 == 0 {
                    progress(Progress { done, of });
                }
                Ok(())
            };
            snapshot.each(sqlx::AssertSqlSafe(sql), each).await?;
        }
        snapshot.commit().await?;
        let end = End { end: done, sha256: hex(writer.digest.clone()) };
        writer.line(&end).and_then(|()| writer.file.flush()).map_err(|error| io(path, &error))?;
        drop(writer);
        file.as_file().sync_all().map_err(|error| io(path, &error))?;
        file.persist_noclobber(path).map_err(|error| io(path, &error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io(path, &error))?;
        progress(Progress { done, of });
        Ok(done)
    }

    /// Reads a backup into this store, which holds nothing yet; whole or not at all. The keys at hand must be those that it
    /// was encrypted with.
    ///
    /// # Errors
    /// `Exists` when the store holds something, `Invalid` when this is no whole backup of this version or an older one,
    /// `Sealed` when the keys are others.
    pub async fn restore(&self, path: &Path, progress: Watcher<'_>) -> Result<u64> {
        let file = File::open(path).map_err(|error| io(path, &error))?;
        let mut reader = Reader { path, file: BufReader::new(file), digest: Context::new(&SHA256), at: 0 };
        let head: Head = reader.parsed()?;
        if head.countersign_backup != 1 || head.schema > migrate::newest() {
            return Err(StoreError::Invalid(format!(
                "a newer Countersign wrote {}: restore it with that version",
                path.display()
            )));
        }
        let mut writing = self.write().await?;
        let sql = "SELECT 1 FROM accounts UNION ALL SELECT 1 FROM data_keys LIMIT 1";
        if writing.transaction.first(sql, values![]).await?.is_some() {
            return Err(StoreError::Exists(format!(
                "{} holds something: restore into an empty store; it",
                self.address()
            )));
        }
        writing.transaction.run("DELETE FROM key_encryption_keys", values![]).await?;
        let done = self.fill(&mut writing.transaction, &mut reader, head.rows, progress).await?;
        for row in writing.transaction.all("SELECT id, probe FROM key_encryption_keys", values![]).await? {
            let (id, probe): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let key = self.inner.ring.find(&id).ok_or_else(|| {
                StoreError::Sealed(format!(
                    "the backup is encrypted with the key {id}, which is not at hand: put it in place (the key file, or \
                     `store.key`), remove the database that was made without it, and restore again"
                ))
            })?;
            prove(&*key, &probe).await?;
        }
        // Whoever knew a revision of this store sees a later one.
        let revision = writing.revision.max(head.revision + 1);
        let sql = "UPDATE store SET revision = $1, current_key = $2, rekey = $3";
        let current = head.current_key.as_deref();
        writing.transaction.run(sql, values![revision, current, head.rekey]).await?;
        writing.transaction.run("UPDATE journals SET lease_until = 0, holder = NULL", values![]).await?;
        writing.revision = revision;
        self.finish(writing).await?;
        Ok(done)
    }

    async fn fill(
        &self,
        transaction: &mut Transaction,
        reader: &mut Reader<'_>,
        of: u64,
        progress: Watcher<'_>,
    ) -> Result<u64> {
        let mut done = 0;
        let mut section: Option<(String, Vec<Kind>)> = None;
        loop {
            let before = reader.digest.clone();
            let line: Json = reader.parsed()?;
            if line.is_array() {
                let (sql, kinds) = section.as_ref().ok_or_else(|| damaged(reader.path, reader.at))?;
                let row = line.as_array().filter(|row| row.len() == kinds.len());
                let row = row.ok_or_else(|| damaged(reader.path, reader.at))?;
                let row: Option<Vec<Value>> = row.iter().zip(kinds).map(|(cell, kind)| value(cell, *kind)).collect();
                let row = row.ok_or_else(|| damaged(reader.path, reader.at))?;
                transaction.run(sqlx::AssertSqlSafe(sql.clone()), row).await?;
                done += 1;
                if done % 1000 == 0 {
                    progress(Progress { done, of });
                }
            } else if let Ok(next) = Section::deserialize(&line) {
                section = Some(insert(&next).ok_or_else(|| damaged(reader.path, reader.at))?);
            } else {
                let end = End::deserialize(&line).map_err(|_| damaged(reader.path, reader.at))?;
                if end.end != done || end.sha256 != hex(before) {
                    return Err(damaged(reader.path, reader.at));
                }
                progress(Progress { done, of });
                return Ok(done);
            }
        }
    }
}

/// The statement for rows of a section, made of names that we know.
fn insert(section: &Section) -> Option<(String, Vec<Kind>)> {
    let table = TABLES.iter().find(|table| table.name == section.table)?;
    let column = |name: &String| table.columns.iter().find(|(known, _)| known == name).copied();
    let columns: Vec<(&str, Kind)> = section.columns.iter().map(column).collect::<Option<_>>()?;
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("${place}")).collect();
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING",
        table.name,
        names.join(", "),
        places.join(", ")
    );
    Some((sql, columns.into_iter().map(|(_, kind)| kind).collect()))
}

/// Reads lines and keeps their digest.
struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    digest: Context,
    at: u64,
}

impl Reader<'_> {
    fn parsed<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = Vec::new();
        self.at += 1;
        self.file.read_until(b'\n', &mut line).map_err(|error| io(self.path, &error))?;
        self.digest.update(&line);
        serde_json::from_slice(&line).map_err(|_| damaged(self.path, self.at))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::testing;

    #[tokio::test]
    async fn a_backup_has_every_column_of_every_table() {
        let folder = tempfile::tempdir().unwrap();
        let store = testing::sqlite(folder.path()).await;
        let sql =
            "SELECT m.name, i.name, i.type FROM sqlite_master m, pragma_table_info(m.name) i WHERE m.type = 'table'";
        let mut there: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for row in store.inner.database.all(sql, values![]).await.unwrap() {
            let column = (row.get(1).unwrap(), row.get(2).unwrap());
            there.entry(row.get(0).unwrap()).or_default().push(column);
        }
        // One has the step that the tables are at, the other a single row, which the first line stands for.
        assert!(there.remove("countersign_schema").is_some());
        assert_eq!(there.remove("store").unwrap().len(), 4);
        let kind = |kind: &Kind| match kind {
            Number => "BIGINT",
            Text => "TEXT",
            Bytes => "BLOB",
        };
        let columns = |table: &Table| {
            table.columns.iter().map(|(name, of)| ((*name).to_owned(), kind(of).to_owned())).collect::<Vec<_>>()
        };
        let ours = TABLES.iter().map(|table| (table.name.to_owned(), columns(table))).collect();
        assert_eq!(there, ours);
    }
}
