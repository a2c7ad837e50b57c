//! `countersign check`: builds everything and binds nothing.

use std::sync::Arc;

use super::{Context, Failure};
use crate::app::{Parts, build_whole};
use crate::token::Tokens;
use crate::upstream::system_roots;

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let (path, config) = context.load()?;
    let own = Arc::default();
    let roots = system_roots();
    let tokens = Tokens::new(&context.deps);
    let parts = Parts {
        deps: &context.deps,
        roots: &roots,
        own: &own,
        tokens: &tokens,
        stores: None,
        previous: None,
        private: None,
    };
    let built = build_whole(config, parts).await.map_err(Failure::Config)?;
    for warning in &built.warnings {
        eprintln!("countersign: {}: warning: {warning}", path.display());
    }
    if !built.unresolved.is_empty() {
        return Err(Failure::Config(built.unresolved));
    }
    say!(
        "{}: {} credentials, {} listeners, everything in order",
        path.display(),
        built.state.routes.credentials().len(),
        built.doors.len()
    );
    Ok(0)
}
