//! Hosts of which only a part is known, as a policy template tells them: `ec2.{region}.amazonaws.com`.

use std::fmt;

use super::matcher::HostPattern;
use crate::base::{Destination, Host};

/// How few literal labels make a pattern: a wildcard over less would be over everybody's hosts.
const FEWEST_LABELS: usize = 2;

/// A host with holes in braces, with or without a port. A hole that is the whole first label stands for one or more
/// labels, as `*.` does; one that is the whole host for any host; every other for one or more characters within its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostShape {
    text: Box<str>,
    form: Form,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Any,
    Exact(Host),
    Labels {
        /// More labels stand before these.
        open: bool,
        /// From the last to the first.
        labels: Vec<Label>,
    },
}

/// What is known of a label: the texts between its holes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label(Vec<Box<str>>);

impl Label {
    fn exact(text: &str) -> Self {
        Self(vec![text.into()])
    }

    /// Whether some label may be meant by both: their ends do not exclude each other.
    fn meets(&self, other: &Self) -> bool {
        if let Some(text) = self.literal() {
            return other.fits(text);
        }
        if let Some(text) = other.literal() {
            return self.fits(text);
        }
        let ends = |label: &Self| label.0.first().cloned().zip(label.0.last().cloned()).unwrap_or_default();
        let ((front, back), (others_front, others_back)) = (ends(self), ends(other));
        (front.starts_with(&*others_front) || others_front.starts_with(&*front))
            && (back.ends_with(&*others_back) || others_back.ends_with(&*back))
    }

    /// The label itself, if nothing of it is open.
    fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [text] => Some(text),
            _ => None,
        }
    }

    /// Whether nothing of it is known.
    fn is_hole(&self) -> bool {
        self.0.len() > 1 && self.0.iter().all(|text| text.is_empty())
    }

    fn fits(&self, label: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else { return self.literal() == Some(label) };
        let between = label.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last));
        let Some(mut rest) = between else { return false };
        for text in middle {
            // Each hole takes one character at least, and as few as it can, which leaves most to the others.
            let found = rest.char_indices().skip(1).find(|(at, _)| rest[*at..].starts_with(&**text));
            let Some((at, _)) = found else { return false };
            rest = &rest[at + text.len()..];
        }
        !rest.is_empty()
    }
}

impl HostShape {
    /// Parses a host with or without holes.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains(['{', '}']) {
            let pattern = HostPattern::parse(text)?;
            if pattern.wildcard {
                return Err(format!("`{text}`: what is not known stands in braces here: `{{name}}.{}`", pattern.host));
            }
            return Ok(Self { text: pattern.to_string().into(), form: Form::Exact(pattern.host), port: pattern.port });
        }
        let mut reading = Reading::default();
        reading.read(text).map_err(|why| format!("`{text}`: {why}"))?;
        reading.finish().map_err(|why| format!("`{text}`: {why}"))
    }

    /// Whether it means this destination. Without a port it means any port.
    pub fn matches(&self, destination: &Destination) -> bool {
        self.port.is_none_or(|port| port == destination.port())
            && match &self.form {
                Form::Any => true,
                Form::Exact(host) => host == destination.host(),
                Form::Labels { open, labels } => {
                    destination.host().name().is_some_and(|name| fits(name, *open, labels))
                }
            }
    }

    /// Everything that a pattern means.
    pub fn of(pattern: &HostPattern) -> Self {
        let text: Box<str> = match pattern.domain() {
            Some(_) => pattern.to_string().replacen('*', "{host}", 1).into(),
            None => pattern.to_string().into(),
        };
        let form = match pattern.domain() {
            Some(domain) => Form::Labels { open: true, labels: domain.rsplit('.').map(Label::exact).collect() },
            None => Form::Exact(pattern.host.clone()),
        };
        Self { text, form, port: pattern.port }
    }

    /// Whether it means all that its pattern does.
    pub fn is_its_pattern(&self) -> bool {
        match &self.form {
            Form::Any => false,
            Form::Exact(_) => true,
            Form::Labels { open, labels } => *open && labels.iter().all(|label| label.literal().is_some()),
        }
    }

    /// Whether some destination may be meant by both.
    pub fn meets(&self, other: &Self) -> bool {
        if self.port.zip(other.port).is_some_and(|(one, two)| one != two) {
            return false;
        }
        match (&self.form, &other.form) {
            (Form::Any, _) | (_, Form::Any) => true,
            (Form::Exact(one), Form::Exact(two)) => one == two,
            (Form::Exact(host), Form::Labels { open, labels }) | (Form::Labels { open, labels }, Form::Exact(host)) => {
                host.name().is_some_and(|name| fits(name, *open, labels))
            }
            (Form::Labels { open, labels }, Form::Labels { open: others_open, labels: others }) => {
                labels.iter().zip(others).all(|(one, two)| one.meets(two))
                    && match (open, others_open) {
                        (false, false) => labels.len() == others.len(),
                        (true, true) => true,
                        (true, false) => labels.len() < others.len(),
                        (false, true) => others.len() < labels.len(),
                    }
            }
        }
    }

    /// Whether it is one hole and tells nothing.
    pub fn is_any(&self) -> bool {
        self.form == Form::Any
    }

    /// The host, if nothing of it is open.
    pub fn exact(&self) -> Option<&Host> {
        match &self.form {
            Form::Exact(host) => Some(host),
            Form::Any | Form::Labels { .. } => None,
        }
    }

    /// The port, if it tells one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The narrowest pattern that covers it; none where that would be too wide: fewer than two labels are known at its end.
    pub fn pattern(&self) -> Option<HostPattern> {
        let (wildcard, host) = match &self.form {
            Form::Any => return None,
            Form::Exact(host) => (false, host.clone()),
            Form::Labels { labels, .. } => {
                let mut known: Vec<&str> = labels.iter().map_while(Label::literal).collect();
                if known.len() < FEWEST_LABELS {
                    return None;
                }
                known.reverse();
                (true, Host::Name(known.join(".").into()))
            }
        };
        Some(HostPattern { wildcard, host, port: self.port })
    }

    /// Whether some host is meant by both, at whatever port.
    pub fn overlaps(&self, pattern: &HostPattern) -> bool {
        let (open, labels) = match &self.form {
            Form::Any => return true,
            Form::Exact(host) => return pattern.matches_host(host),
            Form::Labels { open, labels } => (*open, labels),
        };
        let Some(name) = pattern.host.name() else { return false };
        if !pattern.wildcard {
            return fits(name, open, labels);
        }
        let domain = name.rsplit('.').count();
        labels.iter().zip(name.rsplit('.')).all(|(label, known)| label.fits(known)) && (open || labels.len() > domain)
    }

    /// Whether every host that it means is meant by the pattern too, at whatever port.
    pub fn is_within(&self, pattern: &HostPattern) -> bool {
        match &self.form {
            Form::Any => false,
            Form::Exact(host) => pattern.matches_host(host),
            Form::Labels { open, labels } => {
                let Some(domain) = pattern.domain() else { return false };
                let count = domain.rsplit('.').count();
                labels.len() + usize::from(*open) > count
                    && labels.iter().zip(domain.rsplit('.')).all(|(label, known)| label.literal() == Some(known))
            }
        }
    }
}

impl fmt::Display for HostShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn fits(name: &str, open: bool, labels: &[Label]) -> bool {
    let mut rest = Some(name);
    for label in labels {
        let Some(text) = rest else { return false };
        let (front, last) = text.rsplit_once('.').map_or((None, text), |(front, last)| (Some(front), last));
        if !label.fits(last) {
            return false;
        }
        rest = front;
    }
    rest.is_some() == open
}

/// A host with holes while it is read.
#[derive(Default)]
struct Reading {
    text: String,
    /// Each label's texts, from the first label to the last.
    labels: Vec<Vec<String>>,
    label: Vec<String>,
    /// What stands after the colon.
    port: Option<String>,
}

impl Reading {
    fn read(&mut self, text: &str) -> Result<(), String> {
        self.label = vec![String::new()];
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if next == '{' {
                let end = rest.find('}').ok_or("a brace is not closed")?;
                self.hole(&rest[..=end])?;
                rest = &rest[end + 1..];
            } else {
                self.literal(next.to_ascii_lowercase())?;
                rest = &rest[next.len_utf8()..];
            }
        }
        Ok(())
    }

    fn hole(&mut self, hole: &str) -> Result<(), String> {
        let name = &hole[1..hole.len() - 1];
        if name.is_empty() || name.contains(|c: char| c == '{' || c.is_control()) {
            return Err("braces hold a name: `{region}`".into());
        }
        self.text.push_str(hole);
        match &mut self.port {
            // A port that is not known is any port.
            Some(port) if port.is_empty() => port.push('{'),
            Some(_) => return Err("a port is a number, or one name in braces".into()),
            // Two holes side by side are one.
            None if self.label.len() > 1 && self.label.last().is_some_and(String::is_empty) => {}
            None => self.label.push(String::new()),
        }
        Ok(())
    }

    fn literal(&mut self, next: char) -> Result<(), String> {
        self.text.push(next);
        match (&mut self.port, next) {
            (Some(port), '0'..='9') => port.push(next),
            (Some(_), _) => return Err("a port is a number, or one name in braces".into()),
            (None, ':') => self.port = Some(String::new()),
            (None, '.') => self.labels.push(std::mem::replace(&mut self.label, vec![String::new()])),
            (None, 'a'..='z' | '0'..='9' | '-' | '_') => {
                self.label.last_mut().into_iter().for_each(|text| text.push(next));
            }
            (None, other) => return Err(format!("`{}` stands in no host name", other.escape_default())),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<HostShape, String> {
        let port = match self.port.as_deref() {
            None | Some("{") => None,
            Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0).ok_or("its port is none")?),
        };
        // One dot at the end is the root of the DNS.
        if self.label != [""] || self.labels.is_empty() {
            self.labels.push(self.label);
        }
        let boxed = |texts: Vec<String>| Label(texts.into_iter().map(Into::into).collect());
        let mut labels: Vec<Label> = self.labels.into_iter().map(boxed).collect();
        if labels.iter().any(|label| label.literal() == Some("")) {
            return Err("an empty label".into());
        }
        if labels.iter().any(|label| label.0.iter().map(|text| text.len()).sum::<usize>() > 63) || self.text.len() > 512
        {
            return Err("it is too long for the DNS".into());
        }
        if labels.last().and_then(Label::literal).is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err("an address has no holes".into());
        }
        let text = self.text.into();
        if let [only] = &labels[..]
            && only.is_hole()
        {
            return Ok(HostShape { text, form: Form::Any, port });
        }
        let open = labels.first().is_some_and(Label::is_hole);
        labels.reverse();
        labels.truncate(labels.len() - usize::from(open));
        Ok(HostShape { text, form: Form::Labels { open, labels }, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Protocol;

    fn shape(text: &str) -> HostShape {
        HostShape::parse(text).unwrap()
    }

    fn matches(text: &str, authority: &str) -> bool {
        shape(text).matches(&Destination::from_authority(Protocol::Https, authority).unwrap())
    }

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn a_hole_stands_for_characters_of_one_label_and_a_whole_first_label_for_one_or_more() {
        for (text, hosts, others) in [
            (
                "ec2.{region}.amazonaws.com",
                &["ec2.us-east-1.amazonaws.com", "ec2.x.amazonaws.com:8443"][..],
                &["ec2.amazonaws.com", "ec2.a.b.amazonaws.com", "s3.us-east-1.amazonaws.com", "x.ec2.us.amazonaws.com"]
                    [..],
            ),
            (
                "{bucket}.s3.amazonaws.com",
                &["b.s3.amazonaws.com", "my.bucket.s3.amazonaws.com"],
                &["s3.amazonaws.com", "bs3.amazonaws.com", "b.s3.amazonaws.com.evil.test"],
            ),
            (
                "s3-{region}.amazonaws.com",
                &["s3-us-east-1.amazonaws.com"],
                &["s3-.amazonaws.com", "s3.amazonaws.com", "s3-a.b.amazonaws.com", "xs3-a.amazonaws.com"],
            ),
            ("a{x}b{y}c.test", &["a1b2c.test", "abbbc.test", "a1b1b2c.test"], &["abc.test", "abbc.test", "a1bc.test"]),
            ("{a}{b}.x.test", &["q.x.test", "q.r.x.test"], &["x.test"]),
            ("{a}-{b}.x.test", &["q-r.x.test"], &["q.x.test", "q-.x.test", "n.q-r.x.test"]),
            ("api.{domain}", &["api.test"], &["api.example.com", "api"]),
            ("{host}", &["a.test", "10.0.0.1", "[::1]:9"], &[]),
            ("{host}:8443", &["a.test:8443"], &["a.test", "a.test:8444"]),
            ("{x}.a.test:{port}", &["q.a.test", "q.a.test:9"], &["a.test:9"]),
            ("API.Example.com.", &["api.example.com"], &["example.com"]),
            ("{A}.Example.com.", &["x.example.com"], &["example.com"]),
            ("10.0.0.1:80", &["10.0.0.1:80"], &["10.0.0.1", "10.0.0.2:80"]),
            ("10.0.0.{n}", &[], &["10.0.0.1"]),
        ] {
            for host in hosts {
                assert!(matches(text, host), "{text} {host}");
            }
            for host in others {
                assert!(!matches(text, host), "{text} {host}");
            }
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "{",
            "}",
            "a}.test",
            "{}.test",
            "{a{b}.test",
            "*.{a}.test",
            "*.a.test",
            "https://{a}.test",
            "{a}.test/x",
            "{a}..test",
            ".{a}.test",
            "{a}.test:",
            "{a}.test:0",
            "{a}.test:99999",
            "{a}.test:8{b}",
            "{a}.test:{b}{c}",
            "u@{a}.test",
            "{a}.tést",
            "{a}.0.0.1",
            "{a} .test",
        ] {
            let refused = HostShape::parse(text);
            assert!(refused.is_err(), "{text} {refused:?}");
        }
    }

    #[test]
    fn its_pattern_is_the_narrowest_that_covers_it() {
        for (text, expected) in [
            ("ec2.{region}.amazonaws.com", Some("*.amazonaws.com")),
            ("{bucket}.s3.amazonaws.com", Some("*.s3.amazonaws.com")),
            ("s3-{region}.amazonaws.com:443", Some("*.amazonaws.com:443")),
            ("api.{a}.{b}.example.com", Some("*.example.com")),
            ("api.example.com", Some("api.example.com")),
            ("{x}.com", None),
            ("api.example.{tld}", None),
            ("{host}", None),
            ("{a}.{b}", None),
        ] {
            assert_eq!(shape(text).pattern(), expected.map(pattern), "{text}");
        }
    }

    #[test]
    fn it_is_shown_as_it_is_read() {
        for (text, shown) in [
            ("EC2.{Region}.amazonaws.com", "ec2.{Region}.amazonaws.com"),
            ("{host}", "{host}"),
            ("A.test:443", "a.test:443"),
        ] {
            assert_eq!(shape(text).to_string(), shown);
            assert_eq!(shape(shown), shape(text));
        }
    }

    #[test]
    fn it_overlaps_a_pattern_where_some_host_is_meant_by_both_and_is_within_it_where_all_are() {
        for (text, other, overlaps, within) in [
            ("ec2.{region}.amazonaws.com", "*.amazonaws.com", true, true),
            ("ec2.{region}.amazonaws.com", "*.us-east-1.amazonaws.com", true, false),
            ("ec2.{region}.amazonaws.com", "ec2.us-east-1.amazonaws.com", true, false),
            ("ec2.{region}.amazonaws.com", "s3.us-east-1.amazonaws.com", false, false),
            ("ec2.{region}.amazonaws.com", "*.x.us-east-1.amazonaws.com", false, false),
            ("ec2.{region}.amazonaws.com", "*.googleapis.com", false, false),
            ("ec2.{region}.amazonaws.com", "10.0.0.1", false, false),
            ("{bucket}.s3.amazonaws.com", "*.s3.amazonaws.com", true, true),
            ("{bucket}.s3.amazonaws.com", "*.b.s3.amazonaws.com", true, false),
            ("{bucket}.s3.amazonaws.com", "s3.amazonaws.com", false, false),
            ("api.example.com", "*.example.com", true, true),
            ("api.example.com", "api.example.com", true, true),
            ("api.example.com", "*.api.example.com", false, false),
            ("{host}", "api.example.com", true, false),
        ] {
            assert_eq!(shape(text).overlaps(&pattern(other)), overlaps, "{text} {other}");
            assert_eq!(shape(text).is_within(&pattern(other)), within, "{text} {other}");
        }
    }

    #[test]
    fn two_shapes_meet_where_some_host_may_be_meant_by_both() {
        let meet = |one: &str, two: &str| {
            let (one, two) = (shape(one), shape(two));
            assert_eq!(one.meets(&two), two.meets(&one), "{one} {two}");
            one.meets(&two)
        };
        for (one, two) in [
            ("ec2.{region}.amazonaws.com", "ec2.{r}.amazonaws.com"),
            ("ec2.{region}.amazonaws.com", "{service}.us-east-1.amazonaws.com"),
            ("ec2.{region}.amazonaws.com", "ec2.us-east-1.amazonaws.com:443"),
            ("s3-{region}.amazonaws.com", "s3{x}-1.amazonaws.com"),
            ("{bucket}.s3.amazonaws.com", "{x}.amazonaws.com"),
            ("a.test", "a.test"),
            ("{host}", "a.test"),
        ] {
            assert!(meet(one, two), "{one} {two}");
        }
        for (one, two) in [
            ("ec2.{region}.amazonaws.com", "s3.{region}.amazonaws.com"),
            ("ec2.{region}.amazonaws.com", "{bucket}.s3.amazonaws.com.cn"),
            ("ec2.{region}.amazonaws.com", "{x}.ec2.us-east-1.amazonaws.com"),
            ("s3-{region}.amazonaws.com", "ec2-{region}.amazonaws.com"),
            ("{a}-x.amazonaws.com", "{a}-y.amazonaws.com"),
            ("{x}.a.test:1", "{x}.a.test:2"),
            ("a.test", "b.test"),
            ("{host}.a.test", "a.test"),
        ] {
            assert!(!meet(one, two), "{one} {two}");
        }
        for text in ["*.a.test:443", "a.test", "10.0.0.1:1"] {
            let of = HostShape::of(&pattern(text));
            assert_eq!((of.pattern(), of.is_its_pattern()), (Some(pattern(text)), true));
            assert_eq!(HostShape::parse(&of.to_string()), Ok(of));
        }
        assert!(!shape("ec2.{region}.amazonaws.com").is_its_pattern() && !shape("{host}").is_its_pattern());
    }

    /// Small numbers from a seed: the same ones in every run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % end
        }

        fn text(&mut self, alphabet: &[&str], longest: usize) -> String {
            let length = 1 + self.below(longest);
            (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
        }
    }

    #[test]
    fn what_a_shape_matches_its_pattern_matches_too_and_filling_its_holes_gives_what_it_matches() {
        let mut numbers = Numbers(7);
        let mut seen = 0;
        for _ in 0..20_000 {
            let text = numbers.text(&["a", "b", ".", ".", "-x", "{h}", "{i}", "{", "}", ":8", "*"], 9);
            let Ok(shape) = HostShape::parse(&text) else { continue };
            assert_eq!(HostShape::parse(&shape.to_string()).unwrap(), shape, "{text}");
            let filled = text.replace("{h}", &numbers.text(&["a", "b", "3"], 3)).replace("{i}", "ab");
            let Ok(destination) = Destination::from_authority(Protocol::Https, &filled) else { continue };
            assert!(shape.matches(&destination), "{text} {filled}");
            if let Some(pattern) = shape.pattern() {
                assert!(pattern.matches(&destination), "{text} {filled} {pattern}");
                assert!(shape.overlaps(&pattern) && shape.is_within(&pattern), "{text} {pattern}");
            }
            seen += 1;
        }
        assert!(seen > 1_000, "{seen}");
    }
}
