//! The shared `config` and `credentials` files, read into profiles.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>,
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-location.html>

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};
use zeroize::Zeroizing;

use super::metadata::{misconfigured, variable};
use crate::base::{Environment, Secret};
use crate::token::Failure;

/// A larger file is no configuration.
const LARGEST: u64 = 1024 * 1024;

/// The parts of one set of keys.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// What one profile says, by key in lower case. Any value may be a secret.
#[derive(Default, Clone)]
pub(super) struct Profile(BTreeMap<String, Secret>);

impl Profile {
    /// The value of a key; an empty one counts as none.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Secret::expose_str).filter(|value| !value.is_empty())
    }

    /// The first key that begins so and has a value.
    pub(super) fn key_beginning(&self, start: &str) -> Option<&str> {
        self.0.keys().map(String::as_str).find(|key| key.starts_with(start) && self.get(key).is_some())
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter()).finish()
    }
}

/// The profiles of both files.
#[derive(Debug)]
pub(super) struct SharedFiles {
    profiles: BTreeMap<String, Profile>,
    /// Where they were looked for.
    pub(super) places: String,
}

/// Which of the two: they name their sections differently.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Config,
    Credentials,
}

impl SharedFiles {
    /// Reads both files. One that does not exist is empty.
    ///
    /// # Errors
    /// When one cannot be read or a line of it cannot be understood.
    pub(super) async fn read(environment: &dyn Environment) -> Result<Self, Failure> {
        let mut profiles = BTreeMap::<String, Profile>::new();
        let mut places = Vec::new();
        // The credentials file comes second: it wins.
        for (kind, name, usual) in [
            (Kind::Config, "AWS_CONFIG_FILE", ".aws/config"),
            (Kind::Credentials, "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
        ] {
            let Some(path) = place(environment, name, usual) else { continue };
            places.push(path.display().to_string());
            let failed = |why: String| misconfigured(format!("file {}: {why}", path.display()));
            let Some(text) = content(&path).await.map_err(failed)? else { continue };
            for (name, profile) in parse(&text, kind).map_err(failed)? {
                let known = profiles.entry(name).or_default();
                // Keys belong together: a token of one file does not go with the keys of the other.
                if profile.get("aws_access_key_id").is_some() {
                    known.0.retain(|key, _| !KEYS.contains(&key.as_str()));
                }
                known.0.extend(profile.0);
            }
        }
        let places = if places.is_empty() { "no file, since HOME is not set".to_owned() } else { places.join(" and ") };
        Ok(Self { profiles, places })
    }

    /// A profile, if either file has it.
    pub(super) fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }
}

/// The path that a variable names, or the usual one in the home directory.
fn place(environment: &dyn Environment, name: &str, usual: &str) -> Option<PathBuf> {
    let home = || variable(environment, "HOME").or_else(|| variable(environment, "USERPROFILE")).map(PathBuf::from);
    match variable(environment, name) {
        Some(path) => Some(match path.strip_prefix("~/") {
            Some(rest) => home()?.join(rest),
            None => PathBuf::from(path),
        }),
        None => Some(home()?.join(usual)),
    }
}

async fn content(path: &Path) -> Result<Option<Zeroizing<String>>, String> {
    let length = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > LARGEST {
        return Err("it is larger than 1 MiB".into());
    }
    let bytes = tokio::fs::read(path).await.map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map(|text| Some(Zeroizing::new(text))).map_err(|_| "it is not UTF-8".into())
}

fn parse(text: &str, kind: Kind) -> Result<Vec<(String, Profile)>, String> {
    let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    let plain = plain(text)?;
    // What the parser says of an error may quote the file, and lines were left out before.
    let ini = Ini::load_from_str_opt(&plain, options).map_err(|_| "it is not an INI file".to_owned())?;
    let mut profiles = BTreeMap::<(String, bool), Profile>::new();
    for (section, properties) in &ini {
        let Some((name, is_marked)) = section.and_then(|section| profile_name(section, kind)) else { continue };
        let profile = profiles.entry((name, is_marked)).or_default();
        for (key, value) in properties.iter() {
            profile.0.insert(key.to_owned(), Secret::new(value));
        }
    }
    // `[profile default]` and `[default]` are the same profile, and the first hides the second.
    if profiles.contains_key(&("default".to_owned(), true)) {
        profiles.remove(&("default".to_owned(), false));
    }
    Ok(profiles.into_iter().map(|((name, _), profile)| (name, profile)).collect())
}

/// The profile that a section is about, and whether it says `profile`. Other sections (`sso-session`, `services`) are
/// about something else.
fn profile_name(section: &str, kind: Kind) -> Option<(String, bool)> {
    let section = section.trim();
    match kind {
        Kind::Credentials => Some((section.to_owned(), false)),
        Kind::Config if section == "default" => Some((section.to_owned(), false)),
        Kind::Config => {
            let name = section.strip_prefix("profile")?;
            let name = name.starts_with([' ', '\t']).then(|| name.trim())?;
            let quoted = ['"', '\''].iter().find_map(|quote| name.strip_prefix(*quote)?.strip_suffix(*quote));
            Some((quoted.unwrap_or(name).to_owned(), true))
        }
    }
}

/// The file without what AWS allows in it and INI parsers read otherwise: comments behind a value, nested settings
/// (`s3 =` with indented lines below), values that go on in an indented line, white space before keys.
///
/// # Errors
/// The number of a line that is neither a section nor `key = value`.
fn plain(text: &str) -> Result<Zeroizing<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut plain = Zeroizing::new(String::with_capacity(text.len() + 1));
    let mut in_section = false;
    // How far the last key was indented, and whether its value is empty.
    let mut last: Option<(usize, bool)> = None;
    for (index, line) in text.lines().enumerate() {
        let fault = |why: &str| Err(format!("line {}: {why}", index + 1));
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        // A command may hold what begins a comment elsewhere.
        let is_command = content.to_ascii_lowercase().starts_with("credential_process");
        let content = if is_command { content } else { without_comment(content).trim_end() };
        if content.chars().any(|c| c.is_control() && c != '\t') || content.ends_with('\\') {
            return fault("it has a control character, or ends in a backslash");
        }
        let indent = line.len() - line.trim_start().len();
        if let Some(section) = content.strip_prefix('[') {
            let Some(name) = section.strip_suffix(']').filter(|name| !name.contains([']', '['])) else {
                return fault("a section is written `[name]`");
            };
            plain.extend(["\n[", name, "]"]);
            (in_section, last) = (true, None);
            continue;
        }
        if let Some((before, is_nested)) = last.filter(|(before, _)| indent > *before) {
            if !is_nested {
                plain.extend([" ", content]);
            }
            last = Some((before, is_nested));
            continue;
        }
        let (key, value) = content.split_once(['=', ':']).unwrap_or_default();
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || !in_section {
            return fault("write `key = value`, below a `[section]`");
        }
        plain.extend(["\n", &key.to_ascii_lowercase(), "=", value]);
        last = Some((indent, value.is_empty()));
    }
    plain.push('\n');
    Ok(plain)
}

/// A comment begins with `#` or `;` behind white space.
fn without_comment(content: &str) -> &str {
    let mut was_space = false;
    for (index, c) in content.char_indices() {
        if was_space && matches!(c, '#' | ';') {
            return &content[..index];
        }
        was_space = c.is_whitespace();
    }
    content
}

#[cfg(test)]
mod tests {
    use super::super::testing::Variables;
    use super::*;

    fn parsed(text: &str, kind: Kind) -> BTreeMap<String, Profile> {
        parse(text, kind).unwrap().into_iter().collect()
    }

    #[test]
    fn a_colon_divides_too_and_a_command_is_taken_whole() {
        let text = "[default]\ncli_pager: less\nregion = a:b\ncredential_process = sh -c \"true ; x #1\"\n";
        let default = &parsed(text, Kind::Config)["default"];
        assert_eq!((default.get("cli_pager"), default.get("region")), (Some("less"), Some("a:b")));
        assert_eq!(default.get("credential_process"), Some("sh -c \"true ; x #1\""));
    }

    #[tokio::test]
    async fn keys_of_one_file_do_not_go_with_the_token_of_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let old = "[default]\naws_access_key_id=OLD\naws_secret_access_key=o\naws_session_token=stale\nregion=x\n";
        let config = file("config", old);
        let credentials = file("credentials", "[default]\naws_access_key_id=NEW\naws_secret_access_key=n\n");
        let variables = [("AWS_CONFIG_FILE", &*config), ("AWS_SHARED_CREDENTIALS_FILE", &*credentials)];
        let files = SharedFiles::read(&*Variables::of(&variables)).await.unwrap();
        let default = files.profile("default").unwrap();
        assert_eq!((default.get("aws_access_key_id"), default.get("aws_session_token")), (Some("NEW"), None));
        assert_eq!(default.get("region"), Some("x"));
    }

    #[test]
    fn sections_comments_and_nested_settings_are_read_as_aws_means_them() {
        let text = "\u{feff}# a comment\r\n\r\n[default]\r\nregion = eu-west-1 ; behind a value\r\n  ; indented\r\n\
            s3 =\r\n  max_concurrent_requests = 20\r\n  addressing_style = path\r\nOutput=json\r\n\r\n\
            [ profile  \"two words\" ] # here too\r\n\taws_access_key_id\t=\tAKIA#;1\r\n\taws_secret_access_key = a=b\\c\"d:e'f\r\n\
            [sso-session s]\r\nsso_region = x\r\n[plain]\r\nregion = ignored\r\n[profile]\r\n[profiles x]\r\n\
            [profile long]\r\ncredential_process = a\r\n  b c\r\n";
        let profiles = parsed(text, Kind::Config);
        assert_eq!(profiles.keys().collect::<Vec<_>>(), ["default", "long", "two words"]);
        let default = &profiles["default"];
        assert_eq!((default.get("region"), default.get("output")), (Some("eu-west-1"), Some("json")));
        assert_eq!((default.get("s3"), default.get("addressing_style")), (None, None));
        let two = &profiles["two words"];
        assert_eq!(two.get("aws_access_key_id"), Some("AKIA#;1"));
        assert_eq!(two.get("aws_secret_access_key"), Some("a=b\\c\"d:e'f"));
        assert_eq!(profiles["long"].get("credential_process"), Some("a b c"));
    }

    #[test]
    fn sections_that_stand_twice_are_one_and_the_later_value_counts() {
        let text = "[a]\nregion = 1\nrole_arn = r\n[b]\nregion = 2\n[a]\nregion = 3\nregion = 4\n";
        let a = &parsed(text, Kind::Credentials)["a"];
        assert_eq!((a.get("region"), a.get("role_arn")), (Some("4"), Some("r")));
        let twice = parsed("[profile default]\nregion = 1\n[default]\nregion = 2\noutput = x\n", Kind::Config);
        assert_eq!((twice["default"].get("region"), twice["default"].get("output")), (Some("1"), None));
    }

    #[test]
    fn the_files_name_their_sections_differently() {
        let text = "[default]\na=1\n[profile x]\na=2\n[y]\na=3\n";
        assert_eq!(parsed(text, Kind::Config).into_keys().collect::<Vec<_>>(), ["default", "x"]);
        assert_eq!(parsed(text, Kind::Credentials).into_keys().collect::<Vec<_>>(), ["default", "profile x", "y"]);
    }

    #[test]
    fn a_line_that_is_nothing_is_named_and_not_repeated() {
        for (text, line) in [
            ("[a]\n\nhidden\n", "line 3"),
            ("[a\nx=1", "line 1"),
            ("x=hidden\n[a]", "line 1"),
            ("[a]\n=hidden", "line 2"),
            ("[a]\nx=hidden\\\ny=2", "line 2"),
            ("[a]\nx=hid\u{1}den", "line 2"),
            ("[a]\nx=1\rrole_arn=hidden", "line 2"),
            ("[a] hidden", "line 1"),
        ] {
            let error = parse(text, Kind::Credentials).map(|_| ()).unwrap_err();
            assert!(error.starts_with(line) && !error.contains("hidden"), "{text}: {error}");
        }
        assert!(parsed("", Kind::Config).is_empty() && parsed("\n# x\n", Kind::Config).is_empty());
    }

    #[tokio::test]
    async fn both_files_are_read_and_the_credentials_file_wins() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/config"), "[profile a]\nregion=r\naws_access_key_id=old\n").unwrap();
        std::fs::write(home.path().join(".aws/credentials"), "[a]\naws_access_key_id=new\n[b]\nregion=s\n").unwrap();
        let path = home.path().to_str().unwrap();
        for name in ["HOME", "USERPROFILE"] {
            let files = SharedFiles::read(&*Variables::of(&[(name, path)])).await.unwrap();
            let a = files.profile("a").unwrap();
            assert_eq!((a.get("region"), a.get("aws_access_key_id")), (Some("r"), Some("new")));
            assert!(files.profile("b").is_some() && files.profile("c").is_none());
            assert!(files.places.contains(".aws/config") && files.places.contains(".aws/credentials"));
            assert!(!format!("{files:?}").contains("new"));
        }
        std::fs::write(home.path().join("other"), "[profile o]\nregion=x\n").unwrap();
        for other in ["~/other", home.path().join("other").to_str().unwrap()] {
            let pairs = [("HOME", path), ("AWS_CONFIG_FILE", other), ("AWS_SHARED_CREDENTIALS_FILE", "/no/such/file")];
            let files = SharedFiles::read(&*Variables::of(&pairs)).await.unwrap();
            assert!(files.profile("o").is_some() && files.profile("a").is_none(), "{other}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named_and_no_home_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let failure = SharedFiles::read(&*Variables::of(&[("AWS_CONFIG_FILE", path)])).await.unwrap_err();
        assert!(failure.detail.contains(path), "{failure}");
        let binary = directory.path().join("binary");
        std::fs::write(&binary, b"[a]\nx=\xff").unwrap();
        let pairs = [("AWS_SHARED_CREDENTIALS_FILE", binary.to_str().unwrap())];
        assert!(SharedFiles::read(&*Variables::of(&pairs)).await.unwrap_err().detail.contains("not UTF-8"));
        assert!(SharedFiles::read(&*Variables::of(&[])).await.unwrap().places.contains("HOME is not set"));
    }
}
