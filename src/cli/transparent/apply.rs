//! Runs the tools: finds what is there of ours, adds it whole, takes it away whole.
//!
//! **Never leaves half.** What a failure leaves is taken back, and looked for again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::rules::{Family, Plan};
use super::steps::{Found, Place, Silent, Step, places, restore, stamp, steps};
use super::{Tool, iptables, nft, routes};

/// Where system tools are, whatever PATH an init container was given.
const USUAL: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The tools of this host.
pub(super) struct Tools {
    folders: Vec<PathBuf>,
}

impl Tools {
    /// Those that this PATH leads to, and the usual places.
    pub(super) fn new(path: Option<&str>) -> Self {
        let named = path.map(std::env::split_paths).into_iter().flatten();
        // A relative entry would make what runs as root depend on where it was started.
        let folders = named.chain(USUAL.iter().map(PathBuf::from)).filter(|folder| folder.is_absolute());
        Self { folders: folders.collect() }
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }

    /// Whether all programs of a tool are there.
    fn has(&self, tool: Tool) -> bool {
        match tool {
            Tool::Nft => self.find("nft").is_some(),
            Tool::Iptables => ["iptables-restore", "iptables-save"].iter().all(|program| self.find(program).is_some()),
        }
    }

    /// The tool to use: the one that was asked for, or the one that is there.
    pub(super) fn choose(&self, asked: Option<Tool>) -> Tool {
        asked.unwrap_or(if !self.has(Tool::Nft) && self.has(Tool::Iptables) { Tool::Iptables } else { Tool::Nft })
    }

    /// Every program of these steps is there.
    fn require<'a>(&self, programs: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        for program in programs {
            if self.find(program).is_none() {
                let package = match program {
                    "nft" => "install the package `nftables` (or `iptables`, and name it with --tool iptables)",
                    "ip" => {
                        "--tproxy needs it for its route: install the package `iproute2` (Alpine: `iproute2`, Fedora: `iproute`)"
                    }
                    _ => "install the package `iptables` (Alpine has `ip6tables` apart), or use --tool nft",
                };
                return Err(format!("there is no program `{program}`: {package}"));
            }
        }
        Ok(())
    }

    /// Runs a program, and gives what it printed.
    fn run(&self, step: &Step) -> Result<String, String> {
        let path = self.find(step.program).ok_or_else(|| format!("there is no program `{}`", step.program))?;
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", step.program);
        let path_variable = std::env::join_paths(&self.folders).unwrap_or_default();
        let mut child = spawn(&path, &step.arguments, &path_variable).map_err(|error| said(&error))?;
        if let Some(mut input) = child.stdin.take() {
            // A tool that ends without reading says why itself.
            let _ = input.write_all(step.input.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| said(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let command = std::iter::once(step.program).chain(step.arguments.iter().map(String::as_str));
        let command = command.collect::<Vec<_>>().join(" ");
        Err(format!("`{command}` failed ({}): {}", output.status, complaint.trim()))
    }

    /// Everything of ours that is there, and which programs could not tell, with the reason.
    pub(super) fn look(&self) -> Result<(Vec<Found>, Vec<Silent>), String> {
        let (mut found, mut silent, mut asked) = (Vec::new(), Vec::new(), 0);
        let mut note = |program, answer: Result<Vec<Found>, String>, silent: &mut Vec<Silent>| match answer {
            Ok(more) => {
                found.extend(more);
                asked += 1;
            }
            Err(why) => silent.push((program, why)),
        };
        // In the order in which `down` removes: first what captures.
        if self.find("nft").is_some() {
            note("nft", self.look_nft(), &mut silent);
        }
        for (family, program) in [(Family::V4, "iptables-save"), (Family::V6, "ip6tables-save")] {
            if self.find(program).is_some() {
                note(program, self.look_iptables(family, program), &mut silent);
            }
        }
        if asked == 0 {
            return Err(if silent.is_empty() {
                "there is neither `nft` nor `iptables-save`: install the package `nftables` or `iptables`".into()
            } else {
                silent.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ")
            });
        }
        if self.find("ip").is_some() {
            for family in Family::ALL {
                found.extend(self.look_routes(family)?);
            }
        }
        Ok((found, silent))
    }

    fn look_nft(&self) -> Result<Vec<Found>, String> {
        let tables = self.run(&Step::new("nft", &["list", "tables"], String::new()))?;
        let mut found = Vec::new();
        for line in tables.lines() {
            let ["table", family, nft::TABLE] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
            let text = self.run(&Step::new("nft", &["list", "table", family, nft::TABLE], String::new()))?;
            let begin = format!("chain {}", nft::STAMP);
            let stamp = text.lines().find_map(|line| line.trim().strip_prefix(&begin)?.split(' ').next());
            found.push(Found {
                place: Place::Nft(family.to_owned()),
                stamp: stamp.map(ToOwned::to_owned),
                remove: Step::new("nft", &["-f", "-"], format!("delete table {family} {}\n", nft::TABLE)),
                text,
            });
        }
        Ok(found)
    }

    fn look_iptables(&self, family: Family, program: &'static str) -> Result<Vec<Found>, String> {
        let text = match self.run(&Step::new(program, &[], String::new())) {
            // A kernel without IPv6 has none.
            Err(why) if family == Family::V6 && NO_IPV6.iter().any(|words| why.contains(words)) => String::new(),
            answer => answer?,
        };
        let mut found: Vec<Found> = iptables::saved(&text)
            .into_iter()
            .map(|saved| Found {
                place: Place::Iptables(family, saved.table),
                stamp: saved.stamp,
                text: saved.text,
                remove: Step::new(restore(family), &["--noflush", "-w", "10"], saved.removal),
            })
            .collect();
        // What closes goes last.
        found.sort_by_key(|found| found.place == Place::Iptables(family, "filter".into()));
        Ok(found)
    }

    fn look_routes(&self, family: Family) -> Result<Vec<Found>, String> {
        let ask = |arguments| match self.run(&Step::ip(arguments)) {
            // A kernel without IPv6 has none.
            Err(why) if family == Family::V6 && why.contains("not supported") => Ok(String::new()),
            answer => answer,
        };
        let (rules, listed) = (ask(routes::list_rules(family))?, ask(routes::list_routes(family))?);
        let found = |place, text: &str, remove| Found {
            place,
            stamp: None,
            text: format!("{}\n", text.trim()),
            remove: Step::ip(remove),
        };
        let rule = routes::our_rule(&rules).map(|text| found(Place::Rule(family), text, routes::delete_rule(family)));
        let route =
            routes::our_route(&listed).map(|text| found(Place::Route(family), text, routes::delete_route(family)));
        Ok(rule.into_iter().chain(route).collect())
    }

    /// Removes everything of ours, as far as it goes, and says what is gone.
    pub(super) fn down(&self) -> Result<Vec<Found>, String> {
        let _alone = alone()?;
        self.remove()
    }

    fn remove(&self) -> Result<Vec<Found>, String> {
        let (found, silent) = self.look()?;
        let failures: Vec<String> = found.iter().filter_map(|one| self.run(&one.remove).err()).collect();
        let (left, silent) = if found.is_empty() { (Vec::new(), silent) } else { self.look()? };
        if left.is_empty() && silent.is_empty() {
            return Ok(found);
        }
        let left = left.iter().map(|one| format!("this is still there: {}: {}", one.place.tool(), one.place.words()));
        let untold = silent.iter().map(|(_, why)| format!("it cannot be told what is there: {why}"));
        Err(left.chain(untold).chain(failures).collect::<Vec<_>>().join("; "))
    }

    /// Writes the rules of a plan: all or none. Whether anything had to be done.
    pub(super) fn up(&self, plan: &Plan, tool: Tool) -> Result<bool, String> {
        let _alone = alone()?;
        let stamp = stamp(plan, tool);
        let inet = steps(plan, tool, nft::Cut::Inet, &stamp);
        let listers = match tool {
            Tool::Nft => &["nft"][..],
            Tool::Iptables => &["iptables-save", "ip6tables-save"][..plan.ruled().len()],
        };
        self.require(inet.iter().map(|step| step.program).chain(listers.iter().copied()))?;
        let (found, silent) = self.look()?;
        // What cannot be looked at could not be taken back either.
        if let Some((_, why)) = silent.into_iter().find(|(program, _)| listers.contains(program)) {
            return Err(why);
        }
        if !found.is_empty() {
            return already(&found, plan, tool, &stamp);
        }
        let Err(first) = self.run_all(&inet) else { return Ok(true) };
        if tool == Tool::Nft {
            self.take_back(&first)?;
            if self.run_all(&steps(plan, tool, nft::Cut::Split, &stamp)).is_ok() {
                return Ok(true);
            }
        }
        self.take_back(&first)?;
        let hint = if plan.ipv4_only { "" } else { " (on a host without IPv6: --ipv4-only)" };
        Err(format!("{first}\nNothing was changed{hint}."))
    }

    fn run_all(&self, steps: &[Step]) -> Result<(), String> {
        steps.iter().try_for_each(|step| self.run(step).map(drop))
    }

    /// After a failure: nothing of ours stays, or it is said that it did.
    fn take_back(&self, why: &str) -> Result<(), String> {
        self.remove().map(drop).map_err(|left| {
            format!("{why}\nAnd it could not be taken back whole: {left}\nRun `countersign transparent down`.")
        })
    }
}

/// What programs say that are there where IPv6 is not.
const NO_IPV6: [&str; 2] = ["not supported", "does not exist"];

/// Two at once would take each other's rules for their own. The name is the network namespace's, as the rules are, and goes with
/// the process.
fn alone() -> Result<UnixListener, String> {
    let address = SocketAddr::from_abstract_name("countersign-transparent").map_err(|error| error.to_string())?;
    UnixListener::bind_addr(&address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => "another `countersign transparent` is at work here; wait for it to end".into(),
        _ => error.to_string(),
    })
}

/// What is there already: just this, or something else that has to go first.
fn already(found: &[Found], plan: &Plan, tool: Tool, stamp: &str) -> Result<bool, String> {
    let there: BTreeSet<Place> = found.iter().map(|one| one.place.clone()).collect();
    let wanted = [nft::Cut::Inet, nft::Cut::Split].map(|cut| places(plan, tool, cut));
    let same = found.iter().all(|one| match one.place {
        Place::Rule(_) | Place::Route(_) => true,
        _ => one.stamp.as_deref() == Some(stamp),
    });
    if same && wanted.contains(&there) {
        return Ok(false);
    }
    let there: Vec<String> = there.iter().map(|place| format!("{}: {}", place.tool(), place.words())).collect();
    Err(format!(
        "other rules of Countersign are there already ({}): look at them with `countersign transparent show`, remove them with \
         `countersign transparent down`, then run this again",
        there.join("; ")
    ))
}

fn spawn(path: &Path, arguments: &[String], path_variable: &OsStr) -> std::io::Result<std::process::Child> {
    let mut command = Command::new(path);
    // Nothing of our environment concerns them, and what they say is read in one language.
    command.args(arguments).env_clear().env("PATH", path_variable).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_there_is_named_with_its_package() {
        let none = Tools { folders: Vec::new() };
        for (program, package) in [("nft", "`nftables`"), ("ip6tables-restore", "`iptables`"), ("ip", "`iproute2`")] {
            let why = none.require([program]).unwrap_err();
            assert!(why.contains(&format!("`{program}`")) && why.contains(package), "{why}");
        }
        assert!(none.look().unwrap_err().contains("`nftables` or `iptables`"));
        assert_eq!((none.choose(None), none.choose(Some(Tool::Iptables))), (Tool::Nft, Tool::Iptables));
        let there = Tools { folders: vec!["/bin".into()] };
        assert_eq!(there.require(["sh"]), Ok(()));
    }

    #[test]
    fn programs_are_looked_for_in_no_folder_that_depends_on_where_we_stand() {
        let tools = Tools::new(Some("bin:/first:.:"));
        assert_eq!(tools.folders.iter().filter(|folder| folder.is_relative()).count(), 0);
        assert_eq!(tools.folders.first().map(PathBuf::as_path), Some(Path::new("/first")));
    }
}
