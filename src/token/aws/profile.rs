//! What a profile means: where its keys come from, and which roles are assumed with them.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-assume-role-credentials.html>

use std::time::Duration;

use super::keys::Keys;
use super::metadata::misconfigured;
use super::process;
use super::role::Role;
use super::shared_files::{Profile, SharedFiles};
use crate::base::Secret;
use crate::token::Failure;

/// The name of a session when nobody gave it another.
pub(super) const SESSION_NAME: &str = "countersign";

/// Where the first keys come from.
#[derive(Debug)]
pub(super) enum Base {
    /// They stand in the file.
    Keys(Keys),
    /// A program prints them.
    Process(Vec<String>),
    /// A role, for a token in a file.
    WebIdentity {
        /// The file.
        file: String,
        /// The role.
        role: Box<Role>,
    },
    /// Our environment variables.
    Environment,
    /// The container's endpoint.
    Container,
    /// The instance metadata service.
    Instance,
}

/// Keys, and the roles that are assumed with them, each with the keys of the one before.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) base: Base,
    pub(super) roles: Vec<Role>,
}

/// What a profile asks for; `None` when it asks for no keys.
///
/// # Errors
/// What in it, or in a profile that it names, must be changed.
pub(super) fn plan(files: &SharedFiles, name: &str) -> Result<Option<Plan>, Failure> {
    let mut visited: Vec<String> = Vec::new();
    let mut roles = Vec::new();
    let mut name = name.to_owned();
    let base = loop {
        let wrong = |why: String| misconfigured(format!("profile `{name}`: {why}"));
        let profile = files.profile(&name).ok_or_else(|| unknown(files, &name))?;
        // A profile may name itself: its own keys are then the source of its own role.
        let is_own_source = visited.last() == Some(&name);
        if visited.contains(&name) && !is_own_source {
            let circle = visited.join("` → `");
            return Err(wrong(format!("`source_profile` goes round in a circle: `{circle}` → `{name}`")));
        }
        // As in AWS's programs: of a profile that is a source, keys count before its role.
        let keys = if visited.is_empty() && profile.get("role_arn").is_some() {
            None
        } else {
            static_keys(profile).map_err(wrong)?
        };
        if is_own_source && keys.is_none() {
            return Err(wrong("it is its own `source_profile` and has no keys".into()));
        }
        match step(profile, keys).map_err(wrong)? {
            None if visited.is_empty() => return Ok(None),
            None => return Err(wrong("it is a `source_profile` and has no keys".into())),
            Some(Step::Base(base)) => break base,
            Some(Step::RoleOf(role, base)) => {
                roles.push(role);
                break base;
            }
            Some(Step::RoleFrom(role, source)) => {
                roles.push(role);
                visited.push(std::mem::replace(&mut name, source));
            }
        }
    };
    roles.reverse();
    Ok(Some(Plan { base, roles }))
}

/// Why a name is not enough.
pub(super) fn unknown(files: &SharedFiles, name: &str) -> Failure {
    misconfigured(format!("there is no profile `{name}`: looked for it in {}", files.places))
}

/// What one profile adds to the plan.
enum Step {
    Base(Base),
    RoleOf(Role, Base),
    RoleFrom(Role, String),
}

fn step(profile: &Profile, keys: Option<Keys>) -> Result<Option<Step>, String> {
    let token_file = profile.get("web_identity_token_file");
    if let Some(arn) = profile.get("role_arn").filter(|_| keys.is_none()) {
        let role = role(profile, arn)?;
        return match (token_file, profile.get("source_profile"), profile.get("credential_source")) {
            (Some(file), None, None) => {
                Ok(Some(Step::Base(Base::WebIdentity { file: file.to_owned(), role: Box::new(role) })))
            }
            (None, Some(source), None) => Ok(Some(Step::RoleFrom(role, source.to_owned()))),
            (None, None, Some(source)) => Ok(Some(Step::RoleOf(role, credential_source(source)?))),
            _ => Err("with `role_arn` goes one of `source_profile`, `credential_source` and `web_identity_token_file`"
                .into()),
        };
    }
    refuse_logins(profile)?;
    if let Some(keys) = keys {
        return Ok(Some(Step::Base(Base::Keys(keys))));
    }
    if let Some(line) = profile.get("credential_process") {
        return Ok(Some(Step::Base(Base::Process(process::words(line)?))));
    }
    for key in ["web_identity_token_file", "source_profile", "credential_source"] {
        if profile.get(key).is_some() {
            return Err(format!("with `{key}` goes `role_arn`"));
        }
    }
    Ok(None)
}

/// What needs a person at a browser.
fn refuse_logins(profile: &Profile) -> Result<(), String> {
    match profile.key_beginning("sso_").or_else(|| profile.key_beginning("login_session")) {
        Some(key) => Err(format!(
            "`{key}` needs a person to log in, which is not done here; let the AWS CLI do it: in another profile, write \
             `credential_process = aws configure export-credentials --profile NAME --format process`, or name a role with \
             `role_arn`"
        )),
        None => Ok(()),
    }
}

fn static_keys(profile: &Profile) -> Result<Option<Keys>, String> {
    match (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")) {
        (None, None) => Ok(None),
        (Some(id), Some(secret)) => {
            Keys::new(id, Secret::new(secret), profile.get("aws_session_token").map(Secret::new)).map(Some)
        }
        (Some(_), None) => Err("there is an `aws_access_key_id` without `aws_secret_access_key`".into()),
        (None, Some(_)) => Err("there is an `aws_secret_access_key` without `aws_access_key_id`".into()),
    }
}

fn credential_source(source: &str) -> Result<Base, String> {
    match source {
        "Environment" => Ok(Base::Environment),
        "EcsContainer" => Ok(Base::Container),
        "Ec2InstanceMetadata" => Ok(Base::Instance),
        _ => Err("`credential_source` is one of Environment, EcsContainer and Ec2InstanceMetadata".into()),
    }
}

fn role(profile: &Profile, arn: &str) -> Result<Role, String> {
    if profile.get("mfa_serial").is_some() {
        return Err(
            "`mfa_serial` needs a code from a person, who is not here; use a role whose trust policy asks for none, or \
             `credential_process` with a program that obtains the session"
                .into(),
        );
    }
    let mut role = Role::new(arn, profile.get("role_session_name").unwrap_or(SESSION_NAME));
    role.external_id = profile.get("external_id").map(str::to_owned);
    if let Some(seconds) = profile.get("duration_seconds") {
        let seconds = seconds.parse().map_err(|_| "`duration_seconds` is a number of seconds")?;
        role.duration = Duration::from_secs(seconds);
    }
    role.check().map_err(|(key, why)| {
        let key = match key {
            "session_name" => "role_session_name",
            "max_minutes" => "duration_seconds",
            key => key,
        };
        format!("`{key}`: {why}")
    })?;
    Ok(role)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Variables;
    use super::*;

    const KEYS: &str = "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = hidden-key\n";

    /// The plan of profile `p` in a credentials file with these lines.
    async fn planned(text: &str) -> Result<Option<Plan>, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let pairs = [("AWS_SHARED_CREDENTIALS_FILE", file.path().to_str().unwrap())];
        plan(&SharedFiles::read(&*Variables::of(&pairs)).await.unwrap(), "p")
    }

    async fn refused(text: &str) -> String {
        let detail = planned(text).await.unwrap_err().detail;
        assert!(!detail.contains("hidden"), "{detail}");
        detail
    }

    fn arn(name: &str) -> String {
        format!("role_arn = arn:aws:iam::123456789012:role/{name}\n")
    }

    #[tokio::test]
    async fn keys_in_the_file_are_keys_and_half_of_them_is_an_error() {
        let plan = planned(&format!("[p]\n{KEYS}aws_session_token = t\n")).await.unwrap().unwrap();
        let Base::Keys(keys) = plan.base else { panic!() };
        assert_eq!((keys.secret_key.expose(), keys.session_token.unwrap().expose()), (&b"hidden-key"[..], &b"t"[..]));
        assert!(plan.roles.is_empty());
        for line in KEYS.lines() {
            assert!(refused(&format!("[p]\n{line}\n")).await.contains("without"));
        }
        assert!(
            refused("[p]\naws_access_key_id = x\naws_secret_access_key = hidden\n").await.contains("access key id")
        );
        assert!(planned("[p]\nregion = x\n").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_chain_of_any_length_begins_with_the_innermost_role() {
        let text = format!(
            "[p]\n{}source_profile = b\nexternal_id = ext\nrole_session_name = me\nduration_seconds = 900\n\
             [b]\n{}source_profile = c\n[c]\n{}source_profile = d\n[d]\n{KEYS}{}source_profile = never\n",
            arn("outer"),
            arn("middle"),
            arn("inner"),
            arn("unused"),
        );
        let plan = planned(&text).await.unwrap().unwrap();
        assert!(matches!(plan.base, Base::Keys(_)));
        let names: Vec<_> = plan.roles.iter().map(|role| role.role_arn.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["inner", "middle", "outer"]);
        let outer = &plan.roles[2];
        assert_eq!((outer.external_id.as_deref(), outer.session_name.as_str()), (Some("ext"), "me"));
        assert_eq!((outer.duration.as_secs(), plan.roles[0].session_name.as_str()), (900, SESSION_NAME));
    }

    #[tokio::test]
    async fn a_circle_is_refused_and_a_profile_that_is_its_own_source_is_none() {
        let circle = format!("[p]\n{0}source_profile = b\n[b]\n{0}source_profile = p\n", arn("x"));
        assert!(refused(&circle).await.contains("circle: `p` → `b` → `p`"));
        let own = format!("[p]\n{}{KEYS}source_profile = p\n", arn("x"));
        assert_eq!(planned(&own).await.unwrap().unwrap().roles.len(), 1);
        assert!(refused(&format!("[p]\n{}source_profile = p\n", arn("x"))).await.contains("has no keys"));
        let circle_with_keys = format!("[p]\n{0}{KEYS}source_profile = b\n[b]\n{0}source_profile = p\n", arn("x"));
        assert!(refused(&circle_with_keys).await.contains("circle"));
    }

    #[tokio::test]
    async fn a_source_that_is_not_there_or_has_nothing_is_named() {
        let text = format!("[p]\n{}source_profile = gone\n", arn("x"));
        assert!(refused(&text).await.contains("no profile `gone`"));
        assert!(
            refused(&format!("{text}[gone]\nregion = x\n")).await.contains("profile `gone`: it is a `source_profile`")
        );
    }

    #[tokio::test]
    async fn other_sources_of_a_role_are_told_apart() {
        for (source, is_it) in [
            ("Environment", (|base| matches!(base, Base::Environment)) as fn(&Base) -> bool),
            ("EcsContainer", |base| matches!(base, Base::Container)),
            ("Ec2InstanceMetadata", |base| matches!(base, Base::Instance)),
        ] {
            let plan = planned(&format!("[p]\n{}credential_source = {source}\n", arn("x"))).await.unwrap().unwrap();
            assert!(is_it(&plan.base) && plan.roles.len() == 1, "{source}");
        }
        assert!(refused(&format!("[p]\n{}credential_source = Elsewhere\n", arn("x"))).await.contains("EcsContainer"));
        let text = format!("[p]\n{}web_identity_token_file = /t\n", arn("x"));
        let plan = planned(&text).await.unwrap().unwrap();
        assert!(matches!(plan.base, Base::WebIdentity { file, role } if file == "/t" && role.role_arn.ends_with("/x")));
        assert!(plan.roles.is_empty());
        for more in ["source_profile = b\n", "credential_source = Environment\n"] {
            assert!(refused(&format!("{text}{more}")).await.contains("goes one of"));
        }
        assert!(refused(&format!("[p]\n{}", arn("x"))).await.contains("goes one of"));
        assert!(refused("[p]\nsource_profile = b\n").await.contains("goes `role_arn`"));
    }

    #[tokio::test]
    async fn a_program_is_split_into_words() {
        let plan = planned("[p]\ncredential_process = \"/opt/my tool\" -x 'y z'\n").await.unwrap().unwrap();
        assert!(matches!(plan.base, Base::Process(words) if words == ["/opt/my tool", "-x", "y z"]));
        assert!(refused("[p]\ncredential_process = 'tool\n").await.contains("not closed"));
    }

    #[tokio::test]
    async fn what_needs_a_person_is_refused_with_another_way() {
        for key in ["sso_session", "sso_start_url", "sso_account_id", "login_session"] {
            let said = refused(&format!("[p]\n{key} = x\n{KEYS}")).await;
            assert!(said.contains(key) && said.contains("export-credentials"), "{said}");
        }
        let said = refused(&format!("[p]\n{}source_profile = b\nmfa_serial = hidden\n", arn("x"))).await;
        assert!(said.contains("`mfa_serial`") && said.contains("`credential_process`"), "{said}");
        assert!(planned(&format!("[p]\nmfa_serial = x\n{KEYS}")).await.unwrap().is_some(), "it is for roles");
    }

    #[tokio::test]
    async fn a_role_that_breaks_a_rule_is_named_by_the_files_own_key() {
        for (line, said) in [
            ("role_session_name = a b", "`role_session_name`"),
            ("duration_seconds = 60", "`duration_seconds`"),
            ("duration_seconds = 1h", "`duration_seconds`"),
            ("external_id = hidden id", "`external_id`"),
        ] {
            let said_now = refused(&format!("[p]\n{}source_profile = b\n{line}\n[b]\n{KEYS}", arn("x"))).await;
            assert!(said_now.contains(said), "{said_now}");
        }
    }
}
