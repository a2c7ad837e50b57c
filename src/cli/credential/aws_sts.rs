//! `countersign credential setup aws_sts`: what the other side must be told so that it lets a credential in.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::super::client::Target;
use super::super::{Context, Failure, on_terminal};
use super::own_config;
use crate::app::{IntroduceError, Introduced, Parts, introduce};
use crate::scheme::Introduction;
use crate::token::Tokens;
use crate::upstream::system_roots;

#[derive(Args)]
pub(super) struct AwsSts {
    /// The credential [default: the only one of that scheme; without any, this host's own keys]
    #[arg(long, value_name = "ID")]
    pub(super) credential: Option<String>,
}

pub(super) async fn setup(context: &Context, scheme: &str, given: &AwsSts, target: &Target) -> Result<u8, Failure> {
    let config = own_config(context)?;
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
    let introduced = introduce(config, parts, scheme, given.credential.as_deref()).await;
    let Introduced { credential, introduction } = introduced.map_err(|error| match error {
        IntroduceError::Config(errors) => Failure::Config(errors),
        IntroduceError::Other(why) => Failure::Other(why),
    })?;
    if target.json {
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
        say!("{answer}");
    } else {
        say!("{}", in_words(credential.as_deref(), &introduction));
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
