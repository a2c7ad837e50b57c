//! One line of the record: how it is written, and how it is read again.
//!
//! A line is a JSON object whose last member is `hash`: the SHA-256 of every byte of the line before `,"hash":`. Among them is
//! `previous`, the hash of the line before, so that no byte of a chain changes without being seen.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::AuditEvent;
use crate::base::text::hex;

/// The first line of a chain has this for the line before.
pub(super) const NOTHING: [u8; 32] = [0; 32];

/// The first line of a process, and its last.
pub(super) const START: &str = "process.start";
pub(super) const END: &str = "process.end";

/// A fact is cut after so many characters: part of it may be what a stranger wrote.
const LONGEST_FACT: usize = 1024;

const BEFORE_HASH: &str = ",\"hash\":\"";
const AFTER_HASH: &str = "\"}";

/// Facts by their names, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts(pub Vec<(String, String)>);

impl Facts {
    /// The fact of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Facts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("facts by their names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Facts, A::Error> {
                let mut facts = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    facts.push(entry);
                }
                Ok(Facts(facts))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A line of the record, read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When, RFC 3339 in UTC, to the millisecond.
    pub time: String,
    /// The process that wrote it: random, new at each start.
    pub process: String,
    /// Its number in that process's chain, from 1.
    pub number: u64,
    /// What happened.
    pub action: String,
    /// The account it happened in, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// `ok`, or the code of the refusal.
    pub outcome: String,
    /// Further facts.
    #[serde(default)]
    pub facts: Facts,
    /// The hash of the line before, in hexadecimal.
    pub previous: String,
    /// The hash of this line; empty while it is being made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// Why a line is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Its form is not that of a line.
    #[error("this is not a line of the record")]
    Form,
    /// Its hash is not that of its content.
    #[error("this line was changed: its hash is not that of its content")]
    Changed,
}

impl LineError {
    fn of(self, line: Option<Line>) -> Unread {
        Unread { error: self, line: line.map(Box::new) }
    }
}

/// A line that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Why.
    pub error: LineError,
    /// What can still be read of it.
    pub line: Option<Box<Line>>,
}

impl Line {
    /// The line of an event.
    pub(super) fn of(event: &AuditEvent, at: SystemTime, process: &str, number: u64, previous: &[u8; 32]) -> Self {
        let facts = event.facts.iter().map(|(name, value)| (name.clone().into_owned(), cut(value))).collect();
        Self {
            time: humantime::format_rfc3339_millis(at).to_string(),
            process: process.to_owned(),
            number,
            action: event.action.clone().into_owned(),
            account: Some(event.account.clone()).filter(|account| !account.is_empty()),
            subject: event.subject.as_deref().map(cut),
            actor: event.actor.as_deref().map(cut),
            outcome: event.outcome.clone().into_owned(),
            facts: Facts(facts),
            previous: hex(previous),
            hash: String::new(),
        }
    }

    /// Adds the line to the bytes, with its line end. Returns its hash.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<[u8; 32], serde_json::Error> {
        let start = out.len();
        serde_json::to_writer(&mut *out, self)?;
        // The closing brace comes after the hash.
        out.pop();
        let hash = sha256(&out[start..]);
        out.extend_from_slice(BEFORE_HASH.as_bytes());
        out.extend_from_slice(hex(&hash).as_bytes());
        out.extend_from_slice(AFTER_HASH.as_bytes());
        out.push(b'\n');
        Ok(hash)
    }

    /// Reads a line, without its line end, and holds its hash against its content.
    ///
    /// # Errors
    /// Why it is not what was written; with what can still be read of it, so that the lines after it can be judged.
    pub fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let line: Option<Self> = serde_json::from_slice(bytes).ok().filter(|line: &Self| is_digest(&line.hash));
        let Some(line) = line else { return Err(LineError::Form.of(None)) };
        let tail = format!("{BEFORE_HASH}{}{AFTER_HASH}", line.hash);
        let Some(content) = bytes.strip_suffix(tail.as_bytes()) else { return Err(LineError::Form.of(Some(line))) };
        if hex(&sha256(content)) != line.hash {
            return Err(LineError::Changed.of(Some(line)));
        }
        Ok(line)
    }

    /// When it was written.
    pub fn at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.time).ok()
    }

    /// The event it is about.
    pub fn event(&self) -> AuditEvent {
        AuditEvent {
            action: self.action.clone().into(),
            account: self.account.clone().unwrap_or_default(),
            subject: self.subject.clone(),
            actor: self.actor.clone(),
            outcome: self.outcome.clone().into(),
            facts: self.facts.0.iter().map(|(name, value)| (name.clone().into(), value.clone())).collect(),
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_FACT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line() -> Vec<u8> {
        let event = AuditEvent::new("use.denied", "default", "unbound")
            .by("runner")
            .fact("destination", "https://a.test\n\"\\")
            .fact("n", "1");
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        let mut out = Vec::new();
        Line::of(&event, at, "p", 7, &NOTHING).write(&mut out).unwrap();
        out
    }

    #[test]
    fn a_line_is_what_its_documentation_says() {
        let bytes = line();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(
            text.starts_with(r#"{"time":"2026-09-21T14:13:20.123Z","process":"p","number":7,"action":"use.denied","#)
        );
        assert_eq!(text.matches('\n').count(), 1);
        let (content, rest) = text.split_once(",\"hash\":\"").unwrap();
        let expected = digest(&SHA256, content.as_bytes());
        assert_eq!(rest, format!("{}\"}}\n", hex(expected.as_ref())));
        let read = Line::read(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read.facts.get("destination"), Some("https://a.test\n\"\\"));
        assert_eq!((read.account.as_deref(), read.subject, read.number), (Some("default"), None, 7));
    }

    #[test]
    fn no_byte_of_a_line_changes_without_being_seen() {
        let bytes = line();
        let bytes = &bytes[..bytes.len() - 1];
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.to_vec();
                changed[index] ^= 1 << bit;
                assert!(Line::read(&changed).is_err(), "{}", String::from_utf8_lossy(&changed));
            }
            assert!(Line::read(&[&bytes[..index], &bytes[index + 1..]].concat()).is_err());
            assert!(Line::read(&[&bytes[..index], b" ", &bytes[index..]].concat()).is_err());
        }
        assert!(Line::read(&[bytes, b" "].concat()).is_err());
    }

    #[test]
    fn what_a_stranger_wrote_is_cut() {
        let event = AuditEvent::new("use.denied", "", "unbound").of("é".repeat(9000)).fact("x", "y".repeat(9000));
        let line = Line::of(&event, SystemTime::UNIX_EPOCH, "p", 1, &NOTHING);
        assert_eq!(line.subject.unwrap().chars().count(), LONGEST_FACT + 1);
        assert_eq!(line.facts.get("x").unwrap().chars().count(), LONGEST_FACT + 1);
        assert_eq!(line.account, None);
    }
}
