//! A role to assume, and the rules that its parts follow.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>

use std::collections::BTreeSet;
use std::time::Duration;

/// What STS gives when it is not asked for another, and the most for a role that is assumed from another role.
pub const DEFAULT_DURATION: Duration = Duration::from_secs(3600);

/// A role and what its session is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// `arn:aws:iam::123456789012:role/name`.
    pub role_arn: String,
    /// What CloudTrail calls the session.
    pub session_name: String,
    /// What the role's owner asks of third parties. Not to be repeated in errors.
    pub external_id: Option<String>,
    /// A session policy, which takes rights away: an IAM policy document.
    pub policy: Option<String>,
    /// Managed policies that do the same.
    pub policy_arns: Vec<String>,
    /// Session tags.
    pub tags: Vec<(String, String)>,
    /// Keys of those tags that stay when the session assumes a further role.
    pub transitive_tag_keys: Vec<String>,
    /// Who is behind the session, for every session that follows.
    pub source_identity: Option<String>,
    /// How long the session is to live.
    pub duration: Duration,
}

/// Why a role cannot be assumed: the key, and what is wrong with it.
type Fault = (&'static str, String);

impl Role {
    /// A role with nothing but its ARN and the name of its session.
    pub fn new(role_arn: impl Into<String>, session_name: impl Into<String>) -> Self {
        Self {
            role_arn: role_arn.into(),
            session_name: session_name.into(),
            external_id: None,
            policy: None,
            policy_arns: Vec::new(),
            tags: Vec::new(),
            transitive_tag_keys: Vec::new(),
            source_identity: None,
            duration: DEFAULT_DURATION,
        }
    }

    /// The same role in another account.
    #[must_use]
    pub fn in_account(&self, account: &str) -> Self {
        let mut parts: Vec<&str> = self.role_arn.splitn(6, ':').collect();
        if let Some(place) = parts.get_mut(4) {
            *place = account;
        }
        Self { role_arn: parts.join(":"), ..self.clone() }
    }

    /// Whether STS can accept it at all.
    ///
    /// # Errors
    /// The key that is wrong (`role_arn`, `session_name`, `external_id`, `max_minutes`, `policy`, `policy_arns`, `tags`,
    /// `transitive_tag_keys`, `source_identity`), and the rule.
    pub fn check(&self) -> Result<(), Fault> {
        self.check_arn()?;
        self.check_names()?;
        let seconds = self.duration.as_secs();
        if !(900..=43200).contains(&seconds) {
            return fault("max_minutes", "a session of a role lasts 15 minutes at least and 720 (12 h) at most");
        }
        self.check_policies()?;
        self.check_tags()
    }

    fn check_arn(&self) -> Result<(), Fault> {
        let arn = &self.role_arn;
        if !(20..=2048).contains(&arn.len()) {
            return fault("role_arn", "an ARN has 20 to 2048 characters");
        }
        if arn.starts_with("arn:") && arn.contains(":assumed-role/") {
            return fault("role_arn", "this is the ARN of a session; write the role's own, arn:aws:iam::…:role/NAME");
        }
        match iam_name(arn, "role/", |account| account.len() == 12 && digits(account)) {
            Some(name) if !name.is_empty() && word(name, "+=,.@-") => Ok(()),
            _ => fault("role_arn", "write arn:aws:iam::123456789012:role/NAME, the account having 12 digits"),
        }
    }

    fn check_names(&self) -> Result<(), Fault> {
        let named = |key: &'static str, value: &str, longest: usize, others: &str| {
            if (2..=longest).contains(&value.len()) && word(value, others) {
                return Ok(());
            }
            fault(key, format!("2 to {longest} letters, digits and any of _{others}"))
        };
        named("session_name", &self.session_name, 64, "+=,.@-")?;
        if let Some(id) = &self.external_id {
            named("external_id", id, 1224, "+=,.@:/-")?;
        }
        if let Some(identity) = &self.source_identity {
            if identity.starts_with("aws:") {
                return fault("source_identity", "names that begin with `aws:` are reserved");
            }
            named("source_identity", identity, 64, "+=,.@-")?;
        }
        Ok(())
    }

    fn check_policies(&self) -> Result<(), Fault> {
        if let Some(policy) = &self.policy {
            let fits = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{ff}');
            if !(1..=2048).contains(&policy.chars().count()) || !policy.chars().all(fits) {
                return fault("policy", "a session policy has 1 to 2048 characters, none beyond U+00FF");
            }
            if !serde_json::from_str(policy).is_ok_and(|value: serde_json::Value| value.is_object()) {
                return fault("policy", "a session policy is a JSON object");
            }
        }
        if self.policy_arns.len() > 10 {
            return fault("policy_arns", "10 at most");
        }
        let is_account = |account: &str| account == "aws" || (account.len() == 12 && digits(account));
        for arn in &self.policy_arns {
            let name = iam_name(arn, "policy/", is_account).unwrap_or_default();
            if !(20..=2048).contains(&arn.len()) || name.is_empty() || !word(name, "+=,.@-") {
                return fault(
                    "policy_arns",
                    "write arn:aws:iam::aws:policy/NAME or arn:aws:iam::123456789012:policy/NAME",
                );
            }
        }
        Ok(())
    }

    fn check_tags(&self) -> Result<(), Fault> {
        if self.tags.len() > 50 {
            return fault("tags", "50 at most");
        }
        let mut seen = BTreeSet::new();
        for (key, value) in &self.tags {
            let length = key.chars().count();
            if !(1..=128).contains(&length) || value.chars().count() > 256 {
                return fault("tags", "a tag's key has 1 to 128 characters, its value 256 at most");
            }
            if !key.chars().chain(value.chars()).all(in_tag) {
                return fault("tags", "letters, digits, spaces and any of _.:/=+-@");
            }
            if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
                return fault("tags", "keys that begin with `aws:` are reserved");
            }
            // IAM tells keys of session tags apart without their case.
            if !seen.insert(key.to_lowercase()) {
                return fault("tags", format!("`{key}` stands there twice, upper and lower case being the same"));
            }
        }
        match self.transitive_tag_keys.iter().find(|key| !self.tags.iter().any(|(tag, _)| tag == *key)) {
            Some(key) => fault("transitive_tag_keys", format!("`{}` is not among `session_tags`", key.escape_debug())),
            None => Ok(()),
        }
    }
}

fn fault<T>(key: &'static str, why: impl Into<String>) -> Result<T, Fault> {
    Err((key, why.into()))
}

/// The name at the end of `arn:PARTITION:iam::ACCOUNT:KIND/path/name`, if the rest is in order.
fn iam_name<'a>(arn: &'a str, kind: &str, is_account: impl Fn(&str) -> bool) -> Option<&'a str> {
    let mut parts = arn.splitn(6, ':');
    let (arn, partition, service, region, account, resource) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_partition =
        partition.strip_prefix("aws").is_some_and(|rest| rest.bytes().all(|b| b == b'-' || b.is_ascii_lowercase()));
    if arn != "arn" || !is_partition || service != "iam" || !region.is_empty() || !is_account(account) {
        return None;
    }
    let path = resource.strip_prefix(kind)?;
    path.bytes().all(|byte| byte.is_ascii_graphic()).then(|| path.rsplit('/').next()).flatten()
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `[\w…]*` as IAM means it: ASCII.
fn word(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || others.contains(c))
}

/// `[\p{L}\p{Z}\p{N}_.:/=+\-@]`. The standard library's letters include a few vowel signs that `\p{L}` does not; STS
/// refuses those itself.
fn in_tag(c: char) -> bool {
    c.is_alphanumeric() || "_.:/=+-@".contains(c) || (c.is_whitespace() && !c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:iam::123456789012:role/reader";

    fn role() -> Role {
        Role::new(ARN, "countersign")
    }

    fn fault_of(change: impl FnOnce(&mut Role)) -> Option<(&'static str, String)> {
        let mut role = role();
        change(&mut role);
        role.check().err()
    }

    fn key_of(change: impl FnOnce(&mut Role)) -> Option<&'static str> {
        fault_of(change).map(|(key, _)| key)
    }

    #[test]
    fn a_role_arn_has_a_partition_an_account_and_a_name() {
        let long = format!("{ARN}{}", "x".repeat(2048));
        for good in
            [ARN, "arn:aws-us-gov:iam::123456789012:role/a/path/of/it/reader", "arn:aws-iso-b:iam::123456789012:role/x"]
        {
            assert_eq!(key_of(|role| role.role_arn = good.into()), None, "{good}");
        }
        for bad in [
            "",
            "reader",
            "arn:aws:iam::12345678901:role/reader",
            "arn:aws:iam::1234567890123:role/reader",
            "arn:aws:iam::12345678901a:role/reader",
            "arn:aws:iam::123456789012:user/reader",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a b",
            "arn:aws:iam:us-east-1:123456789012:role/reader",
            "arn:AWS:iam::123456789012:role/reader",
            "arn:azure:iam::123456789012:role/reader",
            "arn:aws:s3::123456789012:role/reader",
            &long,
        ] {
            assert_eq!(key_of(|role| role.role_arn = bad.into()), Some("role_arn"), "{bad}");
        }
        let session = fault_of(|role| role.role_arn = "arn:aws:sts::123456789012:assumed-role/reader/x".into());
        assert!(session.unwrap().1.contains("the ARN of a session"));
    }

    #[test]
    fn names_have_their_length_and_their_characters() {
        for (length, good) in [(1, false), (2, true), (64, true), (65, false)] {
            let name = "n".repeat(length);
            assert_eq!(key_of(|role| role.session_name.clone_from(&name)).is_none(), good, "{length}");
            assert_eq!(key_of(|role| role.source_identity = Some(name)).is_none(), good, "{length}");
        }
        let (key, why) = fault_of(|role| role.session_name = "n".repeat(65)).unwrap();
        assert_eq!((key, why.as_str()), ("session_name", "2 to 64 letters, digits and any of _+=,.@-"));
        for (name, good) in [("a_b+c=d,e.f@g-h", true), ("a b", false), ("a:b", false), ("a/b", false), ("é1", false)]
        {
            assert_eq!(key_of(|role| role.session_name = name.into()).is_none(), good, "{name}");
        }
        for (id, good) in
            [("a:b/c", true), ("x", false), ("a b", false), (&*"x".repeat(1224), true), (&*"x".repeat(1225), false)]
        {
            let fault = fault_of(|role| role.external_id = Some(id.into()));
            assert_eq!(fault.is_none(), good, "{id}");
            assert!(fault.is_none_or(|(key, why)| key == "external_id" && !why.contains(id)));
        }
        assert_eq!(key_of(|role| role.source_identity = Some("aws:me".into())), Some("source_identity"));
    }

    #[test]
    fn a_session_lasts_a_quarter_of_an_hour_to_half_a_day() {
        for (seconds, good) in [(899, false), (900, true), (43200, true), (43201, false)] {
            let fault = key_of(|role| role.duration = Duration::from_secs(seconds));
            assert_eq!(fault, (!good).then_some("max_minutes"), "{seconds}");
        }
    }

    #[test]
    fn a_session_policy_is_a_json_object_of_limited_length() {
        let padded = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
        let policies =
            [("{}", true), ("", false), ("[]", false), ("{", false), (r#"{"a":"é"}"#, true), (r#"{"a":"€"}"#, false)];
        for (policy, good) in policies
            .map(|(text, good)| (text.to_owned(), good))
            .into_iter()
            .chain([(padded(2048), true), (padded(2049), false)])
        {
            let fault = key_of(|role| role.policy = Some(policy.clone()));
            assert_eq!(fault, (!good).then_some("policy"), "{policy}");
        }
        let arn = "arn:aws:iam::aws:policy/service-role/ReadOnlyAccess";
        assert_eq!(key_of(|role| role.policy_arns = vec![arn.into(); 10]), None);
        assert_eq!(key_of(|role| role.policy_arns = vec![arn.into(); 11]), Some("policy_arns"));
        assert_eq!(key_of(|role| role.policy_arns = vec![ARN.into()]), Some("policy_arns"));
    }

    #[test]
    fn tags_are_counted_and_spelled_as_iam_does() {
        let tags = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            key_of(|role| role.tags = pairs)
        };
        let (long, longer) = ("k".repeat(128), "k".repeat(129));
        for good in [("Größe 2", "a_b.c:d/e=f+g-h@i"), ("空", ""), (&*long, &*long.repeat(2)), ("a", "x\u{a0}y")] {
            assert_eq!(tags(&[good]), None, "{good:?}");
        }
        for bad in [
            ("", "v"),
            (&*longer, ""),
            ("k", &*format!("{}x", long.repeat(2))),
            ("k!", ""),
            ("k", "a\nb"),
            ("AWS:k", ""),
        ] {
            assert_eq!(tags(&[bad]), Some("tags"), "{bad:?}");
        }
        assert_eq!(tags(&[("Team", "a"), ("team", "b")]), Some("tags"));
        let many = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new())).collect::<Vec<_>>();
        assert_eq!(key_of(|role| role.tags = many(50)), None);
        assert_eq!(key_of(|role| role.tags = many(51)), Some("tags"));
        let transitive = |key: &str| {
            key_of(|role| {
                role.tags = many(1);
                role.transitive_tag_keys = vec![key.into()];
            })
        };
        assert_eq!(transitive("k0"), None);
        assert_eq!(transitive("k1"), Some("transitive_tag_keys"));
    }

    #[test]
    fn another_account_has_the_same_role() {
        let other =
            Role { role_arn: "arn:aws:iam::123456789012:role/a:b/reader".into(), ..role() }.in_account("210987654321");
        assert_eq!(other.role_arn, "arn:aws:iam::210987654321:role/a:b/reader");
        assert_eq!(Role { role_arn: "none".into(), ..role() }.in_account("1").role_arn, "none");
    }
}
