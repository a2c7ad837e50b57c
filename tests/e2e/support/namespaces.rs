//! Networks of a test's own: named network namespaces joined by pairs of interfaces. They are gone with the test, and the
//! host's own namespace never sees any of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Proxy, Root, SECRET, binary, skip, tool};

/// The uid that Countersign has in these tests, as in its image.
pub const PROXY_UID: u32 = 65532;

/// The uid of whoever calls, unaware of any proxy.
pub const USER_UID: u32 = 1000;

/// Nothing, and a reason to skip, unless this is root on a machine that makes namespaces and has these programs too.
pub fn possible(test: &str, programs: &[&str]) -> Option<()> {
    for program in ["ip", "nsenter", "setpriv", "curl"].iter().chain(programs) {
        tool(test, program)?;
    }
    if !rustix::process::getuid().is_root() {
        return skip(test, "network namespaces are made by root");
    }
    let probe = fresh("probe");
    let made = Command::new("ip").args(["netns", "add", &probe]).stderr(Stdio::null()).status().unwrap().success();
    if !made {
        return skip(test, "this machine makes no network namespaces");
    }
    drop(Namespace { name: probe });
    Some(())
}

/// A name that no other test, and no other run of this one, has.
fn fresh(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("cs-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A network namespace with its loopback interface up.
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn new(what: &str) -> Self {
        let namespace = Self { name: fresh(what) };
        let status = Command::new("ip").args(["netns", "add", &namespace.name]).status().unwrap();
        assert!(status.success(), "no namespace {what}");
        namespace.run("ip link set lo up");
        namespace
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command inside, as root.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// A command inside, as this uid, with no capability but these (`+net_admin`).
    pub fn command_as(&self, uid: u32, capabilities: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
        if !capabilities.is_empty() {
            command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a script inside as root; it has to succeed. What it printed.
    pub fn run(&self, script: &str) -> String {
        let output = self.command("sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Does something inside, on a thread of its own: what it opens stays a socket of this namespace.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        use std::os::fd::AsFd;
        let file = std::fs::File::open(self.path()).unwrap();
        let entered = || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(entered).join().unwrap())
    }

    /// A listening socket inside, for [`super::Origin::on`].
    pub fn listen(&self, address: &str) -> TcpListener {
        self.inside(|| TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
    }

    /// Countersign inside, as [`PROXY_UID`] with these capabilities, trusting the origins of this root.
    pub fn countersign(&self, config: &str, capabilities: &str, root: &Root) -> Proxy {
        use std::os::unix::fs::{PermissionsExt, chown};
        let folder = tempfile::tempdir().unwrap();
        // A checkout may lie where this uid cannot look.
        let reachable = self.command_as(PROXY_UID, "", "test").arg("-x").arg(binary()).status().unwrap().success();
        let program = if reachable { binary() } else { folder.path().join("countersign") };
        if !reachable {
            std::fs::copy(binary(), &program).unwrap();
        }
        let mut command = self.command_as(PROXY_UID, capabilities, program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent");
        Proxy::start_command(command, folder, config, &[("SECRET", SECRET), ("TOKEN", "t0ken")], |folder| {
            std::fs::write(folder.join("origin.pem"), root.pem()).unwrap();
            chown(folder, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        })
    }

    /// curl inside, as this uid, unaware of any proxy: it trusts the roots in `trusted`, and is told the addresses of names
    /// (`name:port:address`). Its standard output, or what it complained of.
    pub fn curl(&self, uid: u32, trusted: &str, names: &[&str], arguments: &[&str]) -> Result<String, String> {
        use std::os::unix::fs::PermissionsExt;
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(roots.path(), trusted).unwrap();
        std::fs::set_permissions(roots.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut command = self.command_as(uid, "", "curl");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent");
        command.args(["--silent", "--show-error", "--max-time", "30", "--cacert"]).arg(roots.path());
        command.args(names.iter().flat_map(|name| ["--resolve", name])).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Joins two namespaces by a pair of interfaces that are called `to-<other>`. In network `n` the first has 10.77.n.1 and
/// fd77:n::1, the second 10.77.n.2 and fd77:n::2.
pub fn join(one: (&Namespace, &str), two: (&Namespace, &str), n: u8) {
    let (to_one, to_two) = (format!("to-{}", one.1), format!("to-{}", two.1));
    // Made where it is wanted, it never appears in the host.
    one.0.run(&format!("ip link add {to_two} type veth peer name {to_one} netns {}", two.0.name));
    for (namespace, interface, own) in [(one.0, &to_two, 1), (two.0, &to_one, 2)] {
        namespace.run(&format!(
            "ip link set {interface} up
             ip -4 addr add 10.77.{n}.{own}/24 dev {interface}
             ip -6 addr add fd77:{n}::{own}/64 dev {interface} nodad"
        ));
    }
}

/// Everything that is not next to it, a namespace finds by this address, `10.77.n.m` and `fd77:n::m`.
pub fn default_route(namespace: &Namespace, n: u8, m: u8) {
    namespace.run(&format!("ip -4 route add default via 10.77.{n}.{m}; ip -6 route add default via fd77:{n}::{m}"));
}
