//! `countersign policy`: what policies need, and what they may use.

mod inspect;

use clap::{Args, Subcommand};

use super::Failure;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say what policy templates ask for: their credentials blocks, and where each is used
    Inspect(inspect::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    match &arguments.action {
        Action::Inspect(arguments) => inspect::run(arguments),
    }
}
