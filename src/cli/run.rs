//! `countersign run -- COMMAND…`: a private proxy for one command, its tools pointed at it, nothing left behind.

mod azure;
mod endpoint;
mod google;
mod oracle;
mod signals;
mod stand_ins;
mod supervise;

use std::ffi::OsString;

use clap::Args;

pub(super) use self::signals::Signals;
pub(super) use self::stand_ins::StandIns;
pub(super) use self::supervise::{Way, supervise};
use super::{Context, Failure, protect_memory, raise_file_limit};
use crate::app::{App, Private};
use crate::base::SecretRef;
use crate::config::Config;

#[derive(Args)]
pub(super) struct Arguments {
    /// The credential that every request means, unless it names another
    #[arg(long, value_name = "ID")]
    credential: Option<String>,
    /// Which caller the command is, where bindings name callers
    #[arg(long, value_name = "NAME", default_value = crate::route::LOCAL)]
    caller: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<u8, Failure> {
    let (_, mut config) = context.load()?;
    // The command's own output must stay readable: only what goes wrong is said, unless the file asks for more.
    if !config.document.has("log.level") {
        config.log.level = "warn".into();
    }
    context.start_logs(&config.log);
    raise_file_limit();
    protect_memory();
    let enabled = config.credentials.iter().filter(|one| one.enabled);
    let stand_ins = StandIns::of(&enabled.map(|one| one.kind.name).collect::<Vec<_>>(), oracle::tenancy(&config));
    // From here on no signal ends us before what we made is gone again.
    let mut signals = Signals::new().map_err(|error| Failure::Other(error.to_string()))?;
    let hidden = variables_of(&config);
    let private = Private::Command { caller: arguments.caller, credential: arguments.credential };
    let app = tokio::select! {
        app = App::start_private(config, context.deps.clone(), private) => app?,
        number = signals.before() => return Ok(128 + number),
    };
    let way = Way::to(&app)?;
    let code = supervise(context, &way, &arguments.command, &hidden, stand_ins, &mut signals).await;
    // A second signal ends us at once, whatever is still under way.
    tokio::select! {
        _ = app.drain() => {}
        _ = signals.before() => {}
    }
    code
}

/// What Countersign reads from the environment, which is not for the command.
pub(super) fn variables_of(config: &Config) -> Vec<String> {
    let named = |reference: &SecretRef| match reference {
        SecretRef::Env { env } => Some(env.clone()),
        _ => None,
    };
    config.references().into_iter().filter_map(named).collect()
}
