//! The command source: a program's standard output is the secret.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{MAX_SECRET_BYTES, Unavailable};
use crate::base::Secret;

/// A helper that asks a person or a network may take a while; one that hangs must not hang us.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the program without a shell, its standard input closed, its standard error left to the operator's terminal.
///
/// # Errors
/// When it cannot be started, fails, takes longer than 30 seconds or prints more than 1 MiB.
pub async fn run(command: &[String]) -> Result<Secret, Unavailable> {
    let [program, arguments @ ..] = command else {
        return Err(Unavailable("a command needs a program".into()));
    };
    let fail = |why: String| Unavailable(format!("command {program}: {why}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    let stdout = child.stdout.take();
    let finished = tokio::time::timeout(TIMEOUT, async {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_SECRET_BYTES + 1).read_to_end(&mut output).await?;
        }
        Ok::<_, std::io::Error>((output, child.wait().await?))
    })
    .await;
    match finished {
        Err(_) => Err(fail(format!("no answer within {} s", TIMEOUT.as_secs()))),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Ok(Ok((output, _))) if output.len() as u64 > MAX_SECRET_BYTES => Err(fail("it printed more than 1 MiB".into())),
        Ok(Ok((output, status))) if status.success() => Ok(Secret::from_text(output)),
        Ok(Ok((_, status))) => Err(fail(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<Secret, Unavailable> {
        run(&["sh".into(), "-c".into(), script.into()]).await
    }

    #[tokio::test]
    async fn standard_output_is_the_secret() {
        assert_eq!(shell("echo key").await.unwrap().expose(), b"key");
    }

    #[tokio::test]
    async fn a_failing_command_gives_its_status_and_nothing_that_it_printed() {
        let error = shell("echo half-a-key; exit 3").await.unwrap_err().0;
        assert!(error.contains('3') && !error.contains("half-a-key"), "{error}");
        assert!(run(&["/no/such/program".into()]).await.is_err());
    }
}
