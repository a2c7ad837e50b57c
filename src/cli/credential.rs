//! `countersign credential`: what a person does with one credential.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Context, Failure, on_terminal};
use crate::app::{IntroduceError, Introduced, Parts, introduce};
use crate::config::Config;
use crate::scheme::Introduction;
use crate::token::Tokens;
use crate::upstream::system_roots;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print what the other side must be told so that it lets a credential in: for aws_sts, the account to trust, an
    /// external id and the trust policy to paste
    Setup(SetupArguments),
}

#[derive(Args)]
struct SetupArguments {
    /// The scheme
    #[arg(value_name = "SCHEME", default_value = "aws_sts")]
    scheme: String,
    /// The credential [default: the only one of that scheme; without any, this host's own keys]
    #[arg(long, value_name = "ID")]
    credential: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let Action::Setup(arguments) = &arguments.action;
    setup(context, arguments).await
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
async fn setup(context: &Context, arguments: &SetupArguments) -> Result<u8, Failure> {
    // Whoever has no configuration yet is just about to write one.
    let config = match context.load() {
        Ok((_, config)) => config,
        Err(_) if context.config.is_none() && context.config_path().is_err() => {
            Config::parse("").map_err(Failure::Config)?
        }
        Err(failure) => return Err(failure),
    };
    let (own, roots, tokens) = (Arc::default(), system_roots(), Tokens::new(&context.deps));
    let parts = Parts {
        deps: &context.deps,
        roots: &roots,
        own: &own,
        tokens: &tokens,
        stores: None,
        previous: None,
        private: None,
    };
    let introduced = introduce(config, parts, &arguments.scheme, arguments.credential.as_deref()).await;
    let Introduced { credential, introduction } = introduced.map_err(|error| match error {
        IntroduceError::Config(errors) => Failure::Config(errors),
        IntroduceError::Other(why) => Failure::Other(why),
    })?;
    if arguments.json {
        let facts = introduction.facts.iter().map(|(name, value)| ((*name).replace(' ', "_"), value.clone().into()));
        let documents = introduction.documents.iter().map(|(name, value)| json!({ "name": name, "document": value }));
        let mut answer = json!({
            "credential": credential,
            "documents": documents.collect::<Vec<_>>(),
            "missing": introduction.missing,
        });
        if let serde_json::Value::Object(answer) = &mut answer {
            answer.extend(facts.collect::<serde_json::Map<_, _>>());
        }
        println!("{answer}");
    } else {
        println!("{}", in_words(credential.as_deref(), &introduction));
    }
    for missing in introduction.notes.iter().chain(&introduction.missing) {
        eprintln!("countersign: {missing}");
    }
    Ok(u8::from(!introduction.missing.is_empty()))
}

fn in_words(credential: Option<&str>, introduction: &Introduction) -> String {
    let mut lines = Vec::new();
    if on_terminal() {
        let whose = credential.map_or_else(|| "this host's own keys".to_owned(), |id| format!("credential {id}"));
        lines.push(format!("For {whose}, give the owner of the role this:\n"));
    }
    let width = introduction.facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.extend(introduction.facts.iter().map(|(name, value)| format!("{name:width$}  {value}")));
    for (name, document) in &introduction.documents {
        lines.push(format!("\n{name}:\n{document:#}"));
    }
    lines.join("\n")
}
