//! A real Redis, which ends with the test.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Root, tool};

/// The password of every Redis of the tests.
pub const PASSWORD: &str = "redis-canary-7f21";

/// A Redis with a password, in a folder of its own, that writes nothing down.
pub struct Redis {
    child: Child,
    folder: tempfile::TempDir,
    pub port: u16,
    tls: bool,
}

impl Redis {
    /// At a free port of 127.0.0.1, with TLS if there is a root to certify it as `localhost`.
    pub fn start(test: &str, tls: Option<&Root>) -> Option<Self> {
        tool(test, "redis-server")?;
        let folder = tempfile::tempdir().unwrap();
        if let Some(root) = tls {
            let (certificate, key) = root.leaf(&["localhost"]);
            std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
            std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
            std::fs::write(folder.path().join("ca.pem"), root.pem()).unwrap();
        }
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // It cannot choose a port itself, and a free one may be taken again before it binds it.
        let mut attempts = (0..5).filter_map(|_| {
            let port = free();
            Some((Self::launch(folder.path(), port, tls.is_some())?, port))
        });
        let (child, port) = attempts.next().expect("five free ports were taken by others");
        drop(attempts);
        Some(Self { child, folder, port, tls: tls.is_some() })
    }

    fn launch(folder: &Path, port: u16, tls: bool) -> Option<Child> {
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "", "--appendonly", "no"]);
        command.args(["--unixsocket", &file("socket"), "--dir", &folder.display().to_string()]);
        let port = port.to_string();
        if tls {
            command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
            command.args(["--tls-cert-file", &file("cert.pem"), "--tls-key-file", &file("key.pem")]);
            command.args(["--tls-ca-cert-file", &file("ca.pem")]);
        } else {
            command.args(["--port", &port]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ready = lines.by_ref().any(|line| line.contains("Ready to accept connections"));
        // What it says from here on is read away, or it stands still.
        std::thread::spawn(move || lines.for_each(drop));
        if ready {
            return Some(child);
        }
        let _ = child.wait();
        None
    }

    /// `redis://…` without user and password.
    pub fn url(&self) -> String {
        let (scheme, host) = if self.tls { ("rediss", "localhost") } else { ("redis", "127.0.0.1") };
        format!("{scheme}://{host}:{}/0", self.port)
    }

    /// Kills it: what it held is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Another one at the same port, empty.
    pub fn start_again(&mut self) {
        self.child = Self::launch(self.folder.path(), self.port, self.tls).expect("its port was taken by others");
    }

    /// A connection of the test's own.
    pub fn connection(&self) -> redis::Connection {
        let url = format!("unix://{}?pass={PASSWORD}", self.folder.path().join("socket").display());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    /// The names of everything it holds that ends like this.
    pub fn keys(&self, end: &str) -> Vec<String> {
        redis::cmd("KEYS").arg(format!("*{end}")).query(&mut self.connection()).unwrap()
    }

    /// Every name and value that it holds.
    pub fn content(&self) -> Vec<(String, Vec<u8>)> {
        let mut connection = self.connection();
        let value = |key: String| {
            let value: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
            (key, value.unwrap_or_default())
        };
        self.keys("").into_iter().map(value).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
