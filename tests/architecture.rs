//! Keeps the house tidy: imports only look down, every room is listed, every file says what it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and drives the real outside"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, from the outside in. A room may import any room after it, and itself.
const ROOMS: [&str; 17] = [
    "cli", "app", "config", "inject", "api", "observe", "listen", "proxy", "policy", "route", "store", "scheme",
    "token", "source", "upstream", "sigv4", "base",
];

/// The demo's API judges what the schemes make, so it must not share their code.
const INDEPENDENT: &[&str] = &[
    "src/cli/demo/api.rs",
    "src/cli/demo/aws.rs",
    "src/cli/demo/azure.rs",
    "src/cli/demo/cases.rs",
    "src/cli/demo/digest.rs",
    "src/cli/demo/google.rs",
    "src/cli/demo/flexera.rs",
    "src/cli/demo/identity.rs",
    "src/cli/demo/jwt.rs",
    "src/cli/demo/login.rs",
    "src/cli/demo/ntlm.rs",
    "src/cli/demo/oracle.rs",
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join("src"), &mut found);
    assert!(found.len() > 30, "the sources were not found");
    found
        .into_iter()
        .map(|path| (path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The room that a file belongs to; `None` for `main.rs` and `lib.rs`.
fn room(path: &Path) -> Option<String> {
    let below = path.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    (below.components().count() > 1).then(|| first.to_owned())
}

/// The rooms that a text names as `crate::x`, groups such as `crate::{a, b::c}` included.
fn imported(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (index, _) in text.match_indices("crate::") {
        let rest = &text[index + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group[..group.find('}').unwrap_or(group.len())].split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !name.is_empty() && name.chars().next().unwrap().is_ascii_lowercase() {
                rooms.insert(name);
            }
        }
    }
    rooms
}

#[test]
fn imports_only_look_down_and_every_room_is_listed() {
    for (path, text) in sources() {
        let Some(room) = room(&path) else { continue };
        let place = ROOMS.iter().position(|listed| *listed == room);
        let place = place.unwrap_or_else(|| panic!("{} is in a room that is not listed", path.display()));
        for import in imported(&text) {
            let target = ROOMS.iter().position(|listed| *listed == import);
            let target =
                target.unwrap_or_else(|| panic!("{} imports crate::{import}, which is no room", path.display()));
            assert!(target >= place, "{} looks up: it imports crate::{import}", path.display());
        }
    }
}

#[test]
fn an_upward_import_would_be_seen() {
    assert!(imported("use crate::proxy::Proxy;").contains("proxy"));
    assert!(imported("use crate::{base, listen::Address};").contains("listen"));
    assert!(imported("fn f() -> crate::app::App {}").contains("app"));
    assert!(imported("use super::Crate;").is_empty());
}

#[test]
fn every_file_says_what_it_is_and_every_room_what_it_never_does() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not open with //!", path.display());
        if path.file_name().is_some_and(|name| name == "mod.rs") && path.components().count() == 3 {
            let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
            assert!(
                header.contains("**") && (header.contains("ever ") || header.contains("only ")),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn only_app_and_the_command_line_know_the_configuration() {
    for (path, text) in sources() {
        let allowed = room(&path).is_none_or(|room| ["app", "cli", "config"].contains(&room.as_str()));
        assert!(allowed || !imported(&text).contains("config"), "{} imports config", path.display());
    }
}

#[test]
fn the_demos_verifiers_share_no_code_with_what_they_verify() {
    for file in INDEPENDENT {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        for room in ["scheme", "token", "sigv4"] {
            assert!(!imported(&text).contains(room), "{file} imports crate::{room}");
        }
        assert!(!text.contains("aws_sigv4"), "{file} uses the library that signs");
    }
}

#[test]
fn only_the_decision_makes_permits() {
    for (path, text) in sources() {
        if !path.starts_with("src/route") {
            assert!(!text.contains("Permit::new") && !text.contains("Passage::new"), "{}", path.display());
        }
    }
}

#[test]
fn there_is_no_marked_hole_in_the_sources() {
    for (path, text) in sources() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = path.parent().unwrap();
        // A test of its own is declared by the file that it belongs to.
        let parents = [path.with_file_name("mod.rs"), folder.with_extension("rs")];
        let declares = |text: String| text.contains(&format!("#[cfg(test)]\nmod {stem};"));
        if parents.iter().any(|parent| fs::read_to_string(root.join(parent)).is_ok_and(declares)) {
            continue;
        }
        let product = text.split("#[cfg(test)]\n").next().unwrap();
        for mark in ["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore", ".unwrap()", ".expect(", "panic!("] {
            assert!(!product.contains(mark), "{} holds {mark}", path.display());
        }
    }
}
