//! The canonical request, and what is signed of it: the same text as the server makes of what it receives.
//!
//! Follows <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>. Written in one pass
//! into one text, since it is made for every request; a test compares it with the one of the `aws-sigv4` crate.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};

use crate::base::text::{decoded, hex};

/// What the canonical request is made of.
#[derive(Debug)]
pub(super) struct Canonical<'a> {
    pub(super) method: &'a str,
    /// Path and query as they go out.
    pub(super) wire: &'a str,
    /// S3 takes the path as it stands; others take it normalised and encoded once more.
    pub(super) as_it_stands: bool,
    /// Lower-case names with their values, in any order; of one name in the order in which they go out.
    pub(super) headers: Vec<(&'a str, &'a str)>,
    /// The hash of the body, or what stands for it.
    pub(super) payload: &'a str,
}

/// The parts of a signature that come of the canonical request.
pub(super) struct Hashed {
    /// SHA-256 of the canonical request, in hexadecimal.
    pub(super) hash: String,
    /// The names of the signed headers, joined by `;`.
    pub(super) signed_headers: String,
}

impl Canonical<'_> {
    /// Writes the request canonically.
    pub(super) fn text(mut self) -> (String, String) {
        // Stable: values of one name stay in their order.
        self.headers.sort_by_key(|(name, _)| *name);
        let values: usize = self.headers.iter().map(|(name, value)| 2 * name.len() + value.len() + 3).sum();
        let mut text = String::with_capacity(values + 2 * self.wire.len() + 256);
        let (path, query) = self.wire.split_once('?').unwrap_or((self.wire, ""));
        text.push_str(self.method);
        text.push('\n');
        if self.as_it_stands {
            text.push_str(path);
        } else {
            normalise(path, &mut text);
        }
        text.push('\n');
        write_query(query, &mut text);
        text.push('\n');
        let mut names = String::with_capacity(values / 2);
        let mut last = "";
        for (name, value) in &self.headers {
            if *name == last {
                // One line for all values of a name.
                text.pop();
                text.push(',');
            } else {
                text.push_str(name);
                text.push(':');
                if !names.is_empty() {
                    names.push(';');
                }
                names.push_str(name);
            }
            last = name;
            write_value(value, &mut text);
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&names);
        text.push('\n');
        text.push_str(self.payload);
        (text, names)
    }

    /// The hash that is signed.
    pub(super) fn hashed(self) -> Hashed {
        let (text, signed_headers) = self.text();
        Hashed { hash: hex(digest(&SHA256, text.as_bytes()).as_ref()), signed_headers }
    }
}

/// A header's value without spaces around it, and with one for several inside.
fn write_value(value: &str, text: &mut String) {
    let mut words = value.split(' ').filter(|word| !word.is_empty());
    text.extend(words.next());
    for word in words {
        text.push(' ');
        text.push_str(word);
    }
}

/// A path without empty and dot segments (RFC 3986 section 5.2.4), encoded once more.
fn normalise(path: &str, text: &mut String) {
    if !path.contains("//") && !path.contains("/.") {
        encode(path.as_bytes(), true, text);
        return;
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    for segment in &segments {
        text.push('/');
        encode(segment.as_bytes(), true, text);
    }
    let is_folder = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    if segments.is_empty() || is_folder {
        text.push('/');
    }
}

/// The pairs of a query, decoded and encoded as AWS does, sorted by name and then by value.
fn write_query(query: &str, text: &mut String) {
    if query.is_empty() {
        return;
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((recoded(name), recoded(value)));
    }
    pairs.sort_unstable();
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
}

/// A part of a query in the one encoding that is signed, whatever encoding it came in. It is read as bytes, not as text.
fn recoded(part: &str) -> String {
    let mut text = String::with_capacity(part.len() + 8);
    encode(&decoded(part), false, &mut text);
    text
}

/// RFC 3986's unreserved characters as they are, the slash where it divides a path, everything else as `%XX`.
pub(super) fn encode(bytes: &[u8], is_path: bool, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
            b'/' if is_path => text.push('/'),
            byte => {
                text.push('%');
                text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                text.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

/// A moment as signatures have it, `20260102T030405Z`; the first eight digits are the day. Years past 9999 and before 1970
/// are none that AWS takes, and come out as the nearest that is.
pub(super) fn stamp(time: SystemTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let mut digits = Vec::with_capacity(16);
    let mut push = |number: u64, width: u32| {
        digits.extend((0..width).rev().map(|place| b'0' + (number / 10_u64.pow(place) % 10) as u8));
    };
    push(year, 4);
    push(month, 2);
    push(day, 2);
    digits.push(b'T');
    for number in [hour, minute, second] {
        digits.extend([b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
    }
    digits.push(b'Z');
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn canonical(wire: &str, as_it_stands: bool, headers: &[(&'static str, &'static str)]) -> String {
        Canonical { method: "GET", wire, as_it_stands, headers: headers.to_vec(), payload: "HASH" }.text().0
    }

    #[test]
    fn the_text_is_that_of_the_page_of_aws() {
        let headers = [
            ("x-amz-date", "20130524T000000Z"),
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-meta-a", " one   two "),
            ("x-amz-meta-a", "three"),
        ];
        assert_eq!(
            canonical("/test%20file?prefix=J&max-keys=2&b", true, &headers),
            "GET\n/test%20file\nb=&max-keys=2&prefix=J\nhost:examplebucket.s3.amazonaws.com\nx-amz-date:20130524T000000Z\n\
             x-amz-meta-a:one two,three\n\nhost;x-amz-date;x-amz-meta-a\nHASH"
        );
    }

    #[test]
    fn paths_are_normalised_and_encoded_again_but_not_for_s3() {
        let path = |wire: &str| canonical(wire, false, &[]).lines().nth(1).unwrap().to_owned();
        for (wire, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a%20b:c", "/a%2520b%3Ac"),
            ("//a///b/", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/..", "/"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/.a/b.", "/.a/b."),
        ] {
            assert_eq!(path(wire), expected, "{wire}");
        }
        assert_eq!(canonical("//a/../%2f", true, &[]).lines().nth(1), Some("//a/../%2f"));
    }

    #[test]
    fn queries_are_read_as_bytes_and_sorted_in_their_encoding() {
        let query = |wire: &str| canonical(&format!("/?{wire}"), false, &[]).lines().nth(2).unwrap().to_owned();
        assert_eq!(query("b=1&a=2&a=1&a"), "a=&a=1&a=2&b=1");
        assert_eq!(query("a+b=%2b&x=%FF%c3"), "a%20b=%2B&x=%FF%C3");
        assert_eq!(query("%zz=%&=x"), "=x&%25zz=%25");
        assert_eq!(query("a=b=c&&"), "a=b%3Dc");
        assert_eq!(query("A&a%20&a-&a0"), "A=&a%20=&a-=&a0=");
    }

    #[test]
    fn moments_are_written_as_signatures_have_them() {
        let at = |seconds: u64| stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(1_369_353_600), "20130524T000000Z");
        assert_eq!(at(1_709_210_096), "20240229T123456Z");
        assert_eq!(at(4_107_542_399), "21000228T235959Z");
        assert_eq!(at(4_107_542_400), "21000301T000000Z", "no leap year");
        assert_eq!(at(253_402_300_799), "99991231T235959Z");
        assert_eq!(at(u64::MAX / 4), "99991231T235959Z");
        // Against another implementation, over a century in odd steps.
        for seconds in (0..3_200_000_000).step_by(86_311_007) {
            let other = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(at(seconds), other.to_string().replace(['-', ':'], ""), "{seconds}");
        }
    }
}
