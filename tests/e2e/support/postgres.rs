//! A PostgreSQL of the test's own: Debian's programs, a folder that ends with the test, passwords by SCRAM.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::{DEADLINE, skip};

/// The password of the user `countersign`.
pub const PASSWORD: &str = "p0stgres-p4ssword";

/// A running server with the database `countersign`.
pub struct Postgres {
    programs: PathBuf,
    folder: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
    /// What it said: read all the time, or it stands still.
    log: Arc<Mutex<Vec<String>>>,
}

impl Postgres {
    /// Starts one, or says why not.
    pub fn start(test: &str) -> Option<Self> {
        let Some(programs) = programs() else { return skip(test, "PostgreSQL is not installed") };
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("password");
        std::fs::write(&secret, PASSWORD).unwrap();
        own(folder.path());
        own(&secret);
        let mut postgres = Self { programs, folder, port: 0, child: None, log: Arc::default() };
        let initialized = postgres
            .program("initdb")
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256",
                "--username=countersign",
            ])
            .arg(format!("--pwfile={}", secret.display()))
            .arg(postgres.folder.path().join("data"))
            .output()
            .unwrap();
        assert!(initialized.status.success(), "{}", String::from_utf8_lossy(&initialized.stderr));
        for _ in 0..5 {
            // A free port may be taken again before it is bound.
            postgres.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if postgres.begin() {
                postgres.query("postgres", "CREATE DATABASE countersign");
                return Some(postgres);
            }
        }
        panic!("PostgreSQL did not start: {:#?}", postgres.log.lock().unwrap());
    }

    /// The address of its database, without the password.
    pub fn url(&self) -> String {
        self.url_of("countersign")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://countersign@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes another, empty database and returns its address without the password.
    pub fn database(&self, name: &str) -> String {
        self.query("postgres", &format!("CREATE DATABASE {name}"));
        self.url_of(name)
    }

    /// What `psql` answers, tuples only.
    pub fn query(&self, database: &str, sql: &str) -> String {
        let answer = self
            .program("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url_of(database)])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .unwrap();
        assert!(answer.status.success(), "{sql}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Whether it lets this user in.
    pub fn admits(&self, user: &str, password: &str) -> bool {
        let url = self.url().replace("countersign@", &format!("{user}@"));
        let answer = self.program("psql").args(["-XAtq", "-c", "SELECT 1", &url]).env("PGPASSWORD", password).output();
        answer.unwrap().status.success()
    }

    /// A whole dump, as `pg_dump` writes it.
    pub fn dump(&self) -> String {
        let answer = self.program("pg_dump").arg(self.url()).env("PGPASSWORD", PASSWORD).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Ends it as a restart of the machine's service does (`INT`, every connection is cut) or harder (`QUIT`, `KILL`).
    pub fn stop(&mut self, signal: &str) {
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }

    /// Starts it again at the same place.
    pub fn start_again(&mut self) {
        // Processes of one that was killed may still hold its memory for a moment.
        let started = (0..50).any(|_| {
            let started = self.begin();
            if !started {
                std::thread::sleep(Duration::from_millis(100));
            }
            started
        });
        assert!(started, "PostgreSQL did not start again: {:#?}", self.log.lock().unwrap());
    }

    fn begin(&mut self) -> bool {
        let folder = self.folder.path();
        let mut child = self
            .program("postgres")
            .arg("-D")
            .arg(folder.join("data"))
            .arg("-k")
            .arg(folder)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            // A test has few connections, and starts one after another.
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=60"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        self.child = Some(child);
        let (ready, readiness) = mpsc::channel();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in lines {
                let accepting = line.contains("ready to accept connections");
                log.lock().unwrap().push(line);
                if accepting {
                    let _ = ready.send(());
                }
            }
        });
        // Its standard error ended before it was ready: it did not start.
        let started = readiness.recv_timeout(DEADLINE).is_ok();
        if !started {
            self.stop("QUIT");
        }
        started
    }

    /// One of its programs, as a user that may run a server: root may not.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        if let Some((user, group)) = user() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop("QUIT");
        if std::thread::panicking() {
            eprintln!(
                "--- log of PostgreSQL ---\n{}",
                self.log.lock().map_or_else(|_| String::new(), |log| log.join("\n"))
            );
        }
    }
}

/// Debian's folder of them.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.retain(|programs| programs.join("postgres").exists());
    found.sort();
    found.pop()
}

/// The user `postgres`, when this is root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("postgres:")).expect("there is no user postgres");
    let mut fields = user.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn own(path: &Path) {
    if let Some((user, group)) = user() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}
