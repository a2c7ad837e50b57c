//! The command line: one file per command.
//!
//! **The only room that prints to standard output.**

/// Prints a line of a command's answer. A reader that has seen enough ends it quietly.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::output::print_line(format_args!($($words)*)) };
}

mod account;
mod ask;
mod audit;
mod binding;
mod ca;
mod caller;
mod check;
mod client;
mod completions;
mod credential;
mod demo;
mod env;
mod explain;
mod inject;
mod output;
mod policy;
mod probe;
mod run;
mod serve;
mod store;
mod token;
mod transparent;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::{Parser, Subcommand};

use crate::app::{LocalAudit, StartError};
use crate::base::{Deps, Environment};
use crate::config::{Config, ConfigError, LogFormat, LogSettings};
use crate::listen::HandedOver;
use crate::observe::Form;

/// It failed.
const FAILED: u8 = 1;
/// The command line is wrong (sysexits EX_USAGE).
const USAGE: u8 = 64;
/// The configuration is wrong (sysexits EX_CONFIG).
const CONFIG: u8 = 78;

#[derive(Parser)]
#[command(
    name = "countersign",
    version,
    about = "A local HTTP proxy that signs other people's requests, so that callers never hold a key",
    after_help = "Start with `countersign demo`; then write a configuration (config/example.yaml shows every key) and run \
                  `countersign check`, `countersign explain GET https://…` and `countersign serve`."
)]
struct Cli {
    /// The configuration file [default: ./countersign.yaml, then /etc/countersign/countersign.yaml]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy
    Serve,
    /// Run a command with proxy and CA variables set for its tools, on a private port
    Run(run::Arguments),
    /// Print the variables that point tools at a proxy and at its bundle
    Env(env::Arguments),
    /// Put a sidecar into the pods that ask for one: a mutating admission webhook, with a configuration of its own
    Inject,
    /// Show everything at work on loopback: real exchanges, verified; nothing to configure
    Demo(demo::Arguments),
    /// Validate the configuration; exit 0, or list every error
    Check,
    /// Say which binding, credential and headers would apply to a call, or why none does
    Explain(explain::Arguments),
    /// Credentials: list, show, put, patch, remove, restore, test, rotate and what comes with them
    Credential(credential::Arguments),
    /// The audit record: check it, or look something up in it
    Audit(audit::Arguments),
    /// Policy templates: what they ask for, what fits, applying them, and running what was applied
    Policy(policy::Arguments),
    /// The accounts that own credentials
    Account(account::Arguments),
    /// Which caller may use which credential where
    Binding(binding::Arguments),
    /// Who may call the proxy, and the tokens that prove it
    Caller(caller::Arguments),
    /// Tokens for the management API
    Token(token::Arguments),
    /// The encrypted store on this host: what it is, its keys, backup
    Store(store::Arguments),
    /// The certificate authority that callers trust: where it is, what it is, the bundle to hand out
    Ca(ca::Arguments),
    /// The rules that lead connections to the transparent listener (Linux): up, down, show
    Transparent(transparent::Arguments),
    /// Ask whether a running Countersign is ready, alive or started; exit 0, or 1 and why not
    Health(probe::Health),
    /// Tell a running Countersign to drain and end, and wait until it has (`admin.quit: true`)
    Quit(probe::Quit),
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Print the manual page, or write one for each command
    Man(completions::Man),
}

/// A failure on its way to an exit code.
#[derive(Debug)]
enum Failure {
    /// The configuration is wrong.
    Config(Vec<ConfigError>),
    /// The command line is wrong in a way that only the command itself can tell.
    Usage(String),
    /// Anything else, said in a sentence.
    Other(String),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(errors) => Self::Config(errors),
            StartError::Other(why) => Self::Other(why),
        }
    }
}

/// Everything a command needs.
struct Context {
    deps: Deps,
    config: Option<PathBuf>,
    colour: bool,
    /// Sockets that this process was started with.
    handed: Arc<HandedOver>,
    /// Closed when the command has ended, however it ended.
    audit: OnceLock<LocalAudit>,
}

impl Context {
    /// What the command changes is on record, and the record ends with it.
    fn closes(&self, audit: LocalAudit) {
        // A command opens the store once.
        let _ = self.audit.set(audit);
    }

    /// The configuration file: the one asked for, or the first of the usual places that exists.
    fn config_path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.config {
            return Ok(path.clone());
        }
        let usual = ["countersign.yaml", "/etc/countersign/countersign.yaml"];
        usual.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            let message = "no configuration: write ./countersign.yaml or /etc/countersign/countersign.yaml, or name one with --config";
            Failure::Config(vec![ConfigError { path: String::new(), line: 0, message: message.into() }])
        })
    }

    fn load(&self) -> Result<(PathBuf, Config), Failure> {
        let path = self.config_path()?;
        let config = Config::load(&path).map_err(Failure::Config)?;
        Ok((path, config))
    }

    /// What a command that is over in a moment has to warn of, and nothing else.
    fn start_quiet_logs(&self) {
        crate::observe::init("warn", Form::Text, self.colour);
    }

    fn start_logs(&self, log: &LogSettings) {
        let form = match log.format {
            LogFormat::Auto => Form::Auto,
            LogFormat::Text => Form::Text,
            LogFormat::Json => Form::Json,
        };
        crate::observe::init(&log.level, form, self.colour);
    }
}

/// Runs the command line and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let logs = crate::observe::Flush;
    let deps = Deps::system();
    let no_colour = deps.environment.variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    // Before there are threads: it changes the environment, so that no child takes them for its own.
    let handed = Arc::new(HandedOver::take());
    let context = Context { colour: !no_colour, config: cli.config, deps, handed, audit: OnceLock::new() };
    // One provider for everything that speaks TLS; a second one in the build would make this fail, not the handshakes.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("countersign: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let result = runtime.block_on(async {
        let result = match cli.command {
            Command::Serve => serve::run(&context).await,
            Command::Run(arguments) => run::run(&context, arguments).await,
            Command::Env(arguments) => env::run(&context, &arguments),
            Command::Inject => inject::run(&context).await,
            Command::Demo(arguments) => demo::run(&context, &arguments).await,
            Command::Check => check::run(&context).await,
            Command::Explain(arguments) => explain::run(&context, &arguments).await,
            Command::Credential(arguments) => credential::run(&context, &arguments).await,
            Command::Policy(arguments) => policy::run(&context, &arguments).await,
            Command::Audit(arguments) => audit::run(&context, &arguments).await,
            Command::Ca(arguments) => ca::run(&context, &arguments),
            Command::Account(arguments) => account::run(&context, &arguments).await,
            Command::Binding(arguments) => binding::run(&context, &arguments).await,
            Command::Caller(arguments) => caller::run(&context, &arguments).await,
            Command::Token(arguments) => token::run(&context, &arguments).await,
            Command::Store(arguments) => store::run(&context, &arguments).await,
            Command::Transparent(arguments) => transparent::run(&context, &arguments),
            Command::Health(arguments) => probe::health(&context, &arguments).await,
            Command::Quit(arguments) => probe::quit(&context, &arguments).await,
            Command::Completions(arguments) => completions::completions(&arguments),
            Command::Man(arguments) => completions::man(&arguments),
        };
        if let Some(audit) = context.audit.get() {
            audit.close().await;
        }
        result
    });
    // A blocking read of a file or a slow DNS look-up must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    drop(logs);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Other(why)) => {
            eprintln!("countersign: {why}");
            ExitCode::from(FAILED)
        }
        Err(Failure::Usage(why)) => {
            eprintln!("countersign: {why}");
            ExitCode::from(USAGE)
        }
        Err(Failure::Config(errors)) => {
            print_errors(context.config_path().ok().as_deref(), &errors);
            ExitCode::from(CONFIG)
        }
    }
}

fn print_errors(path: Option<&Path>, errors: &[ConfigError]) {
    let file = path.map_or_else(String::new, |path| format!("{}: ", path.display()));
    for error in errors {
        eprintln!("countersign: {file}{error}");
    }
}

/// Whether a person reads standard output.
fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A moment as people write it, in the form that the API takes: a date, a time (RFC 3339), or a time from now.
fn moment(context: &Context, text: &str) -> Result<String, String> {
    let date = text.len() == 10 && text.as_bytes().get(4) == Some(&b'-');
    let full = if date { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let now = context.deps.clock.now();
    let at = match humantime::parse_rfc3339(&full) {
        Ok(at) => at,
        Err(_) if date || text.contains(':') => {
            return Err("not a time: write 2027-01-31 or 2027-01-31T12:00:00Z".into());
        }
        Err(_) => {
            let after =
                humantime::parse_duration(text).map_err(|_| "not a time: write 2027-01-31 or 90d".to_owned())?;
            now.checked_add(after).ok_or("too far away")?
        }
    };
    if at <= now {
        return Err("that is over already".into());
    }
    Ok(humantime::format_rfc3339_seconds(at).to_string())
}

/// Raises the limit of open files as far as we may: each caller costs two.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A system that refuses leaves us the limit we had.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Nothing of this process's memory is for a core file, or for another process of the same user to read.
fn protect_memory() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core file of this process would hold secrets, and cannot be forbidden");
    }
}

/// The environment of this process, as tests may replace it.
fn variable(context: &Context, name: &str) -> Option<String> {
    let environment: &dyn Environment = &*context.deps.environment;
    environment.variable(name)
}
