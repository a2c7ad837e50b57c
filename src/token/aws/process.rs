//! `credential_process`: a program whose output is keys.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>

use std::time::SystemTime;

use super::keys::{Document, Issued};
use crate::source;
use crate::token::{Failure, FailureKind};

/// The words of a command line, quotes read as a POSIX shell reads them. No shell runs it: nothing else in it is special.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    match shlex::split(line) {
        Some(words) if !words.is_empty() => Ok(words),
        Some(_) => Err("`credential_process` names no program".into()),
        None => Err("`credential_process` has a quote that is not closed".into()),
    }
}

/// Runs the program, for 30 seconds at most, and reads its output.
///
/// # Errors
/// When it fails, or its output is not what AWS describes; nothing of the output is repeated.
pub(super) async fn run(words: &[String], source: &'static str, now: SystemTime) -> Result<Issued, Failure> {
    let failed = |why: String| Failure::new(FailureKind::Unavailable, format!("`credential_process`: {why}"));
    let output = source::run(words).await.map_err(|why| failed(why.0))?;
    let unusable = |why: String| failed(format!("the output of {} cannot be used: {why}", words[0]));
    let document = Document::read(output.expose()).map_err(unusable)?;
    if document.version != Some(1) {
        return Err(unusable("its Version is not 1".into()));
    }
    document.keys(source, now).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let split = |line: &str| words(line).unwrap();
        assert_eq!(
            split(r#"/opt/my\ tool --name "a b" 'c "d' e"f"'g'"#),
            ["/opt/my tool", "--name", "a b", "c \"d", "efg"]
        );
        assert_eq!(split("tool $HOME; `ls` | x > y"), ["tool", "$HOME;", "`ls`", "|", "x", ">", "y"]);
        assert!(words("tool \"open").unwrap_err().contains("not closed"));
        assert!(words("  ").unwrap_err().contains("no program"));
    }

    async fn output(text: &str) -> Result<Issued, Failure> {
        run(&["printf".into(), "%s".into(), text.into()], "x", SystemTime::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn the_output_is_keys_of_version_1() {
        let good = r#"{"Version":1,"AccessKeyId":"AKIAIOSFODNN7EXAMPLE","SecretAccessKey":"hidden","SessionToken":"t",
            "Expiration":"2030-01-01T00:00:00Z"}"#;
        let issued = output(good).await.unwrap();
        assert_eq!(issued.keys.session_token.unwrap().expose(), b"t");
        assert!(issued.expires_at.is_some());
        assert!(output(&good.replace("2030", "1960")).await.unwrap_err().detail.contains("ended at"));
        for bad in [
            good.replace("\"Version\":1", "\"Version\":2"),
            good.replace("\"Version\":1,", ""),
            "hidden".into(),
            String::new(),
        ] {
            let failure = output(&bad).await.unwrap_err();
            assert!(
                failure.detail.contains("printf cannot be used") && !failure.detail.contains("hidden"),
                "{failure}"
            );
        }
        let failure = run(&["false".into()], "x", SystemTime::UNIX_EPOCH).await.unwrap_err();
        assert!(failure.detail.starts_with("`credential_process`: command false"), "{failure}");
    }
}
